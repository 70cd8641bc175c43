"""Building blocks of every API; they know no resource and no contract."""
