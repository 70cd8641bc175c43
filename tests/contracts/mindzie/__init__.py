"""Execution jobs as the published clients speak to them."""
