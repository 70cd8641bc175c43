"""Files and parameters of the command line: JSON's values, or one sentence with the place."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from orchestrator.cli.documents import NotJson, parse_json, read_documents
from orchestrator.cli.main import main

ENVIRON = {"ORCHESTRATOR_URL": "http://127.0.0.1:9", "ORCHESTRATOR_KEY": "ok_x"}
NO_NUMBER = "is no number in JSON; in quotes it is a text"
LONG_NUMBER = f"{'9' * 40}… has more than 4,300 digits; in quotes it is a text"
TYPES = "text, number, true, false, null, list and object are the types here"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # Texts in YAML 1.2: nothing but JSON's words has a meaning.
        *[(word, word) for word in ("on", "off", "yes", "No", "y", "=", "1_000", "1:30", "0b1")],
        *[(word, word) for word in ("2026-01-01", "2026-01-01T10:00:00Z", "2026-01-01 10:00:00")],
        *[(f"'{word}'", word) for word in (".inf", "1e400", "true", "~", "<<", "1")],
        ("true", True), ("False", False), ("NULL", None), ("~", None), ("", None),
        ("1e308", 1e308), ("1.0", 1.0), (".5", 0.5), ("12e3", 12e3), ("-0.0", -0.0), ("+1", 1),
        ("014", 14), ("0o14", 12), ("0x1F", 31), ("9" * 4300, int("9" * 4300)),
        ("!!str 1", "1"), ("!!int '7'", 7), ("!!float 1", 1), ("!!bool 'true'", True),
        ("{1: a, true: b, ~: c, on: d}", {"1": "a", "true": "b", "~": "c", "on": "d"}),
        ("{1.0: a, 2026-01-01: c}", {"1.0": "a", "2026-01-01": "c"}),
        ("{<<: {a: 1, b: 2}, b: 3}", {"a": 1, "b": 3}),
        ("[&a [1], *a, &b {c: *a}, {<<: *b, d: 1}]", [[1], [1], {"c": [1]}, {"c": [1], "d": 1}]),
        ("{&a 1: x, y: *a}", {"1": "x", "y": 1}),
    ],
)  # fmt: skip
def test_yaml_has_the_values_of_json(tmp_path: Path, text: str, value: object) -> None:
    path = _file(tmp_path, "a.yaml", f"v: {text}\n")

    assert repr(read_documents(path)) == repr([{"v": value}])


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ("name: [a\n", ", line 2, column 1", "expected ',' or ']', but got '<stream end>'"),
        ("a:\n\t- b\n", ", line 2, column 1", "found character '\\t' that cannot start any token"),
        ("a: *b\n", ", line 1, column 4", "found undefined alias 'b'"),
        *[
            (f"a: {word}\n", ", line 1, column 4", f"{word} {NO_NUMBER}")
            for word in (".inf", "-.INF", ".nan", "1e400")
        ],
        ("a: " + "9" * 4301, ", line 1, column 4", LONG_NUMBER),
        ("a: !!bool on\n", ", line 1, column 4", "'on' is neither true nor false"),
        *[
            (f"a: {tag} x\n", ", line 1, column 4", f"the tag {tag} has no place here; {TYPES}")
            for tag in ("!x", "!!binary", "!!timestamp", "!!set", "!!python/name:os.system")
        ],
        ("a: 1\nb: 2\na: 3\n", ", line 3, column 1", "the key 'a' is here twice"),
        ("{1: a, '1': b}\n", ", line 1, column 8", "the key '1' is here twice"),
        ("[a]: b\n", ", line 1, column 1", "a key is a text"),
        ("a: &a [*a]\n", ", line 1, column 4", "an alias inside of what it names"),
        ("a: &a {b: [*a]}\n", ", line 1, column 4", "an alias inside of what it names"),
        ("a: " + "[" * 3000, "", "it is nested too deeply"),
        ("a: b\0", "", "unacceptable character #x0000: special characters are not allowed"),
    ],
)  # fmt: skip
def test_other_yaml_is_refused_with_its_place(
    tmp_path: Path, text: str, place: str, reason: str
) -> None:
    path = _file(tmp_path, "a.yaml", text)

    assert _refusal(path) == f"Error: {path}{place}: {reason}\n"


@pytest.mark.parametrize("item", ["[{0}]", "{{<<: [{0}]}}"])
def test_aliases_expand_within_a_bound(tmp_path: Path, item: str) -> None:
    levels = ["a0: &a0 {k: xxxxxxxxxx}"]
    levels += [
        f"a{at}: &a{at} {item.format(', '.join([f'*a{at - 1}'] * 9))}" for at in range(1, 20)
    ]
    path = _file(tmp_path, "bomb.yaml", "\n".join(levels))

    assert "its aliases expand it to more than 16,777,216 characters" in _refusal(path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1,}', ", line 1, column 8: not JSON: Illegal trailing comma before end of object"),
        ('{"a": NaN}', ": NaN is no number in JSON"),
        ('{"a": -Infinity}', ": -Infinity is no number in JSON"),
        ('{"a": 1e400}', ": 1e400 is no number in JSON"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', ": the key 'c' is here twice"),
        ("[" * 100_000, ": it is nested too deeply"),
    ],
)
def test_json_is_read_as_json(tmp_path: Path, text: str, reason: str) -> None:
    good = _file(tmp_path, "good.json", '{\n\t"name": "a",\n\t"steps": [1e308]}')
    path = _file(tmp_path, "bad.json", text)

    assert read_documents(good) == [{"name": "a", "steps": [1e308]}]
    assert _refusal(path) == f"Error: {path}{reason}\n"


@pytest.mark.parametrize(
    ("content", "line"),
    [("a: 1\nb: café\n".encode("latin-1"), 2), ("a: 1\n".encode("utf-16"), 1), (b"\x80", 1)],
)
@pytest.mark.parametrize("name", ["a.yaml", "a.json"])
def test_a_file_in_another_encoding_is_named(
    tmp_path: Path, content: bytes, line: int, name: str
) -> None:
    path = _file(tmp_path, name, content)

    expected = f"{path}, line {line}: this is not text in UTF-8; save the file as UTF-8"
    assert _refusal(path) == f"Error: {expected}\n"


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = _file(tmp_path, "a.yaml", "\ufeffname: a\n")

    assert read_documents(path) == [{"name": "a"}]


def test_a_folder_and_a_file_without_end_are_refused(tmp_path: Path) -> None:
    assert f"File '{tmp_path}' is a directory" in _refusal(tmp_path)
    assert _refusal(Path("/dev/zero")) == "Error: /dev/zero is longer than 16,777,216 bytes\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("1/0\n", "{path}, line 1: ZeroDivisionError: division by zero"),
        ("x = 1\ndef\n", "{path}, line 2: invalid syntax"),
        ("import nosuch\n", "{path}, line 1: ModuleNotFoundError: No module named 'nosuch'"),
        ("raise SystemExit(3)\n", "{path}, line 1: SystemExit: 3"),
        ("x = 1\n", "{path} has no workflow"),
        (
            "from orchestrator import Workflow\nw = Workflow('a b')\n",
            "{path}: the spec is not a workflow\n  /name: 'a b' does not match",
        ),
    ],
)
def test_a_module_that_does_not_import_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    path = _file(tmp_path, f"flow_{abs(hash(text))}.py", text)

    assert _refusal(path).startswith(f"Error: {sentence.format(path=path)}")


def test_a_module_with_the_name_of_another_one_is_named(tmp_path: Path) -> None:
    path = _file(tmp_path, "json.py", "x = 1\n")

    sentence = f"{path} cannot be imported: json is another module; rename the file"
    assert _refusal(path) == f"Error: {sentence}\n"


@pytest.mark.parametrize("text", ["hello\n", "- name: a\n", "1\n"])
def test_a_workflow_is_an_object(tmp_path: Path, text: str) -> None:
    path = _file(tmp_path, "a.yaml", text)

    assert _refusal(path) == f"Error: {path}: a workflow is an object with `name` and `steps`\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["a=NaN"], "a: NaN is no number in JSON; a text is written a='\"…\"'"),
        (["a=-Infinity"], "a: -Infinity is no number in JSON; a text is written a='\"…\"'"),
        (['a={"b": [1e400]}'], "a: 1e400 is no number in JSON; a text is written a='\"…\"'"),
        (['a={"b":1,"b":2}'], "a: the key 'b' is here twice; a text is written a='\"…\"'"),
        (["a=" + "[" * 100_000], "a: it is nested too deeply"),
        (["a"], "'a': write it as name=value"),
        (["=1"], "'=1': write it as name=value"),
        (["a=1", "a=2"], "'a=2': a is here twice"),
    ],
)
def test_a_parameter_that_cannot_be_sent_is_named(words: list[str], sentence: str) -> None:
    options = [option for word in words for option in ("-p", word)]
    result = CliRunner().invoke(main, ["run", "w", *options], env=ENVIRON)

    assert result.exit_code == 2
    assert result.stderr.endswith(f"Error: Invalid value: {sentence}\n")


@pytest.mark.parametrize("text", ["on", "01", "0x1f", "[1,", "'a'", ""])
def test_what_is_not_json_is_a_text(text: str) -> None:
    with pytest.raises(json.JSONDecodeError):
        parse_json(text)


@pytest.mark.parametrize("value", [1, 1.0, 1e308, 2**200, True, None, "NaN", [1e22], {"a": -0.0}])
def test_json_is_the_value(value: Any) -> None:
    assert repr(parse_json(json.dumps(value))) == repr(value)
    with pytest.raises(NotJson):
        parse_json("NaN")


def _file(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def _refusal(path: Path) -> str:
    """What `apply` prints for the file, which it refuses."""
    result = CliRunner().invoke(main, ["apply", "-f", str(path)], env=ENVIRON)
    assert result.exit_code in (1, 2)
    return result.stderr
