"""What the author of a step imports and what a worker calls; no I/O."""
