"""The API for the author of a step, and its counterpart for workers; no I/O."""
