"""The reference tenant, asked with its key."""

import pytest
from flask.testing import FlaskClient

from tests.support import reference_tenant


@pytest.fixture
def api(reference_api: FlaskClient) -> FlaskClient:
    """The reference tenant, asked with its key."""
    reference_api.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {reference_tenant.SECRET}"
    return reference_api
