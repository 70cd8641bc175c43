"""See the README's section on tests."""
