"""Tests of `maintenance`."""
