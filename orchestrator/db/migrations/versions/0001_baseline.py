"""The schema of release 0.1.0, which `migrate` creates from the models: nothing to upgrade from."""

revision = "0001"
down_revision = None
