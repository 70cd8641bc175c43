"""A constant load for a long time, and the growth of resources meanwhile."""
