"""The paths of the published APIs, the setting that chooses them, and their documents."""

import json
import re
from dataclasses import replace

import pytest
from flask.testing import FlaskClient

from api import contracts
from api.app import create_app
from api.contracts import CONTRACTS
from config.settings import Settings

NAMES = [contract.name for contract in CONTRACTS]


def test_contracts_do_not_claim_each_others_addresses(client: FlaskClient) -> None:
    for rule in client.application.url_map.iter_rules():
        path = rule.rule.replace("<", "").replace(">", "").replace(":", "")
        owners = [contract.name for contract in CONTRACTS if contract.owns(path)]
        blueprint = rule.endpoint.partition(".")[0]
        if blueprint in NAMES:
            assert owners == [blueprint], rule.rule
        else:
            assert owners == [], rule.rule


def test_the_setting_chooses_the_contracts() -> None:
    assert [each.name for each in contracts.select(["all"])] == NAMES
    assert [each.name for each in contracts.select(["mage", "mindzie"])] == ["mage", "mindzie"]
    assert contracts.select([]) == []
    with pytest.raises(ValueError, match="unknown contract 'magee'; there are all, opendatadsl"):
        contracts.select(["magee"])


def test_what_is_not_served_is_not_there(settings: Settings) -> None:
    app = create_app(replace(settings, contracts=("mage",)))
    client = app.test_client()

    assert client.get("/openapi/mage.json").status_code == 200
    assert client.get("/openapi/mindzie.json").status_code == 404
    config = re.search(r"user_config = ({.*?});", client.get("/docs/").text)
    assert config is not None
    assert [each["name"] for each in json.loads(config[1])["urls"]] == [
        "Orchestrator", "Mage pipeline runs",
    ]  # fmt: skip


@pytest.mark.parametrize("contract", CONTRACTS, ids=NAMES)
def test_each_has_a_document_of_its_own(client: FlaskClient, contract: contracts.Contract) -> None:
    document = client.get(f"/openapi/{contract.name}.json").json
    assert document is not None
    served = {
        (method.lower(), re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in client.application.url_map.iter_rules()
        if rule.endpoint.startswith(f"{contract.name}.")
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    documented = {
        (method, address)
        for address, path in document["paths"].items()
        for method in path
        if method != "parameters"
    }

    assert document["info"]["title"] == contract.title
    assert document["components"]["securitySchemes"]
    assert documented == served
    for method, address in documented:
        assert document["paths"][address][method]["summary"], (method, address)


def test_all_of_them_are_listed_in_the_pages(client: FlaskClient) -> None:
    page = client.get("/docs/").text

    for contract in CONTRACTS:
        assert f"/openapi/{contract.name}.json" in page
        assert contract.title in page
