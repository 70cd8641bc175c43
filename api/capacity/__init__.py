"""How much one API process does at once, and for whom."""
