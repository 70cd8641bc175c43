"""The sweeps, the invariants, and the doctor."""
