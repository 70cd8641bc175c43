"""The audit log: who changed what, by which request, in a chain of hashes for each tenant."""

from orchestrator.audit.chain import ChainReport, document, entry_hash, link, verify
from orchestrator.audit.log import SYSTEM, Change, command_actor, record, record_all, sweep_actor
from orchestrator.audit.queries import AuditFilter, Moment, latest_actors, linked_entries, page

__all__ = [
    "SYSTEM", "AuditFilter", "ChainReport", "Change", "Moment", "command_actor", "document",
    "entry_hash", "latest_actors", "link", "linked_entries", "page", "record", "record_all",
    "sweep_actor", "verify",
]  # fmt: skip
