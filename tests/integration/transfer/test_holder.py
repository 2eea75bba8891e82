"""The keeper of a snapshot on a real server: it outlives the one that took the snapshot, and never those who need it by long."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import holder, session
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.workers import import_snapshot
from integration.conftest import Pair
from integration.transfer.cases import wait_until


@contextmanager
def exported(pair: Pair) -> Iterator[tuple[psycopg.Connection[Any], str]]:
    """A mover's session with its exported snapshot."""
    conn = session.connect(pair.source, application_name="test mover", read_only=True)
    try:
        conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        row = conn.execute("SELECT pg_export_snapshot()").fetchone()
        assert row is not None
        yield conn, row[0]
    finally:
        conn.close()


def runs(pid: int) -> bool:
    """Whether the process is there and not merely unreaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def rows_in(pair: Pair, snapshot: str) -> int:
    with session.connect(pair.source, application_name="test rerun", read_only=True) as conn:
        conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        import_snapshot(conn, snapshot)
        row = conn.execute("SELECT count(*) FROM public.t").fetchone()
        assert row is not None
        return int(row[0])


def test_the_snapshot_outlives_its_mover_and_ends_on_release(pair: Pair) -> None:
    pair.on_source("CREATE TABLE t (id int)", "INSERT INTO t VALUES (1)")
    with exported(pair) as (_conn, name):
        kept = holder.keep(pair.source, name, ["public.t"])
    pair.on_source("INSERT INTO t VALUES (2)")
    with pytest.raises(TransferError) as gone:
        rows_in(pair, name)
    assert gone.value.details["kind"] == "snapshot_lost"
    assert rows_in(pair, kept.snapshot) == 1
    with pytest.raises(psycopg.errors.LockNotAvailable):
        pair.on_source("SET lock_timeout = '100ms'", "TRUNCATE t")
    with session.connect(pair.source, application_name="test rerun") as conn:
        assert holder.alive(conn, kept.snapshot)
        assert holder.release(conn, kept.snapshot)
        wait_until(lambda: not holder.alive(conn, kept.snapshot), "the end of the keeper's session", 10)
        assert not holder.release(conn, kept.snapshot)
    wait_until(lambda: not runs(kept.pid), "the end of the keeper", 10)


def test_it_lives_while_someone_attends_and_no_longer_than_its_grace(pair: Pair) -> None:
    with exported(pair) as (_conn, name), exported(pair) as (mover, _name):
        kept = holder.keep(pair.source, name, grace_seconds=1.0)
        holder.attend(mover, kept.snapshot)
        with pytest.raises(AssertionError, match="did not happen"):
            wait_until(lambda: not runs(kept.pid), "the end of an attended keeper", 2.5)
    wait_until(lambda: not runs(kept.pid), "the end of a keeper that nobody attends", 10)


def test_a_killed_keeper_is_noticed_and_the_movers_own_snapshot_stays(pair: Pair) -> None:
    with exported(pair) as (mover, name):
        kept = holder.keep(pair.source, name)
        os.kill(kept.pid, signal.SIGKILL)
        wait_until(lambda: not holder.alive(mover, kept.snapshot), "the end of the killed keeper's session", 10)
        again = holder.keep(pair.source, name)
        assert again.snapshot != kept.snapshot and holder.alive(mover, again.snapshot)
        assert holder.release(mover, again.snapshot)


def test_what_cannot_be_kept_is_refused(pair: Pair) -> None:
    with pytest.raises(TransferError) as gone:
        holder.keep(pair.source, "00000003-0000001B-1")
    assert gone.value.details["kind"] == "snapshot_lost"
    with pytest.raises(TransferError) as unreachable:
        holder.keep(pair.source_server.endpoint(pair.dbname, port=1), "00000003-0000001B-1")
    assert unreachable.value.details["kind"] == "unreachable"
