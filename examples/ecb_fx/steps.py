"""The four steps of ECB_FX. Each is idempotent: it reads only, or writes the same again."""

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from sqlalchemy import Engine, NullPool, create_engine

from config.settings import Settings
from examples.ecb_fx import chart, outbox, rates, tables
from examples.ecb_fx.rates import EURO, Day, RatesError
from orchestrator import FailStep, StepContext, step

ARCHIVE = Path(__file__).with_name("eurofxref-hist.zip")
CROSS_BASE = "USD"
_DRIVER = "postgresql+psycopg2://"


@step
def extract(context: StepContext) -> dict[str, Any]:
    """Read the rates of one day from the ECB's archive; fails if that day has none."""
    requested = date.fromisoformat(context.params["date"])
    context.progress(0, 1, stage="reading the archive")
    day = _read(Path(context.args.get("archive", ARCHIVE)), requested)
    context.log.info("read %d rates of %s", len(day.rates), day.on)
    context.metric("totalRecords", len(day.rates))
    context.progress(1, 1, message=f"{len(day.rates)} rates of {day.on}")
    return {"date": day.on.isoformat(), "base": EURO, "rates": _as_text(day.rates)}


def _read(archive: Path, day: date) -> Day:
    try:
        with ZipFile(archive) as files, _only_file(files) as text:
            return rates.find_day(csv.reader(text), day)
    except (RatesError, BadZipFile) as error:
        raise FailStep(str(error)) from error


def _only_file(files: ZipFile) -> io.TextIOWrapper:
    names = files.namelist()
    if len(names) != 1:
        raise RatesError(f"the archive holds {len(names)} files instead of one")
    return io.TextIOWrapper(files.open(names[0]), encoding="utf-8", newline="")


def _as_text(values: Mapping[str, Decimal]) -> dict[str, str]:
    # Most readers parse JSON numbers as binary floats; str() would write 0.0000001 as 1E-7.
    return {name: f"{value:f}" for name, value in values.items()}


def _as_decimals(values: Mapping[str, str]) -> dict[str, Decimal]:
    return {name: Decimal(value) for name, value in values.items()}


@step
def transform(context: StepContext) -> dict[str, Any]:
    """Name the rates as series, and derive the cross rates of the dollar."""
    extracted = context.results["EXTRACT"]
    series = _as_decimals(extracted["rates"])
    context.progress(0, 2, stage="deriving cross rates")
    try:
        crosses = rates.cross_rates(series, CROSS_BASE)
    except RatesError as error:
        raise FailStep(str(error)) from error
    context.log.info("made %d series and %d cross rates", len(series), len(crosses))
    context.progress(2, 2, message=f"{len(series)} series, {len(crosses)} cross rates")
    return {
        "date": extracted["date"],
        "series": _named(f"ECB.{EURO}", series),
        "cross_rates": _named(f"CROSS.{CROSS_BASE}", crosses),
    }


def _named(prefix: str, values: Mapping[str, Decimal]) -> dict[str, str]:
    return {f"{prefix}.{name}": value for name, value in _as_text(values).items()}


@step
def send(context: StepContext) -> dict[str, Any]:
    """Write the day as one CSV file, save it with a chart, and return its checksum."""
    values = context.results["TRANSFORM"]
    rows = _rows(values["date"], values["series"], values["cross_rates"])
    name = f"ecb_fx_{values['date']}"
    context.progress(0, 3, stage="writing the file")
    content = outbox.as_csv(["date", "series", "value"], rows)
    delivery = outbox.deliver(_folder(context), f"{name}.csv", content)
    context.log.info("handed over %s, %d bytes", delivery.path.name, delivery.size)
    title = f"Reference and cross rates of {values['date']}"
    context.save(f"{name}.csv", content, title=title, primary=True, records=len(rows))
    context.progress(1, 3, stage="drawing the chart")
    _save_chart(context, f"{name}.png", values["date"], _as_decimals(values["cross_rates"]))
    context.progress(3, 3)
    return {
        "path": str(delivery.path),
        "bytes": delivery.size,
        "sha256": delivery.sha256,
        "rows": len(rows),
    }


def _save_chart(context: StepContext, name: str, day: str, crosses: Mapping[str, Decimal]) -> None:
    title = f"What one {CROSS_BASE} bought on {day}"
    try:
        picture = chart.as_png(title, crosses)
    except ImportError:
        context.warn("no chart: matplotlib is not installed here", "chart")
        return
    context.save(name, picture, kind="visualization", title=title, records=len(crosses))
    context.log.info("drew %s, %d bytes", name, len(picture))


def _rows(day: str, *groups: Mapping[str, str]) -> Sequence[Sequence[str]]:
    # Sorted, because an object that travelled as JSON may have lost its order.
    return [[day, name, group[name]] for group in groups for name in sorted(group)]


def _folder(context: StepContext) -> Path:
    if "outbox" in context.args:
        return Path(context.args["outbox"])
    return Path(os.environ.get("ORCHESTRATOR_DATA_DIR", ".orchestrator"), "outbox", "ecb_fx")


@step
def load(context: StepContext) -> dict[str, Any]:
    """Write the day into Postgres, series and cross rates in one transaction."""
    day = date.fromisoformat(context.args["date"])
    series = _as_decimals(context.args["series"])
    crosses = _as_decimals(context.args["cross_rates"])
    with _database() as engine:
        tables.create(engine)
        total = len(series) + len(crosses)
        context.progress(0, total, stage="writing rates")
        with engine.begin() as connection:
            tables.upsert(connection, tables.RATES, day, series)
            context.progress(len(series), total, stage="writing cross rates")
            tables.upsert(connection, tables.CROSS_RATES, day, crosses)
    context.metric("recordsProcessed", total)
    message = f"Updated {len(series)} series for {day}"
    context.data(series={day: sorted([*series, *crosses])}, message=message)
    context.progress(total, total)
    context.log.info(message)
    return {
        "message": message,
        "date": day.isoformat(),
        "series": len(series),
        "cross_rates": len(crosses),
        "table": tables.RATES.fullname,
        "cross_table": tables.CROSS_RATES.fullname,
        "ids": sorted([*series, *crosses]),
    }


@contextmanager
def _database() -> Iterator[Engine]:
    # One connection per run: a pool would keep it open unused.
    engine = create_engine(_database_url(), poolclass=NullPool)
    try:
        yield engine
    finally:
        engine.dispose()


def _database_url() -> str:
    # The worker's own URL, which is not in its environment: an example needs no second database.
    url = os.environ.get("ECB_DATABASE_URL") or Settings.from_env().database_url
    if not url:
        raise FailStep(
            "no database to load into: set ECB_DATABASE_URL or ORCHESTRATOR_DATABASE_URL"
        )
    if not url.startswith(_DRIVER):
        raise FailStep(f"the database's URL must begin with {_DRIVER}")
    return url
