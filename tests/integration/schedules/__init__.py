"""Tests of `schedules`."""
