"""Definitions as data: parse, validate, templates, graph, retry policy, cron; no I/O."""
