"""One day of the ECB's euro reference rates: extract, transform, send and load."""
