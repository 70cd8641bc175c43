"""Tenants, projects, keys, who is calling, signatures and secrets."""
