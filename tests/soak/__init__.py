"""A load that stays the same for long, and what grows meanwhile."""
