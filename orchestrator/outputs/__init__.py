"""What steps leave: logs, progress, summaries, artifacts and their store."""
