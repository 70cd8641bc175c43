"""OpenDataDSL process execution, as its documentation and its clients have it."""
