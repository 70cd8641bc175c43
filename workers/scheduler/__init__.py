"""The scheduler process: it runs the sweeps and sends webhooks and mail."""
