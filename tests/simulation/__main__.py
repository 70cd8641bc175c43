"""`make simulate`: play many seeds, or one; a seed that fails prints a short history."""

import argparse
import sys
import time

from tests.conftest import own_services
from tests.simulation.hunt import explain, hunt, prepare


def main() -> int:
    """Play what the command line asks for, on services of its own."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--seed", type=int, help="only this one, and tell all of it")
    asked.add_argument("--seeds", type=int, default=2000, help="how many")
    asked.add_argument("--first", type=int, default=0, help="where to begin")
    given = asked.parse_args()
    with own_services() as services:
        prepare(services.database_url)
        if given.seed is not None:
            print(explain(services.database_url, given.seed))
            return 0
        return _play(services.database_url, range(given.first, given.first + given.seeds))


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
