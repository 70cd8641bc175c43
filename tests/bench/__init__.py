"""One script per question; `make bench` runs all, `make bench B=chain_of_40` one."""
