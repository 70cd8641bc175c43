"""Everything on one machine: embedded services, the supervisor, the stack."""
