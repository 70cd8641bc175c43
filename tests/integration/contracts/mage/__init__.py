"""Mage's pipeline runs."""
