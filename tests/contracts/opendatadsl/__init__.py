"""OpenDataDSL process execution as documented and as its clients use it."""
