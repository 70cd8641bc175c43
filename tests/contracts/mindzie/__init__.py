"""Tests of mindzie's execution jobs."""
