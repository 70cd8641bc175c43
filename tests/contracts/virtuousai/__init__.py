"""Tests of VirtuousAI's automation runs."""
