"""`make simulate`: play many seeds, or one; a seed that fails prints a short history."""

import argparse
import sys
import time

from tests.conftest import own_services
from tests.simulation.hunt import explain, hunt, prepare


def main() -> int:
    """Play the seeds of the command line, on services of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, help="play only this one, and print its history")
    parser.add_argument("--seeds", type=int, default=2000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    options = parser.parse_args()
    with own_services() as services:
        prepare(services.database_url)
        if options.seed is not None:
            print(explain(services.database_url, options.seed))
            return 0
        return _play(services.database_url, range(options.first, options.first + options.seeds))


def _play(database_url: str, seeds: range) -> int:
    began = time.monotonic()
    for played, failing in hunt(database_url, seeds):
        rate = played / (time.monotonic() - began)
        print(f"{played} of {len(seeds)} seeds, {rate:.0f} a second", flush=True)
        if failing is not None:
            print(explain(database_url, failing))
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
