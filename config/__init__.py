"""What may differ between two deployments."""
