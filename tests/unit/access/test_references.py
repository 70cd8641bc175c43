"""References to secrets: which are resolved, for whom, and from where."""

from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from config.settings import Settings
from orchestrator.access.references import (
    MAX_SECRET,
    Resolver,
    SecretMissing,
    SecretSources,
    SecretUnavailable,
    VaultMissing,
)

VALUES = {"TOKEN": "hush-token", "A": "{{ params.a }} secret://TOKEN", "b_2-c": "hush-b"}


def vault(tenant: str, name: str) -> str | None:
    """A vault with one secret of `acme`, that fails for one name."""
    if name == "DOWN":
        raise TimeoutError("hush-vault is away")
    if name == "NUMBER":
        return 7  # type: ignore[return-value]
    return {"acme TOKEN": "hush-vault"}[f"{tenant} {name}"]


@pytest.fixture
def resolver() -> Resolver:
    """A resolver of VALUES."""
    return Resolver(VALUES.__getitem__)


@pytest.mark.parametrize(
    ("document", "resolved"),
    [
        ("secret://TOKEN", "hush-token"),
        ("Bearer secret://TOKEN", "Bearer hush-token"),
        ("https://h/botsecret://TOKEN/send?x=secret://b_2-c.", "https://h/bothush-token/send?x=hush-b."),
        ({"a": [{"b": "secret://TOKEN"}, 1, None]}, {"a": [{"b": "hush-token"}, 1, None]}),
        ({"secret://TOKEN": 1}, {"secret://TOKEN": 1}),  # a name is no place for one
        ("Secret://TOKEN secret:/TOKEN", "Secret://TOKEN secret:/TOKEN"),
        ("secret://A", "{{ params.a }} secret://TOKEN"),  # what a secret has in it is no reference
        ({}, {}),
    ],
)  # fmt: skip
def test_a_reference_is_resolved_wherever_it_stands(
    resolver: Resolver, document: object, resolved: object
) -> None:
    assert resolver.reveal(resolver.seal(document)) == resolved


@pytest.mark.parametrize(
    "text",
    ["secret://", "secret:// x", "secret://1A", "secret://../a", "secret:///etc/passwd",
     f"secret://{'x' * 101}", "secret://ü", "secret://{{ params.name }}"],
)  # fmt: skip
def test_a_reference_without_a_valid_name_is_refused(resolver: Resolver, text: str) -> None:
    with pytest.raises(SecretMissing, match="is followed by a name: a letter"):
        resolver.seal({"x": [text]})


def test_what_was_not_sealed_is_never_resolved(resolver: Resolver) -> None:
    sealed = resolver.seal({"own": "secret://TOKEN"})
    foreign = {"text": "secret://TOKEN secret://0123456789abcdef/TOKEN/"}

    assert resolver.reveal({**sealed, "result": foreign}) == {
        "own": "hush-token",
        "result": foreign,
    }
    assert "hush" not in str(sealed)


@pytest.mark.parametrize("change", [str.upper, quote, lambda text: text.replace("/", "\\/")])
def test_a_reference_that_a_template_has_changed_is_refused(
    resolver: Resolver, change: Callable[[str], str]
) -> None:
    sealed = resolver.seal("secret://TOKEN")

    with pytest.raises(SecretMissing, match="a template has changed a reference"):
        resolver.reveal({"x": [change(sealed)]})


def test_a_tenant_reads_its_own_secrets_only(tmp_path: Path) -> None:
    for name in ("TOKEN", "acme/TOKEN", "acme/CR", "default/FILE"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"hush-{name}\r\n")
    sources = SecretSources(
        variables={"TOKEN": "hush-variable"},
        folder=tmp_path,
        vault=lambda tenant, name: None if tenant else "hush-own",
    )

    assert sources.read("default", "TOKEN") == "hush-variable"
    assert sources.read("default", "FILE") == "hush-default/FILE"
    assert sources.read("acme", "TOKEN") == "hush-acme/TOKEN"
    assert sources.read_own("TOKEN") == "hush-TOKEN"
    others = (("default", "acme"), ("default", "CR"), ("acme", "FILE"), ("other", "TOKEN"),
              ("", "TOKEN"), (".", "TOKEN"), ("..", "TOKEN"), ("acme/..", "TOKEN"))  # fmt: skip
    for tenant, name in others:
        with pytest.raises(SecretMissing, match=f"secret://{name}: tenant '{tenant}' has no such"):
            sources.read(tenant, name)
    assert sources.read_own("OTHER") == "hush-own"
    with pytest.raises(SecretMissing, match="this deployment has no such secret of its own"):
        SecretSources(folder=tmp_path).read_own("acme")


def test_a_file_is_read_again_each_time(tmp_path: Path) -> None:
    sources, path = SecretSources(folder=tmp_path), tmp_path / "acme" / "TOKEN"
    path.parent.mkdir()
    for text in ("hush-one", "hush-two"):
        path.write_text(text)
        assert sources.read("acme", "TOKEN") == text


@pytest.mark.parametrize("content", [b"abc", b"", b"abc\n", b"x" * (MAX_SECRET + 1)])
def test_a_secret_that_could_not_be_hidden_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "TOKEN").write_bytes(content)

    with pytest.raises(SecretMissing, match="secret://TOKEN: a secret has at least 4 characters"):
        SecretSources(folder=tmp_path).read("acme", "TOKEN")


def test_a_file_that_is_no_text_is_refused_without_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "TOKEN").write_bytes(b"\xff\xfehush")

    with pytest.raises(SecretMissing, match="secret://TOKEN: its file cannot be read: it is not"):
        SecretSources(folder=tmp_path).read("acme", "TOKEN")


def test_a_vault_is_asked_last_and_its_errors_are_not_shown() -> None:
    sources = SecretSources.of(Settings(secrets_vault=f"{__name__}:vault"))

    assert sources.read("acme", "TOKEN") == "hush-vault"
    with pytest.raises(SecretMissing, match="tenant 'acme' has no such secret"):
        sources.read("acme", "OTHER")
    with pytest.raises(SecretMissing, match="the vault gave int, not a text"):
        sources.read("acme", "NUMBER")
    with pytest.raises(SecretUnavailable, match=r"^secret://DOWN: the vault failed with Timeout"):
        sources.read("acme", "DOWN")


@pytest.mark.parametrize("name", ["nowhere:f", f"{__name__}:nothing", f"{__name__}:VALUES"])
def test_a_vault_that_cannot_be_called_is_refused_at_the_start(name: str) -> None:
    with pytest.raises(VaultMissing, match=f"ORCHESTRATOR_SECRETS_VAULT: '{name}'"):
        SecretSources.of(Settings(secrets_vault=name))


def test_a_part_of_an_address_is_quoted() -> None:
    resolver = Resolver({"P": "a/b@c:d"}.__getitem__)

    assert (
        resolver.resolve("smtp://u:secret://P@h:25", quoted=True) == "smtp://u:a%2Fb%40c%3Ad@h:25"
    )
    assert resolver.resolve("https://h/secret://P") == "https://h/a/b@c:d"
