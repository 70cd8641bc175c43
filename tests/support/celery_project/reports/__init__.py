"""A part of the project whose tasks are discovered."""
