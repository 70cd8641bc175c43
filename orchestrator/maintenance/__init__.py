"""The sweeps, the invariants, doctor and repair."""
