"""Files that steps save: their bytes in the store, their rows here."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, aliased
from uuid_utils.compat import uuid7

from orchestrator.db import journal, statements, transitions
from orchestrator.db.database import Database
from orchestrator.errors import Conflict, LeaseLost, NotFound
from orchestrator.models import Artifact, ArtifactKind, numbered_or_id
from orchestrator.outputs.storage import ArtifactStore, ArtifactTooLarge, StoredArtifact
from orchestrator.sdk.files import (
    RESULT,
    RESULT_NAME,
    Content,
    FileSpec,
    SavedFile,
    chunks,
    content_size,
)
from orchestrator.sdk.reports import AttemptRef

MOST = 1000  # of one attempt

_MINE = """
    SELECT 1 FROM steps WHERE id = :step_id AND attempt = :attempt AND started_at = :started_at
      AND state = 'running'
"""
_OTHERS = """
    SELECT count(*) FILTER (WHERE name <> :name) AS others,
        max(address) FILTER (WHERE name = :name) AS address
    FROM artifacts WHERE step_id = :step_id AND attempt = :attempt
"""


class TooManyArtifacts(Conflict):
    """An attempt has saved as many files as it may."""

    code = "too_many"


def save(
    database: Database,
    files: ArtifactStore,
    source: AttemptRef,
    draft: FileSpec,
    content: Content,
    *,
    limit: int,
    within: timedelta,
) -> SavedFile:
    """Put the bytes into the store and then a row beside the run, trying again for so long.

    Raises TooLarge, TooMany, LeaseLost when another attempt answers for the step now, and
    Unavailable without the store.
    """
    if (content_size(content) or 0) > limit:
        raise ArtifactTooLarge(f"{draft.name!r}: a file of more than {limit:,} bytes is not kept")
    address = f"{source.tenant_id}/{source.run_id}/{source.step_id}/{source.attempt}/{uuid4().hex}"
    stored = files.write(address, chunks(content), limit)
    tries: list[None] = []

    def write(session: Session) -> tuple[UUID, str | None]:
        tries.append(None)
        return add(session, source, draft, stored, address)

    try:
        artifact_id, before = database.run_with_retry(write, within=within)
    except (LeaseLost, TooManyArtifacts):
        if len(tries) == 1:  # else the row may be there nevertheless, as after any other error
            files.remove(address)
        raise
    if before not in (None, address):
        files.remove(before)
    return SavedFile(name=draft.name, size=stored.size, sha256=stored.sha256, id=str(artifact_id))


def save_result(
    database: Database, files: ArtifactStore, source: AttemptRef, text: str, *, within: timedelta
) -> UUID:
    """Save a step's result, as JSON, that is too large for its row. Raises as `save` does."""
    draft = FileSpec(name=RESULT_NAME, kind=RESULT, title=f"Result of {source.step}"[:500])
    content = text.encode()
    saved = save(database, files, source, draft, content, limit=len(content), within=within)
    return UUID(saved.id)


def read_results(
    database: Database, files: ArtifactStore, artifact_ids: Mapping[str, UUID]
) -> dict[str, Any]:
    """Results that are too large for their rows, by key. Raises NotFound and Unavailable."""
    if not artifact_ids:
        return {}
    with database.transaction() as session:
        asked = select(Artifact.id, Artifact.address).where(Artifact.id.in_(artifact_ids.values()))
        addresses = {row.id: row.address for row in session.execute(asked)}
    return {key: _read(files, addresses.get(each)) for key, each in artifact_ids.items()}


def add(
    session: Session, source: AttemptRef, draft: FileSpec, stored: StoredArtifact, address: str
) -> tuple[UUID, str | None]:
    """Write the row of a file, over the one of the same name; also gives where that one was.

    Raises TooMany, and LeaseLost when another attempt answers for the step now.
    """
    run = transitions.lock_run(session, source.run_id)
    mine = {"step_id": source.step_id, "attempt": source.attempt}
    if run is None or statements.row(session, _MINE, **mine, started_at=source.started_at) is None:
        raise LeaseLost(f"attempt {source.attempt} of step {source.step!r} has ended already")
    there = statements.row(session, _OTHERS, **mine, name=draft.name)
    assert there is not None
    if there.others >= MOST:
        raise TooManyArtifacts(f"an attempt saves at most {MOST:,} files")
    values = _values(source, draft, stored, address)
    written = insert(Artifact).values(id=uuid7(), **values)
    keys = ["step_id", "attempt", "name"]
    changed = {name: written.excluded[name] for name in values if name not in keys}
    upsert = written.on_conflict_do_update(index_elements=keys, set_=changed)
    artifact_id: UUID = session.scalars(upsert.returning(Artifact.id)).one()
    journal.record_event(
        session,
        source.run_id,
        "step.artifact",
        step=source.step,
        attempt=source.attempt,
        id=artifact_id,
        name=draft.name,
        kind=draft.kind,
        size=stored.size,
    )
    return artifact_id, there.address


def of_run(
    session: Session,
    tenant_id: UUID,
    run_id: UUID,
    *,
    step_id: UUID | None = None,
    after: int = 0,
    limit: int = 100,
) -> Sequence[Artifact]:
    """The files of a run, or of one step, in the order they were made.

    Of one name that which the latest attempt saved.
    """
    newer = aliased(Artifact)
    replaced = (
        select(newer.id)
        .where(
            newer.step_id == Artifact.step_id,
            newer.attempt > Artifact.attempt,
            newer.name == Artifact.name,
        )
        .exists()
    )
    asked = select(Artifact).where(
        Artifact.tenant_id == tenant_id,
        Artifact.run_id == run_id,
        Artifact.number > after,
        ~replaced,
    )
    if step_id is not None:
        asked = asked.where(Artifact.step_id == step_id)
    return session.scalars(asked.order_by(Artifact.number).limit(limit)).all()


def get(session: Session, tenant_id: UUID, which: UUID | int) -> Artifact:
    """A file by id or number. Raises NotFound."""
    right = numbered_or_id(Artifact, which)
    asked = select(Artifact).where(right, Artifact.tenant_id == tenant_id)
    found = session.scalar(asked)
    if found is None:
        raise NotFound(f"there is no artifact {which}")
    return found


def addresses(session: Session, run_ids: Iterable[UUID]) -> Sequence[str]:
    """Where the bytes of all files of these runs are, to remove them with their runs."""
    return session.scalars(select(Artifact.address).where(Artifact.run_id.in_(run_ids))).all()


def _values(
    source: AttemptRef, draft: FileSpec, stored: StoredArtifact, address: str
) -> dict[str, Any]:
    return {
        "tenant_id": source.tenant_id,
        "run_id": source.run_id,
        "step_id": source.step_id,
        "step": source.step,
        "attempt": source.attempt,
        "name": draft.name,
        "kind": ArtifactKind(draft.kind),
        "title": draft.shown_title,
        "primary": draft.primary,
        "media_type": draft.shown_type,
        "size": stored.size,
        "sha256": stored.sha256,
        "records": draft.records,
        "extra": dict(draft.extra),
        "address": address,
    }


def _read(files: ArtifactStore, address: str | None) -> Any:
    if address is None:
        raise NotFound("the result of a step this one reads is gone")
    return json.loads(files.read(address))
