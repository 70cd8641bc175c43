"""One day of the ECB's euro reference rates: read, turned into series, handed over and loaded."""
