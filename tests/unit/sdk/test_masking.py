"""Secrets are hidden in each form in which they are usually written, wherever bytes are cut."""

import base64
import html
import json
import re
import textwrap
from collections.abc import Callable
from urllib.parse import quote, quote_plus, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as some

from orchestrator.sdk.files import FileSpec
from orchestrator.sdk.masking import NO_MASK, Mask, MaskedStream
from orchestrator.sdk.recorder import Recorder
from workers.isolation.lines import LineAssembler

SECRET = 'pä$$/w"or\\d & x+1<é>'
KEY = "-----BEGIN KEY-----\nMIIEvQIBADANBgkq\r\nhkiG9w0BAQEFAASC\n-----END KEY-----"
FORMS: dict[str, Callable[[str], str]] = {
    "itself": str,
    "JSON": json.dumps,
    "JSON in UTF-8": lambda text: json.dumps(text, ensure_ascii=False),
    "JSON in JSON": lambda text: json.dumps(json.dumps({"a": text})),
    "repr": lambda text: repr([text]),
    "repr of bytes": lambda text: repr(text.encode()),
    "ascii": ascii,
    "URL": quote,
    "a part of a URL": lambda text: quote(text, safe=""),
    "a query": lambda text: urlencode({"q": text}),
    "a form": quote_plus,
    "small hex digits": lambda text: re.sub("%..", lambda each: each[0].lower(), quote(text)),
    "a URL in a URL": lambda text: quote(quote(text, ""), ""),
    "JSON of PHP": lambda text: json.dumps(text).replace("/", "\\/"),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 of a URL": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
    "hex": lambda text: text.encode().hex(),
    "HTML": html.escape,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("secret", [SECRET, KEY, "hush", "12345678", "a b c d"])
def test_a_secret_is_hidden_in_every_form(secret: str, form: str) -> None:
    written = FORMS[form](secret)

    masked = Mask([secret]).text(f"before {written} after")

    core = written.strip("\"'b[]q=")
    assert core not in masked
    assert "***" in masked
    assert masked.startswith("before ")
    assert masked.endswith(" after")
    assert Mask([secret]).data(written.encode()).decode() in masked


@pytest.mark.parametrize("before", ["", "u:", "user:", "admin:"])
@pytest.mark.parametrize("after", ["", "!", "!!"])
def test_a_secret_is_hidden_in_basic_credentials(before: str, after: str) -> None:
    header = base64.b64encode(f"{before}hush-token-of-acme{after}".encode()).decode()

    masked = Mask(["hush-token-of-acme"]).text(f"Basic {header}")

    first, last = masked.removeprefix("Basic ").split("***")
    # A digit at each end has bits of the secret and of what is beside it.
    assert len(first) <= len(before) * 4 / 3 + 1
    assert len(last.rstrip("=")) <= len(after) * 4 / 3 + 2


@pytest.mark.parametrize("width", [64, 76])
def test_a_long_secret_is_hidden_where_base64_is_broken_into_lines(width: int) -> None:
    secret = "hush" + "".join(map(str, range(300)))
    lines = textwrap.wrap(base64.b64encode(secret.encode()).decode(), width)

    assert len(lines) > 10
    assert [Mask([secret]).text(line) for line in lines] == ["***"] * len(lines)


def test_each_line_of_a_secret_is_hidden() -> None:
    mask = Mask([KEY])

    assert [mask.text(line) for line in KEY.splitlines()] == ["***"] * 4


def test_members_names_and_numbers_of_a_result_are_hidden() -> None:
    document = {"a": ["x hush-1 y", 12345678, 7, True, None], "hush-1": {"b": 12345678.5}}

    assert Mask(["hush-1", "12345678", "true", "null"]).document(document) == {
        "a": ["x *** y", "***", 7, True, None], "***": {"b": "***"}
    }  # fmt: skip


def test_a_secret_in_another_one_leaves_nothing_of_the_longer() -> None:
    assert Mask(["hush", "hush-longer", "longer-hush"]).text("hush-longer longer-hush hush") == (
        "*** *** ***"
    )


def test_nothing_and_short_values_are_no_mask() -> None:
    assert not NO_MASK
    assert not Mask(["", "abc"])
    assert NO_MASK.text("abc") == "abc"
    assert NO_MASK.data(b"abc") == b"abc"


@given(some.lists(some.text("hus-x", max_size=9), max_size=9), some.lists(some.integers(1, 9)))
def test_a_stream_is_masked_however_it_is_cut(words: list[str], sizes: list[int]) -> None:
    mask = Mask(["hush", "hush-hush-x"])
    data = "hush".join(words).encode()
    stream, masked, rest = MaskedStream(mask), b"", data
    for size in sizes:
        masked, rest = masked + stream.add(rest[:size]), rest[size:]

    assert masked + stream.add(rest) + stream.end() == mask.data(data)


@pytest.mark.parametrize("offset", range(15_980, 16_010))
@pytest.mark.parametrize("size", [1, 7, 40_000])
def test_a_line_without_an_end_is_not_cut_within_a_secret(offset: int, size: int) -> None:
    lines = LineAssembler()
    lines.mask = Mask(["hush-token-of-acme"])
    data = b"." * offset + b"hush-token-of-acme" + b"." * 20_000
    seen: list[str] = []
    for at in range(0, len(data), size) if size > 1 else range(offset - 100, offset + 200):
        first = data[: offset - 100] if size == 1 and at == offset - 100 else b""
        seen += lines.add(20, first + data[at : at + size])
    seen += [text for _, text in lines.end()]

    masked = [Mask(["hush-token-of-acme"]).text(each) for each in seen]
    assert not set("".join(masked)) - set(".*")
    assert all(len(each) <= 16_000 + 100 for each in masked[:-1])


def test_what_a_recorder_takes_is_masked_before_it_is_cut() -> None:
    recorder, secret = Recorder(), "hush-token-of-acme"
    recorder.mask = Mask([secret])

    recorder.log(20, "x" * 7_990 + secret)
    recorder.progress(1, 2, f"stage {secret}", "m" * 990 + secret)
    recorder.metric(secret, 1)
    recorder.warn("w" * 990 + secret, secret)
    recorder.data(curves={secret: [secret]})
    recorder.metric(f"{secret} too", float("nan"))
    saved = recorder.save(
        FileSpec(name=f"{secret}.txt", title=secret, extra={"a": secret}),
        [b"in pieces hush-tok", b"en-of-acme", b"."],
    )

    batch = recorder.drain(last=True)
    assert "hush" not in str(batch)
    assert "token" not in str(batch)
    assert saved.name == "***.txt"
    spec, content = recorder.saved["***.txt"]
    assert "hush" not in str(spec)
    assert content == b"in pieces ***."
