"""Chaos tests: faults injected into real processes and services."""
