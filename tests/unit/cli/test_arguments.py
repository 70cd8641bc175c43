"""Arguments of commands that name nothing are refused before anything is asked."""

import pytest
from click.testing import CliRunner

from orchestrator.cli.main import main

ENVIRON = {"ORCHESTRATOR_URL": "http://127.0.0.1:9", "ORCHESTRATOR_KEY": "ok_x"}


@pytest.mark.parametrize("word", ["", "1", "a b", "../keys", "?x=1", "%00", "x/steps", "é"])
@pytest.mark.parametrize(
    "command", ["show", "explain", "cancel", "retry", "keys rotate", "keys revoke"]
)
def test_what_is_no_id_is_refused(command: str, word: str) -> None:
    result = CliRunner().invoke(main, [*command.split(), word], env=ENVIRON)

    assert result.exit_code == 2
    assert f"Invalid value for 'ID': {word!r} is not a valid UUID." in result.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["drain", ""], "name a worker, or the beginning of its name"),
        (["up", "--port", "0"], "0 is not in the range 1<=x<=65535"),
        (["api", "--port", "65536"], "65536 is not in the range 1<=x<=65535"),
        (["up", "--workers", "-1"], "-1 is not in the range x>=1"),
        (["up", "--concurrency", "0"], "0 is not in the range x>=1"),
        (["worker", "--concurrency", "0"], "0 is not in the range x>=1"),
    ],
)
def test_a_number_out_of_range_is_refused(words: list[str], sentence: str) -> None:
    result = CliRunner().invoke(main, words, env=ENVIRON)

    assert result.exit_code == 2
    assert sentence in result.stderr


@pytest.mark.parametrize("key", ["é", "\udcff", "a\nb"])
def test_a_key_with_a_character_that_no_key_has_is_refused(key: str) -> None:
    result = CliRunner().invoke(main, ["runs"], env={**ENVIRON, "ORCHESTRATOR_KEY": key})

    sentence = "ORCHESTRATOR_KEY has a character that no key has; copy it again"
    assert (result.exit_code, result.stderr) == (1, f"Error: {sentence}\n")


@pytest.mark.parametrize("command", ["api", "scheduler", "worker", "migrate"])
def test_a_process_without_a_database_names_the_setting(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ORCHESTRATOR_DATABASE_URL", raising=False)

    result = CliRunner().invoke(main, [command], env=ENVIRON)

    assert result.exit_code == 1
    assert result.stderr.startswith("Error: set ORCHESTRATOR_DATABASE_URL; ")
