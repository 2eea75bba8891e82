"""Whether two servers are as they were: numbers of transactions that wrote, rows written, catalogue rows and temporary objects."""

from __future__ import annotations

from typing import Any

from integration.conftest import Pair
from integration.transfer.cases import wait_until

CATALOGUES = (
    "pg_class", "pg_attribute", "pg_proc", "pg_namespace", "pg_trigger", "pg_constraint", "pg_type", "pg_policy", "pg_authid", "pg_auth_members",
    "pg_db_role_setting", "pg_database", "pg_default_acl", "pg_publication", "pg_largeobject_metadata",
)  # fmt: skip


def mark(pair: Pair) -> list[Any]:
    """The state of both sides once all sessions of the engine have ended. Equal marks: nothing was written between them, anywhere on the server."""
    return [_mark(server, pair.dbname) for server in (pair.source_server, pair.target_server)]


def _mark(server: Any, dbname: str) -> tuple[Any, ...]:
    quiet = "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name LIKE 'cutover%'"
    wait_until(lambda: bool(server.execute("postgres", quiet)[0][0]), "the end of the engine's sessions")
    rows = " UNION ALL ".join(
        f"SELECT '{name}', md5(coalesce(string_agg(xmin::text || ctid::text, ',' ORDER BY xmin::text, ctid::text), '')) FROM {name}"
        for name in CATALOGUES
    )
    catalogue = server.execute(
        dbname, f"{rows} UNION ALL SELECT 'slots', string_agg(slot_name, ',' ORDER BY slot_name) FROM pg_replication_slots"
    )
    # A transaction gets a number when it first writes, be it a temporary table: no new number, nothing written.
    number = server.execute("postgres", "SELECT pg_snapshot_xmax(pg_current_snapshot())::text")[0][0]
    written = server.execute(
        "postgres",
        f"SELECT tup_inserted, tup_updated, tup_deleted, temp_files FROM pg_stat_database WHERE datname = '{dbname}'",
    )[0]
    return tuple(catalogue), number, written
