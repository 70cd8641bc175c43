"""A client without a key."""

import pytest
from flask.testing import FlaskClient


@pytest.fixture
def nobody(client: FlaskClient) -> FlaskClient:
    """A client without a key."""
    return client.application.test_client(use_cookies=False)
