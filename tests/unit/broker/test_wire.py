"""What is taken over from what Redis holds: ids, and nothing else."""

import json
import random
from base64 import b64encode
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from orchestrator.broker import wire
from orchestrator.broker.messages import parse_task_id
from orchestrator.broker.wire import ForeignMessage

ID = "0ad6e1fc-5cc0-4b5c-9c3d-5e3b0b0f9f10.3"
REPLY_ID = "5e3b0b0f-5cc0-3b5c-9c3d-0ad6e1fc9f10"


def _text(message: dict[str, Any], body: Any) -> bytes:
    encoded = b64encode(json.dumps(body).encode()).decode()
    return json.dumps(message | {"body": encoded}).encode()


def _task(headers: dict[str, Any] | None = None, **embed: Any) -> bytes:
    message = {"headers": {"task": "execute_step", "id": ID, "shadow": "w/s#1"} | (headers or {})}
    return _text(message, [[], {}, {"chain": None} | embed])


def _command(method: str, **fields: Any) -> bytes:
    return _text({"headers": {}}, {"method": method, "arguments": {}} | fields)


def _rebuild(text: bytes) -> dict[str, Any]:
    return wire.rebuild_task(text, "gpu", 5)


FOREIGN = [
    b"", b"[]", b"null", b"1", b'"x"', b"{}", bytes(range(256)), b"[" * 60_000, b"\xff" * 100,
    b'{"headers": []}', b'{"headers": {"task": []}}', b"9" * 5000, b"x" * 100_000,
    _task() + b"x", _task({"task": "another"}), _task({"id": "x"}), _task({"id": None}),
    _task({"id": f"{{{ID[:36]}}}.3"}), _task({"id": f"{ID[:37]} 1_0"}),
    _task({"id": f"{ID[:37]}9999999999"}), _task({"id": ["x"]}), _task({"version": 2}),
    _task({"version": "1"}), _task({"root_id": "x"}), _task({"parent_id": 3}),
    json.dumps({"headers": json.loads(_task())["headers"], "body": "x"}).encode(),
    json.dumps({"headers": json.loads(_task())["headers"], "body": None}).encode(),
    _task(chain="x"), _task(chain=[None]), _task(chain=[{"options": {"task_id": "x"}}]),
    _task(chain=[{"options": {"task_id": ID, "queue": "a\nb"}}]),
    _task(chain=[{"options": {"task_id": ID, "queue": 3}}]),
    _task(chain=[wire.signature(ID, "gpu", "n")] * 17),
    _text({"headers": {"task": "execute_step", "id": ID}}, [["x"], {}, {"chain": None}]),
    _text({"headers": {"task": "execute_step", "id": ID}}, {"args": []}),
]  # fmt: skip
FOREIGN_COMMANDS = [
    b"", b"[]", b"null", bytes(range(256)), b"[" * 60_000, b"x" * 2_000_000, b"{}",
    *map(_command, ("pool_shrink", "shutdown", "time_limit", "terminate", "add_consumer", "conf ")),
    _command("ping", pattern="(a+)+$", matcher="pcre"), _command("ping", destination="worker"),
    _command("ping", reply_to={"exchange": "", "routing_key": "default"}, ticket=REPLY_ID),
    _command("ping", reply_to={"exchange": wire.REPLY_EXCHANGE, "routing_key": "a b"}),
    _command("ping", reply_to="x"), _command("revoke"), _command("revoke", arguments=None),
    _command("revoke", arguments={"task_id": "x"}), _text({}, [1]),
    _command("revoke", arguments={"task_id": [ID, None]}),
]  # fmt: skip


@pytest.mark.parametrize("text", FOREIGN, ids=lambda text: repr(text[:40]))
def test_a_foreign_message_is_refused(text: bytes) -> None:
    with pytest.raises(ForeignMessage):
        _rebuild(text)
    assert wire.find_task_id(text) in (None, ID)


@pytest.mark.parametrize("text", FOREIGN_COMMANDS, ids=lambda text: repr(text[:40]))
def test_a_foreign_command_is_refused(text: bytes) -> None:
    with pytest.raises(ForeignMessage):
        wire.rebuild_command(text)


def test_no_option_of_a_message_is_taken_over() -> None:
    forged = {"timelimit": [0.05, None], "expires": "2020-01-01", "eta": "2090-01-01", "retries": 9}
    forged |= {"group": "g", "stamps": {"a": "b"}, "stamped_headers": ["a"], "compression": "x"}
    forged |= {"ignore_result": False, "shadow": "\x1b[31mx", "replaced_task_nesting": 7}
    signature = wire.signature(ID, "cpu", "w/t#1")
    forged_signature = signature | {"options": signature["options"] | {"priority": 0, "link": [1]}}
    forged_signature |= {"task": "another", "args": [1]}

    plain = _rebuild(_task(chain=[signature]))
    altered = _rebuild(
        _task(forged, chain=[forged_signature], callbacks=[1], errbacks=[1], chord={"x": 1})
    )

    for each in (plain, altered):
        del each["properties"]["delivery_tag"]
    plain["headers"]["shadow"] = altered["headers"]["shadow"] = ""
    assert altered == plain
    assert json.loads(plain["body"])[2]["chain"] == [signature]
    assert plain["properties"]["priority"] == 5
    assert plain["properties"]["delivery_info"] == {"exchange": "", "routing_key": "gpu"}


def test_a_command_keeps_its_address_only() -> None:
    reply = {"exchange": wire.REPLY_EXCHANGE, "routing_key": REPLY_ID}
    text = _command(
        "revoke", arguments={"task_id": ID, "terminate": True, "signal": "SIGKILL"},
        destination=["w@h"], reply_to=reply, ticket=REPLY_ID, clock=10**30,
    )  # fmt: skip

    assert json.loads(wire.rebuild_command(text)["body"]) == {
        "method": "revoke", "arguments": {"task_id": [ID]}, "destination": ["w@h"],
        "reply_to": reply, "ticket": REPLY_ID,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rebuild", "original"),
    [(_rebuild, _task(chain=[wire.signature(ID, "gpu", "n")])),
     (wire.rebuild_command, _command("revoke", arguments={"task_id": [ID]}))],
)  # fmt: skip
def test_ten_thousand_mutations_are_rebuilt_or_refused(
    rebuild: Callable[[bytes], dict[str, Any]], original: bytes
) -> None:
    chance = random.Random(18)
    refused = 0
    for _ in range(10_000):
        text = bytearray(original)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(text))
            text[at : at + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 3))
        try:
            rebuild(bytes(text))
        except ForeignMessage:
            refused += 1
    assert refused > 5000


def test_a_task_id_has_one_spelling() -> None:
    step_id = uuid4()
    assert parse_task_id(f"{step_id}.7") == (step_id, 7)
    for text in (f"{step_id}", f"{step_id}.", f"{step_id.hex}.1", f"{step_id}.1 ", f"{step_id}.-1"):
        assert parse_task_id(text) is None
