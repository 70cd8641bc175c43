"""The REST API: translates between HTTP and the core, decides nothing."""
