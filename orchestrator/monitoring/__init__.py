"""The state of the system: workers, queues, backlog, run counts, throughput, status."""
