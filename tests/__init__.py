"""Unit, integration, e2e and chaos tests, and the benches."""
