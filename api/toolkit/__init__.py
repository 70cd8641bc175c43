"""What every surface is built from; it knows no resource and no contract."""
