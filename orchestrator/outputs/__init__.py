"""The output of steps: logs, progress, summaries, artifacts and their store."""
