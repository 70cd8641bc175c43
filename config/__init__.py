"""What may differ between two deployments; imports nothing of ours."""
