"""SolveXia's API: what is particular to it."""
