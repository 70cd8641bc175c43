"""How a run goes on: admission, publishing, claims, leases, outcomes, concurrency keys."""
