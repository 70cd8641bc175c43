"""How the system does: workers, queues, backlog, counts, throughput, status."""
