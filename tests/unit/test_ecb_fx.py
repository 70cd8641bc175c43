"""The steps of the example ECB_FX, each called as a function of one context."""

import csv
import hashlib
import importlib
import json
import sys
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import yaml

from examples.ecb_fx import rates, steps
from orchestrator import FailStep, StepContext

FIRST_DAY, KNOWN_DAY, LAST_DAY = "1999-01-04", "2021-07-01", "2026-10-30"
LIMIT = 256 * 1024  # bytes of JSON that a step may return


def extract(day: str, **args: Any) -> dict[str, Any]:
    result: dict[str, Any] = steps.extract(StepContext(params={"date": day}, args=args))
    return result


def transform(day: str) -> dict[str, Any]:
    context = StepContext(results={"EXTRACT": extract(day)})
    result: dict[str, Any] = steps.transform(context)
    return result


def send(made: dict[str, Any], **args: Any) -> dict[str, Any]:
    result: dict[str, Any] = steps.send(StepContext(results={"TRANSFORM": made}, args=args))
    return result


def find(text: str, day: str = "2024-01-02") -> rates.Day:
    return rates.find_day(csv.reader(text.splitlines()), date.fromisoformat(day))


def test_a_day_has_the_rates_the_ecb_published() -> None:
    extracted = extract(KNOWN_DAY)

    assert (extracted["date"], extracted["base"]) == (KNOWN_DAY, "EUR")
    assert len(extracted["rates"]) == 32
    assert extracted["rates"]["USD"] == "1.1884"
    assert extracted["rates"]["IDR"] == "17259.71"


def test_a_currency_without_a_rate_that_day_is_left_out() -> None:
    assert "HRK" in extract(KNOWN_DAY)["rates"]
    assert "HRK" not in extract(LAST_DAY)["rates"]


@pytest.mark.parametrize(
    ("day", "dollar"), [(FIRST_DAY, "1.1789"), (KNOWN_DAY, "1.1884"), (LAST_DAY, "1.1172")]
)
def test_the_first_day_and_the_last_are_read_like_any_other(day: str, dollar: str) -> None:
    assert extract(day)["rates"]["USD"] == dollar


@pytest.mark.parametrize(
    ("day", "reason"),
    [
        (
            "2021-07-04",
            "the ECB set no rates on Sunday 2021-07-04;"
            " the nearest earlier day with rates is Friday 2021-07-02",
        ),
        (
            "2020-12-25",
            "the ECB set no rates on Friday 2020-12-25;"
            " the nearest earlier day with rates is Thursday 2020-12-24",
        ),
        (
            "2099-01-01",
            "the ECB set no rates on Thursday 2099-01-01;"
            " the nearest earlier day with rates is Friday 2026-10-30",
        ),
        (
            "1998-12-31",
            "the ECB set no rates on or before Thursday 1998-12-31;"
            " the file begins with Monday 1999-01-04",
        ),
    ],
    ids=["weekend", "holiday", "future", "before the euro"],
)
def test_a_day_without_rates_fails_and_names_the_nearest_with_some(day: str, reason: str) -> None:
    with pytest.raises(FailStep) as failure:
        extract(day)

    assert str(failure.value) == reason


def test_a_day_on_which_no_currency_has_a_rate_is_a_day_without_rates() -> None:
    text = "Date,USD,JPY,\n2024-01-03,N/A,N/A,\n2024-01-02,1.1,N/A,\n"

    assert find(text).rates == {"USD": Decimal("1.1")}
    with pytest.raises(rates.RatesError, match="with rates is Tuesday 2024-01-02"):
        find(text, "2024-01-03")


@pytest.mark.parametrize(
    "rate",
    ["0", "0.000", "-1.1", "1,1", "1e3", "NaN", "Infinity", "1_000", " 1.1", ".5", "", "n/a"],
)
def test_what_is_not_a_positive_decimal_is_refused_as_a_rate(rate: str) -> None:
    with pytest.raises(rates.RatesError) as failure:
        find(f'Date,USD,JPY,\n2024-01-02,"{rate}",130,\n')

    assert str(failure.value) == (
        f"2024-01-02: the rate of USD is {rate!r}, not a positive decimal"
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "does not begin with 'Date'"),
        ("Date,\n2024-01-02,\n", "does not begin with 'Date'"),
        ("Day,USD,\n2024-01-02,1.1,\n", "does not begin with 'Date'"),
        ("Date,USD,JPY,USD,\n2024-01-02,1.1,130,1.2,\n", "names USD twice"),
        ("Date,USD,EUR,\n2024-01-02,1.1,1,\n", "names EUR"),
        ("Date,USD,dollar,\n2024-01-02,1.1,1,\n", "names 'dollar', which is no currency"),
        ("Date,USD,JPY,\n2024-01-02,1.1,\n", "2024-01-02 has 1 values for 2 currencies"),
        ("Date,USD,\n2024-01-02,1.1,130,\n", "2024-01-02 has 2 values for 1 currencies"),
        ("Date,USD,\n2024-02-30,1.1,\n", "'2024-02-30', which is no date"),
        ("Date,USD,\n2024-01-03,1.1,\n2024-01-04,1.2,\n", "must go from new to old"),
        ("Date,USD,\n2024-01-03,1.1,\n2024-01-03,1.2,\n", "must go from new to old"),
        ('Date,USD,\n""\n', "begins with '', which is no date"),
        ("Date,USD,\n", "the file holds no day"),
    ],
)
def test_a_file_that_breaks_its_rules_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(rates.RatesError, match=reason):
        find(text)


def test_a_malformed_archive_fails_the_step_for_good(tmp_path: Path) -> None:
    archive = tmp_path / "rates.zip"
    with ZipFile(archive, "w") as files:
        files.writestr("rates.csv", "Date,USD,\n2024-01-02,zero,\n")

    with pytest.raises(FailStep, match="the rate of USD is 'zero'"):
        extract("2024-01-02", archive=str(archive))


def test_what_is_no_archive_of_one_file_fails_the_step_for_good(tmp_path: Path) -> None:
    page, empty = tmp_path / "page.zip", tmp_path / "empty.zip"
    page.write_text("<html>Not found</html>")
    ZipFile(empty, "w").close()

    with pytest.raises(FailStep, match="not a zip file"):
        extract(KNOWN_DAY, archive=str(page))
    with pytest.raises(FailStep, match="holds 0 files instead of one"):
        extract(KNOWN_DAY, archive=str(empty))


def test_every_rate_becomes_one_series_with_the_value_unchanged() -> None:
    made, published = transform(KNOWN_DAY), extract(KNOWN_DAY)["rates"]

    assert made["date"] == KNOWN_DAY
    assert made["series"] == {f"ECB.EUR.{name}": rate for name, rate in published.items()}


def test_a_cross_rate_is_the_quotient_rounded_to_eight_digits() -> None:
    crosses = transform(KNOWN_DAY)["cross_rates"]

    assert len(crosses) == 32  # every currency but the dollar, and the euro
    assert crosses["CROSS.USD.JPY"] == "111.42713"  # 132.42 / 1.1884 = 111.4271289…
    assert crosses["CROSS.USD.EUR"] == "0.84146752"  # 1 / 1.1884 = 0.841467519…


def test_a_cross_rate_is_rounded_half_to_even() -> None:
    halves = {"USD": Decimal(2), "AAA": Decimal("2.0000001"), "BBB": Decimal("2.0000003")}

    crosses = rates.cross_rates(halves, "USD")

    assert crosses["AAA"] == Decimal("1.0000000")  # 1.00000005
    assert crosses["BBB"] == Decimal("1.0000002")  # 1.00000015


def test_a_day_without_the_dollar_has_no_cross_rates() -> None:
    extracted = {"date": "2024-01-02", "base": "EUR", "rates": {"JPY": "130"}}

    with pytest.raises(FailStep, match="no rate of USD"):
        steps.transform(StepContext(results={"EXTRACT": extracted}))


def test_results_fit_into_a_step_many_times_over_and_survive_json() -> None:
    for result in (extract(KNOWN_DAY), transform(KNOWN_DAY)):
        text = json.dumps(result)

        assert len(text) < LIMIT / 50
        assert json.loads(text) == result


def test_the_file_holds_every_series_and_cross_rate(tmp_path: Path) -> None:
    made = transform(KNOWN_DAY)

    sent = send(made, outbox=str(tmp_path))

    with Path(sent["path"]).open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["date", "series", "value"]
    assert {day for day, _, _ in rows} == {KNOWN_DAY}
    assert {name: value for _, name, value in rows} == made["series"] | made["cross_rates"]
    assert len(rows) == sent["rows"] == 64


def test_the_result_of_send_describes_the_file(tmp_path: Path) -> None:
    sent = send(transform(KNOWN_DAY), outbox=str(tmp_path))

    content = Path(sent["path"]).read_bytes()
    assert sent["bytes"] == len(content)
    assert sent["sha256"] == hashlib.sha256(content).hexdigest()


def test_sending_saves_the_file_and_a_chart_of_the_cross_rates(tmp_path: Path) -> None:
    context = StepContext(
        results={"TRANSFORM": transform(KNOWN_DAY)}, args={"outbox": str(tmp_path)}
    )

    sent = steps.send(context)

    (table, rows), (chart, picture) = context.recorder.saved.values()
    assert hashlib.sha256(rows).hexdigest() == sent["sha256"]
    assert (table.kind, table.records, table.shown_type) == ("data", 64, "text/csv")
    assert (chart.kind, chart.records, chart.shown_type) == ("visualization", 32, "image/png")
    assert picture.startswith(b"\x89PNG\r\n")
    assert context.recorder.latest.percent == 100
    assert context.recorder.latest.stage == "drawing the chart"


def test_without_matplotlib_there_is_a_warning_instead_of_a_chart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    context = StepContext(
        results={"TRANSFORM": transform(KNOWN_DAY)}, args={"outbox": str(tmp_path)}
    )

    assert steps.send(context)["rows"] == 64
    assert list(context.recorder.saved) == [f"ecb_fx_{KNOWN_DAY}.csv"]
    assert context.recorder.warned == 1


def test_extract_reports_how_many_rates_there_are() -> None:
    context = StepContext(params={"date": KNOWN_DAY})

    steps.extract(context)

    latest = context.recorder.latest
    assert latest.metrics == {"totalRecords": 32}
    assert (latest.percent, latest.message) == (100, "32 rates of 2021-07-01")


def test_sending_twice_leaves_one_identical_file(tmp_path: Path) -> None:
    made = transform(KNOWN_DAY)
    reordered = made | {"series": dict(reversed(made["series"].items()))}

    first = send(made, outbox=str(tmp_path))
    content = Path(first["path"]).read_bytes()
    second = send(reordered, outbox=str(tmp_path))

    assert first == second
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [content]


def test_a_write_that_fails_leaves_the_file_before_it_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = transform(KNOWN_DAY)
    sent = send(made, outbox=str(tmp_path))
    monkeypatch.setattr("os.fsync", _disk_full)

    with pytest.raises(OSError, match="no space left"):
        send(made | {"cross_rates": {}}, outbox=str(tmp_path))

    (left,) = tmp_path.iterdir()
    assert hashlib.sha256(left.read_bytes()).hexdigest() == sent["sha256"]


def _disk_full(_file: int) -> None:
    raise OSError("no space left on device")


def test_the_outbox_stands_in_the_data_folder_unless_the_workflow_names_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_DATA_DIR", str(tmp_path))

    sent = send(transform(KNOWN_DAY))

    assert Path(sent["path"]) == tmp_path.resolve() / "outbox/ecb_fx/ecb_fx_2021-07-01.csv"


def test_load_without_a_database_fails_and_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("ECB_DATABASE_URL", raising=False)
    monkeypatch.delenv("ORCHESTRATOR_DATABASE_URL", raising=False)
    made = transform(KNOWN_DAY)

    with pytest.raises(FailStep, match="set ECB_DATABASE_URL or ORCHESTRATOR_DATABASE_URL"):
        steps.load(StepContext(args=made))


def test_load_refuses_another_driver_without_showing_the_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ECB_DATABASE_URL", "postgresql://loader:secret@db/rates")
    made = transform(KNOWN_DAY)

    with pytest.raises(FailStep) as failure:
        steps.load(StepContext(args=made))

    assert str(failure.value) == "the database's URL must begin with postgresql+psycopg2://"


def test_every_step_of_the_workflow_uses_a_handler_that_exists() -> None:
    workflow = yaml.safe_load(Path(steps.__file__).with_name("workflow.yaml").read_text())

    handlers = [step["uses"].rpartition(".") for step in workflow["steps"]]

    assert [step["key"] for step in workflow["steps"]] == ["EXTRACT", "TRANSFORM", "SEND", "LOAD"]
    assert all(callable(getattr(importlib.import_module(m), name)) for m, _, name in handlers)
