"""What Redis gives is not trusted: only ids are taken from it, everything else is written anew.

Whoever reaches Redis may put anything into its lists and channels. A row decides what a task id is
worth; so a message needs no signature, and a worker no secret. Of Celery's options none is taken
over: a message cannot set a time limit, an expiry, a callback or the argument of a command.
"""

import json
import re
from base64 import b64decode
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

from orchestrator.broker.messages import VERSION, is_task_id

TASK = "execute_step"
VERSION_HEADER = "version"
MAX_MESSAGE = 65_536  # bytes; ours have at most 2 KiB
MAX_COMMAND = 1_048_576  # bytes; a revoke of many runs has many ids

# What may be asked of a worker by Celery's remote control: Flower's reading, and the hint that a
# task is to stop. Commands that change a worker are signals and rows.
COMMANDS = frozenset({
    "ping", "stats", "conf", "active", "active_queues", "registered", "reserved", "scheduled",
    "revoked", "clock", "enable_events", "heartbeat", "revoke",
})  # fmt: skip
CONTROL_EXCHANGE = "celery.pidbox"
REPLY_EXCHANGE = "reply.celery.pidbox"

_MAX_CHAIN = 16  # tasks; a message of ours has three more at most
_MAX_DESTINATIONS = 1000
_NAME = re.compile(r"[A-Za-z0-9_.\-/#]{1,64}")  # workflow/step#attempt
_QUEUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,31}")
_REPLY_ID = re.compile(r"[0-9a-f\-]{32,36}")
_MALFORMED = (LookupError, TypeError, ValueError, AttributeError, RecursionError)
_tags = count(1)


class ForeignMessage(Exception):
    """A message that nobody of ours wrote; its text is the reason, one of a few."""


def find_task_id(text: bytes) -> str | None:
    """The task id in a message of a queue, or None if it is not one of ours."""
    try:
        task_id = json.loads(text)["headers"]["id"]
        return task_id if is_task_id(task_id) else None
    except _MALFORMED:
        return None


def rebuild_task(text: bytes, queue: str, level: int) -> dict[str, Any]:
    """A message of a queue for kombu, from its ids. Raises ForeignMessage.

    `level` is that of the list, in which 0 goes first.
    """
    if not 0 < len(text) <= MAX_MESSAGE:
        raise ForeignMessage("its size is wrong")
    try:
        message = json.loads(text)
        headers = message["headers"]
        if headers["task"] != TASK:
            raise ForeignMessage("it is of another task")
        if headers.get(VERSION_HEADER, VERSION) != VERSION:  # absent in version 1
            raise ForeignMessage("its version is unknown")
        args, kwargs, embed = json.loads(b64decode(message["body"], validate=True))
        if args or kwargs:
            raise ForeignMessage("it has arguments")
        chain = [_rebuild_signature(each) for each in embed["chain"] or ()]
        if len(chain) > _MAX_CHAIN:
            raise ForeignMessage("its chain is too long")
        headers = _task_headers(headers)
    except _MALFORMED as error:
        raise ForeignMessage("it is malformed") from error
    embed = {"callbacks": None, "errbacks": None, "chain": chain or None, "chord": None}
    body = json.dumps([[], {}, embed])
    properties = {"correlation_id": headers["id"], "reply_to": "", "priority": level}
    return _message(body, headers, properties, "", queue)


def signature(task_id: str, queue: str, name: str) -> dict[str, Any]:
    """A task of a chain with only the fields that Celery needs, for small messages."""
    options: dict[str, Any] = {"task_id": task_id, "shadow": name}
    if queue != "default":
        options["queue"] = queue
    return {
        "task": TASK,
        "args": [],
        "kwargs": {},
        "options": options,
        "subtask_type": None,
        "immutable": True,
    }


def rebuild_command(text: bytes) -> dict[str, Any]:
    """A remote control command for kombu. Raises ForeignMessage."""
    if len(text) > MAX_COMMAND:
        raise ForeignMessage("its size is wrong")
    try:
        body = json.loads(b64decode(json.loads(text)["body"], validate=True))
        method = body["method"]
        if method not in COMMANDS:
            raise ForeignMessage("its command is not allowed")
        command = {
            "method": method,
            "arguments": {"task_id": _ids(body["arguments"])} if method == "revoke" else {},
            "destination": _destinations(body.get("destination")),
            **_reply(body),
        }
        if body.get("pattern"):  # a regular expression of anybody
            raise ForeignMessage("its command is not allowed")
    except _MALFORMED as error:
        raise ForeignMessage("it is malformed") from error
    return _message(json.dumps(command), {}, {}, CONTROL_EXCHANGE, "")


def probe_queue(worker: str, pid: int) -> str:
    """The list in which a worker finds its own probes; a queue of steps has no @ in its name."""
    return f"probe.{worker}.{pid}"


def is_probe(queue: str) -> bool:
    """Whether a list is one of these, whose messages have no content."""
    return "@" in queue


def rebuild_probe(_: bytes, queue: str, level: int) -> dict[str, Any]:
    """A probe for kombu, whatever it contains."""
    return _message("", {}, {}, "", queue)


def _rebuild_signature(task: Mapping[str, Any]) -> dict[str, Any]:
    options = task["options"]
    queue = options.get("queue", "default")
    if not _QUEUE.fullmatch(queue):
        raise ValueError
    return signature(_id(options["task_id"]), queue, _name(options))


def _task_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    """The headers that Celery reads, with ids and the name that Flower shows."""
    task_id = _id(headers["id"])
    return {
        "lang": "py",
        "task": TASK,
        "id": task_id,
        "shadow": _name(headers),
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": _id(headers.get("root_id") or task_id),
        "parent_id": _id(headers["parent_id"]) if headers.get("parent_id") else None,
        "argsrepr": "()",
        "kwargsrepr": "{}",
        "origin": "",
        "ignore_result": True,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
        VERSION_HEADER: VERSION,
    }


def _message(
    body: str, headers: Mapping[str, Any], properties: Mapping[str, Any], exchange: str, key: str
) -> dict[str, Any]:
    """A message as kombu's channel takes it."""
    address = {"exchange": exchange, "routing_key": key}
    return {
        "body": body,
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": headers,
        "properties": {**properties, "delivery_tag": str(next(_tags)), "delivery_info": address},
    }


def _id(text: str) -> str:
    """A task id of ours. Raises ValueError."""
    if not is_task_id(text):
        raise ValueError
    return text


def _ids(arguments: Mapping[str, Any]) -> list[str]:
    """The task ids of a revoke."""
    ids: Sequence[str] | str = arguments["task_id"]
    return [_id(each) for each in ([ids] if isinstance(ids, str) else ids)]


def _name(options: Mapping[str, Any]) -> str:
    name = options.get("shadow") or TASK
    return name if _NAME.fullmatch(name) else TASK


def _destinations(names: Sequence[str] | None) -> list[str] | None:
    """The workers that a command is for; None: all of them."""
    if names is None:
        return None
    if not isinstance(names, list) or len(names) > _MAX_DESTINATIONS:
        raise ValueError
    return [str(each) for each in names]


def _reply(body: Mapping[str, Any]) -> dict[str, Any]:
    """Where a reply goes: only to a list of replies."""
    to = body.get("reply_to")
    if not to:
        return {}
    if to["exchange"] != REPLY_EXCHANGE or not _REPLY_ID.fullmatch(to["routing_key"]):
        raise ValueError
    address = {"exchange": REPLY_EXCHANGE, "routing_key": to["routing_key"]}
    ticket = body["ticket"]
    if not _REPLY_ID.fullmatch(ticket):
        raise ValueError
    return {"reply_to": address, "ticket": ticket}
