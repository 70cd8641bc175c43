"""Files that steps save: bytes in the artifact store, a row of metadata beside the run."""

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import delete, exists, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, aliased
from uuid_utils.compat import uuid7

from orchestrator.db import journal, lookups, statements, transitions
from orchestrator.db.database import Database
from orchestrator.errors import Conflict, LeaseLost, NotFound
from orchestrator.models import Artifact, ArtifactKind, Step
from orchestrator.outputs import writer
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

MAX_ARTIFACTS = 1000  # of one attempt

_SAVED_FILES = """
    SELECT count(*) FILTER (WHERE name <> :name) AS others,
        max(address) FILTER (WHERE name = :name) AS address
    FROM artifacts WHERE step_id = :step_id AND attempt = :attempt
"""


class TooManyArtifacts(Conflict):
    """The attempt has saved MAX_ARTIFACTS files."""

    code = "too_many"


def save(
    database: Database,
    files: ArtifactStore,
    source: AttemptRef,
    spec: FileSpec,
    content: Content,
    *,
    limit: int,
    within: timedelta,
) -> SavedFile:
    """Write the bytes to the store, then the row, retrying the transaction for `within`.

    Raises ArtifactTooLarge, TooManyArtifacts, LeaseLost when the attempt no longer runs, and
    Unavailable when the store cannot be reached.
    """
    if (content_size(content) or 0) > limit:
        raise ArtifactTooLarge(f"{spec.name!r}: a file of more than {limit:,} bytes is not kept")
    address = f"{source.tenant_id}/{source.run_id}/{source.step_id}/{source.attempt}/{uuid4().hex}"
    stored = files.write(address, chunks(content), limit)
    transactions = 0

    def write(session: Session) -> tuple[UUID, str | None]:
        nonlocal transactions
        transactions += 1
        return _add(session, source, spec, stored, address)

    try:
        artifact_id, replaced = database.run_with_retry(write, within=within)
    except (LeaseLost, TooManyArtifacts):
        if transactions == 1:  # otherwise an earlier commit in doubt may have written the row
            files.remove(address)
        raise
    if replaced not in (None, address):
        files.remove(replaced)
    return SavedFile(name=spec.name, size=stored.size, sha256=stored.sha256, id=str(artifact_id))


def save_input(
    session: Session,
    files: ArtifactStore,
    step: Step,
    spec: FileSpec,
    content: bytes,
    *,
    limit: int,
) -> Artifact:
    """Save a file that a caller uploads for a step of a run, as of its attempt 0.

    It replaces one of the same name. Raises ArtifactTooLarge, and Unavailable when the store cannot
    be reached. When the transaction fails, its bytes are left without a row.
    """
    address = f"{step.tenant_id}/{step.run_id}/{step.id}/0/{uuid4().hex}"
    stored = files.write(address, [content], limit)
    same = (Artifact.step_id == step.id, Artifact.attempt == 0, Artifact.name == spec.name)
    session.execute(delete(Artifact).where(*same))
    artifact = Artifact(
        tenant_id=step.tenant_id,
        run_id=step.run_id,
        step_id=step.id,
        step=step.key,
        attempt=0,
        name=spec.name,
        kind=ArtifactKind(spec.kind),
        title=spec.shown_title,
        media_type=spec.shown_type,
        address=address,
        **vars(stored),
    )
    session.add(artifact)
    session.flush()
    session.refresh(artifact)
    return artifact


def save_result(
    database: Database, files: ArtifactStore, source: AttemptRef, text: str, *, within: timedelta
) -> UUID:
    """Save a step's result, as JSON, that is too large for its row. Raises what `save` raises."""
    spec = FileSpec(name=RESULT_NAME, kind=RESULT, title=f"Result of {source.step}"[:500])
    content = text.encode()
    saved = save(database, files, source, spec, content, limit=len(content), within=within)
    return UUID(saved.id)


def read_results(
    database: Database, files: ArtifactStore, artifact_ids: Mapping[str, UUID]
) -> dict[str, Any]:
    """Results that `save_result` saved, by step key. Raises NotFound and Unavailable."""
    if not artifact_ids:
        return {}
    ids = set(artifact_ids.values())
    with database.transaction() as session:
        statement = select(Artifact.id, Artifact.address).where(Artifact.id.in_(ids))
        addresses = {row.id: row.address for row in session.execute(statement)}
    if addresses.keys() != ids:
        raise NotFound("the result of a step this one reads is gone")
    return {key: json.loads(files.read(addresses[each])) for key, each in artifact_ids.items()}


def of_run(
    session: Session,
    tenant_id: UUID,
    run_id: UUID,
    *,
    step_id: UUID | None = None,
    after: int = 0,
    limit: int = 100,
) -> Sequence[Artifact]:
    """The files of a run, or of one step, by number; of one name only the latest attempt's."""
    newer = aliased(Artifact)
    replaced = exists(newer.id).where(
        newer.step_id == Artifact.step_id,
        newer.attempt > Artifact.attempt,
        newer.name == Artifact.name,
    )
    of_this_run = Artifact.tenant_id == tenant_id, Artifact.run_id == run_id
    statement = select(Artifact).where(*of_this_run, ~replaced)
    if step_id is not None:
        statement = statement.where(Artifact.step_id == step_id)
    return lookups.page_after(session, statement, Artifact.number, after, limit)


def get(session: Session, tenant_id: UUID, artifact_id: UUID | int) -> Artifact:
    """A file by id or number. Raises NotFound."""
    return lookups.find(session, Artifact, tenant_id, artifact_id)


def _add(
    session: Session, source: AttemptRef, spec: FileSpec, stored: StoredArtifact, address: str
) -> tuple[UUID, str | None]:
    """Insert or replace the row of a file; gives its id and the address of the replaced file."""
    run = transitions.lock_run(session, source.run_id)
    if run is None or not writer.is_running(session, source):
        raise LeaseLost(f"attempt {source.attempt} of step {source.step!r} has ended already")
    saved = statements.rows(session, _SAVED_FILES, **vars(source), name=spec.name)[0]
    if saved.others >= MAX_ARTIFACTS:
        raise TooManyArtifacts(f"an attempt saves at most {MAX_ARTIFACTS:,} files")
    values = {
        **{name: value for name, value in vars(source).items() if name != "started_at"},
        "name": spec.name,
        "kind": ArtifactKind(spec.kind),
        "title": spec.shown_title,
        "primary": spec.primary,
        "media_type": spec.shown_type,
        **vars(stored),
        "records": spec.records,
        "extra": dict(spec.extra),
        "address": address,
    }
    statement = insert(Artifact).values(id=uuid7(), **values)
    keys = ["step_id", "attempt", "name"]
    changed = {name: statement.excluded[name] for name in values if name not in keys}
    upsert = statement.on_conflict_do_update(index_elements=keys, set_=changed)
    artifact_id: UUID = session.scalars(upsert.returning(Artifact.id)).one()
    place: dict[str, Any] = {"step": source.step, "attempt": source.attempt}
    file: dict[str, Any] = {"name": spec.name, "kind": spec.kind, "size": stored.size}
    journal.record_event(session, source.run_id, "step.artifact", **place, id=artifact_id, **file)
    return artifact_id, saved.address
