"""The chains: each entry of a tenant has a number, and a hash of itself and of the hash before it.

Rows are inserted without both, so that no transaction waits for another one to take the next
number. A sweep links what was committed, in one transaction at a time. Whoever changes, removes or
inserts an entry afterwards changes every hash from there on; who keeps the number and the hash of
one entry elsewhere notices even a chain that was computed anew.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator.db import Row, statements

BATCH = 500  # entries of one statement
MAX_VERIFIED = 100_000  # entries of all tenants together that one verification reads
_COLUMNS = """
    id, tenant_id, number, at, actor, name, key_id, "user", contract, request_id, verb,
    object_type, object_id, before, after
"""
_HASHED = tuple(name.strip(' \n"') for name in _COLUMNS.split(","))
_UNLINKED = f"SELECT {_COLUMNS} FROM audit WHERE hash IS NULL ORDER BY id LIMIT :limit"
_HEADS = """
    SELECT tenant_id, number, hash FROM audit_heads
    WHERE tenant_id = ANY(CAST(:tenant_ids AS uuid[]))
"""
_LINK = """
    UPDATE audit SET number = link.number, hash = link.hash
    FROM unnest(CAST(:ids AS uuid[]), CAST(:numbers AS bigint[]), CAST(:hashes AS text[]))
        AS link(id, number, hash)
    WHERE audit.id = link.id AND audit.hash IS NULL
"""
_SET_HEADS = """
    INSERT INTO audit_heads (tenant_id, number, hash)
    SELECT * FROM unnest(CAST(:tenant_ids AS uuid[]), CAST(:numbers AS bigint[]),
        CAST(:hashes AS text[]))
    ON CONFLICT (tenant_id) DO UPDATE SET number = excluded.number, hash = excluded.hash
"""
# Also tenants without a head, and heads without a tenant.
_CHAINS = """
    SELECT owner.id AS tenant_id, coalesce(audit_heads.number, 0) AS number, audit_heads.hash,
        coalesce(last.number, 0) AS last, last.hash AS last_hash
    FROM (SELECT id FROM tenants UNION SELECT tenant_id FROM audit_heads) AS owner
        LEFT JOIN audit_heads ON audit_heads.tenant_id = owner.id
        LEFT JOIN LATERAL (
            SELECT number, hash FROM audit WHERE tenant_id = owner.id AND number IS NOT NULL
            ORDER BY number DESC LIMIT 1
        ) AS last ON true
    WHERE coalesce(audit_heads.number, last.number) IS NOT NULL ORDER BY owner.id
"""
_WAITING = """
    SELECT count(*) AS entries FROM audit
    WHERE hash IS NULL AND at < now() - CAST(:patience AS interval)
"""
_HASH_OF = "SELECT hash FROM audit WHERE tenant_id = :tenant_id AND number = :number"
_NEXT = f"""
    SELECT {_COLUMNS}, hash FROM audit WHERE tenant_id = :tenant_id AND number > :after
    ORDER BY number LIMIT :limit
"""

_TRIGGERS = """
    SELECT count(*) AS active FROM pg_trigger
    WHERE tgrelid = CAST('audit' AS regclass) AND tgname IN ('keep', 'keep_all')
      AND tgenabled IN ('O', 'A')
"""


@dataclass
class ChainReport:
    """How many entries there are, how many were verified, and what is wrong."""

    chains: int = 0
    entries: int = 0
    verified: int = 0
    waiting: int = 0  # for their number, longer than the patience
    mistakes: list[str] = field(default_factory=list)  # the first one of each chain


def document(entry: Any) -> dict[str, Any]:
    """An entry as JSON, without its hash: what is hashed and exported."""
    return {name: _plain(getattr(entry, name)) for name in _HASHED}


def entry_hash(previous: str, entry: dict[str, Any]) -> str:
    """SHA-256 of the hash before and the entry as JSON: sorted, without spaces, in UTF-8."""
    text = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(f"{previous}{text}".encode()).hexdigest()


def link(session: Session) -> int:
    """Number and chain the oldest entries that are not; gives how many."""
    if not statements.try_advisory_lock(session, "audit", when="true"):
        return 0
    entries = statements.rows(session, _UNLINKED, limit=BATCH)
    tenant_ids = list({entry.tenant_id for entry in entries})
    heads = statements.rows(session, _HEADS, tenant_ids=tenant_ids)
    last = dict.fromkeys(tenant_ids, (0, ""))
    last |= {head.tenant_id: (head.number, head.hash) for head in heads}
    links = []
    for entry in entries:
        number, previous = last[entry.tenant_id]
        hashed = entry_hash(previous, {**document(entry), "number": number + 1})
        last[entry.tenant_id] = number + 1, hashed
        links.append((entry.id, number + 1, hashed))
    if links:
        _write(session, _LINK, "ids", links)
        ends = [(tenant_id, *end) for tenant_id, end in last.items()]
        _write(session, _SET_HEADS, "tenant_ids", ends)
    return len(links)


def verify(
    session: Session,
    *,
    patience: timedelta,
    limit: int = MAX_VERIFIED,
    progress: Callable[[ChainReport], None] = lambda _: None,
) -> ChainReport:
    """Check the chains: the hashes of their newest entries, up to a limit, and their ends.

    `progress` is called with the report so far.
    """
    chains = statements.rows(session, _CHAINS)
    report = ChainReport(chains=len(chains), entries=sum(chain.last for chain in chains))
    if statements.rows(session, _TRIGGERS)[0].active < 2:
        report.mistakes.append(
            "the trigger that keeps the audit log as it is, is off or gone; look who did that, then"
            " run: ALTER TABLE audit ENABLE TRIGGER USER"
        )
    report.waiting = statements.rows(session, _WAITING, patience=patience)[0].entries
    for place, chain in enumerate(chains):
        share = (limit - report.verified) // (len(chains) - place)
        mistake = _link_mistake(session, chain, max(1, share), report, progress)
        if mistake := mistake or _end_mistake(chain):
            report.mistakes.append(f"the audit log of tenant {chain.tenant_id}: {mistake}")
    return report


def _write(session: Session, statement: str, key: str, links: list[tuple[UUID, int, str]]) -> None:
    ids, numbers, hashes = (list(column) for column in zip(*links, strict=True))
    statements.execute(session, statement, **{key: ids}, numbers=numbers, hashes=hashes)


def _end_mistake(chain: Row) -> str | None:
    """Whether the last entry is the one that was linked last."""
    if chain.last < chain.number:
        return f"entries are missing at its end: the last one is {chain.last} of {chain.number}"
    if chain.last > chain.number or chain.last_hash != chain.hash:
        return f"entry {min(chain.last, chain.number + 1)} was not written by the sweep"
    return None


def _link_mistake(
    session: Session,
    chain: Row,
    limit: int,
    report: ChainReport,
    progress: Callable[[ChainReport], None],
) -> str | None:
    """The first wrong one of a chain's newest entries."""
    end = min(chain.last, chain.number)
    tenant_id, number = chain.tenant_id, max(0, end - limit)
    first = statements.row(session, _HASH_OF, tenant_id=tenant_id, number=number)
    previous = first.hash if first else ""
    while number < end:
        size = min(BATCH, end - number)
        entries = statements.rows(session, _NEXT, tenant_id=tenant_id, after=number, limit=size)
        if not entries:
            return f"entry {number + 1} is missing"
        for entry in entries:
            number += 1
            if entry.number != number:
                return f"entry {number} is missing"
            if entry.hash != entry_hash(previous, document(entry)):
                return f"entry {number} was changed, or the one before it"
            previous = entry.hash
            report.verified += 1
        progress(report)
    return None


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return str(value) if isinstance(value, UUID) else value
