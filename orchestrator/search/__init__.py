"""Conditions over runs as data, compiled to SQL."""
