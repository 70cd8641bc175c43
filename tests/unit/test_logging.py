"""The log: one line of JSON per record, with the bound ids."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from datetime import datetime, timedelta
from io import StringIO
from threading import Thread
from typing import Any

import pytest

from config import logging as logs

Lines = Callable[[], list[dict[str, Any]]]
log = logging.getLogger("acme.reports")


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    """What the log has written to standard error."""
    root, level = logging.getLogger(), logging.getLogger().level
    monkeypatch.setattr(root, "handlers", [])
    with redirect_stderr(StringIO()) as written:
        logs.configure("info")
    yield lambda: [json.loads(line) for line in written.getvalue().splitlines()]
    root.setLevel(level)


def test_a_record_is_one_line_of_json(lines: Lines) -> None:
    log.warning("two\nlines of %s", "text")

    (line,) = lines()
    assert line.keys() == {"time", "level", "logger", "message"}
    assert (line["level"], line["logger"]) == ("WARNING", "acme.reports")
    assert line["message"] == "two\nlines of text"
    assert datetime.fromisoformat(line["time"]).utcoffset() == timedelta(0)


def test_bound_ids_are_in_every_record_of_the_block(lines: Lines) -> None:
    with logs.bind(run_id="r1", step="fetch"):
        log.info("outer")
        with logs.bind(step="load", attempt=2):
            log.info("inner")
        log.info("outer again")
    log.info("outside")

    ids = [
        {name: line[name] for name in ("run_id", "step", "attempt") if name in line}
        for line in lines()
    ]
    assert ids == [
        {"run_id": "r1", "step": "fetch"},
        {"run_id": "r1", "step": "load", "attempt": 2},
        {"run_id": "r1", "step": "fetch"},
        {},
    ]


def test_ids_are_unbound_when_the_block_raises(lines: Lines) -> None:
    with pytest.raises(KeyError), logs.bind(run_id="r1"):
        raise KeyError
    log.info("outside")

    assert "run_id" not in lines()[0]


def test_ids_of_one_thread_are_not_in_the_records_of_another(lines: Lines) -> None:
    with logs.bind(run_id="r1"):
        other = Thread(target=log.info, args=("elsewhere",))
        other.start()
        other.join()

    assert "run_id" not in lines()[0]


def test_extra_fields_stand_beside_the_message(lines: Lines) -> None:
    when = timedelta(seconds=2)

    log.info("done", extra={"task": "t1", "count": 3, "when": when, "of": {"a": [1]}})

    (line,) = lines()
    assert (line["task"], line["count"], line["of"]) == ("t1", 3, {"a": [1]})
    assert line["when"] == "0:00:02"


def test_a_traceback_stays_in_the_line_of_its_record(lines: Lines) -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("it failed")

    (line,) = lines()
    assert line["message"] == "it failed"
    assert line["traceback"].endswith("ValueError: broken")


def test_records_below_the_level_are_left_out(lines: Lines) -> None:
    log.debug("too fine")
    logging.getLogger("kombu.connection").info("too chatty")
    log.info("shown")

    assert [line["message"] for line in lines()] == ["shown"]


def test_no_record_is_lost_because_of_what_it_carries(lines: Lines) -> None:
    log.info("done", extra={"of": {("a", 1): object}})

    assert [line["message"] for line in lines()] == ["done"]
