"""Tenants, projects, keys, authentication, signatures and secrets."""
