"""One script for each question; `make bench` runs them all, `make bench B=w1` one."""
