"""Case 30: more log is written than the source keeps for the slot of a copy. The copy ends soon, the source does not fill, and there is a way on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import session, slots, workers
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.copy import CopyResult, copy
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Selection
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.verify import verify
from integration.conftest import Pair, Server, own
from integration.transfer.cases import wait_until
from pgservers import Fleet, debian_programs

ALL = Selection.from_args()
SLOT = "case_30"
GATE = 30  # advisory lock that keeps a table from being filled
MB = 1_000_000
WRITTEN = 320 * MB
# max_slot_wal_keep_size, and what a checkpoint keeps beside it, in segments of 16 MB: the running one, those for reuse, rounding.
LIMIT_MB, MOST = 16, (16 + 7 * 16) * MB
# A minute from the limit on, by the requirement.
NOTICE_SECONDS = 60.0


@pytest.fixture
def tight(servers: tuple[Server, Server]) -> Iterator[Pair]:
    """A source of its own that keeps little log for slots. Tables first and last have rows; nobody will read the slot."""
    limits = {"max_slot_wal_keep_size": f"{LIMIT_MB}MB", "min_wal_size": "32MB", "max_wal_size": "64MB", "shared_buffers": "32MB"}
    with Fleet(limits) as fleet:
        pair = Pair(own(fleet.start(tight=debian_programs())[0]), servers[1], "case_30")
        for server in (pair.source_server, pair.target_server):
            server.execute("postgres", "CREATE DATABASE case_30 TEMPLATE template0")
        pair.on_both("CREATE TABLE first (id int PRIMARY KEY, b text)", "CREATE TABLE last (id int PRIMARY KEY, b text)")
        pair.on_source(
            "INSERT INTO first SELECT g, repeat('x', 300) FROM generate_series(1, 20000) g",
            "INSERT INTO last SELECT g, 'y' FROM generate_series(1, 1000) g",
        )
        pair.on_target(
            f"CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock_shared({GATE}); RETURN NEW; END $$",
            "CREATE TRIGGER wait BEFORE INSERT ON last FOR EACH STATEMENT EXECUTE FUNCTION wait()",
            "ALTER TABLE last ENABLE ALWAYS TRIGGER wait",
        )
        try:
            yield pair
        finally:
            pair.target_server.execute("postgres", "DROP DATABASE case_30 WITH (FORCE)")


def copied(pair: Pair) -> CopyResult:
    return copy(pair.source, pair.target, ALL, workers=2, slot=SLOT)


class HeldUp(threading.Thread):
    """A copy that has done table first and cannot begin with last."""

    def __init__(self, pair: Pair) -> None:
        super().__init__(daemon=True)
        self.pair = pair
        self.failure: TransferError | None = None

    def run(self) -> None:
        try:
            copied(self.pair)
        except TransferError as error:
            self.failure = error

    def outcome(self, seconds: float) -> TransferError:
        """What the copy has failed with."""
        self.join(seconds)
        assert not self.is_alive(), f"the copy has gone on for {seconds:.0f} s"
        assert self.failure is not None, "the copy was complete"
        return self.failure


@contextmanager
def held_up(pair: Pair) -> Iterator[HeldUp]:
    done = "SELECT EXISTS (SELECT FROM cutover.chunk WHERE source_table = 'first' AND state = 'done')"
    with pair.target_server.connect(pair.dbname) as gate:
        gate.execute(f"SELECT pg_advisory_lock({GATE})")
        run = HeldUp(pair)
        run.start()
        wait_until(lambda: pair.on_target("SELECT to_regclass('cutover.chunk') IS NOT NULL")[0][0], "the ledger")
        wait_until(lambda: pair.on_target(done)[0][0] or not run.is_alive(), "the copy of the first table")
        yield run


def write_log(pair: Pair, size: int) -> None:
    """Log that no table is part of."""
    with pair.source_server.connect(pair.dbname) as conn:
        for _unused in range(size // (4 * MB)):
            conn.execute("SELECT pg_logical_emit_message(false, 'noise', repeat('x', %s))", (4 * MB,))


def set_on_source(pair: Pair, name: str, value: str) -> None:
    """Change a setting. A session that knows it began after every process of the server was told."""
    pair.on_source(f"ALTER SYSTEM SET {name} = '{value}'", "SELECT pg_reload_conf()")
    wait_until(lambda: pair.on_source(f"SHOW {name}") == [(value,)], f"the new {name}")


def health(pair: Pair) -> slots.Health:
    with session.connect(pair.source, application_name="test") as conn:
        return slots.health(conn, SLOT)


def finished(pair: Pair) -> list[tuple[Any, ...]]:
    return pair.on_target("SELECT source_table, number, finished FROM cutover.chunk WHERE state = 'done' ORDER BY 1, 2")


def test_case_30_slot_lost_in_mid_copy_is_told_within_a_minute_and_the_copy_begins_again(tight: Pair) -> None:
    with held_up(tight) as run:
        write_log(tight, WRITTEN)
        tight.on_source("CHECKPOINT")
        began = time.monotonic()
        assert health(tight).wal_status == "lost"
        lost = run.outcome(NOTICE_SECONDS)
        seconds = time.monotonic() - began
    assert lost.details["kind"] == "slot_lost" and lost.details["reason"] == "wal_removed" and SLOT in lost.message
    assert seconds < NOTICE_SECONDS
    # What the slot held back is gone, although many times as much was written.
    tight.on_source("CHECKPOINT")
    assert tight.on_source("SELECT sum(size) FROM pg_ls_waldir()")[0][0] < MOST < WRITTEN / 2
    ours = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'cutover%' AND datname = 'case_30'"
    assert tight.on_target(ours) == [(0,)]
    # Running it again is no way on, and says so before it copies anything.
    with pytest.raises(TransferError) as caught:
        copied(tight)
    assert caught.value.details["kind"] == "slot_lost" and caught.value.details["restart"] == lost.details["restart"]
    assert f"max_slot_wal_keep_size (it is {LIMIT_MB}MB)" in lost.remedy
    restart = lost.details["restart"]
    assert all(statement in lost.remedy for statement in (*restart["source"], *restart["target"]))
    set_on_source(tight, "max_slot_wal_keep_size", "1GB")
    tight.on_source(*restart["source"])
    # The target stays closed meanwhile: what stands in schema cutover for that is not touched.
    tight.on_target("CREATE TABLE cutover.of_another (a int)", *restart["target"])
    assert tight.on_target("SELECT (SELECT count(*) FROM first), (SELECT count(*) FROM cutover.run)") == [(0, 0)]
    again = copied(tight)
    write_log(tight, 64 * MB)
    tight.on_source("CHECKPOINT")
    assert again.consistent and not again.resumed and health(tight).usable
    assert verify(tight.source, tight.target, ALL).equal
    assert tight.on_target("SELECT to_regclass('cutover.of_another')::text") == [("cutover.of_another",)]


def test_case_30_slot_about_to_be_lost_is_told_while_it_can_be_saved(tight: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "HEARTBEAT_SECONDS", 0.5)
    # No checkpoint comes by itself.
    set_on_source(tight, "max_wal_size", "4GB")
    with held_up(tight) as run:
        write_log(tight, 80 * MB)
        assert health(tight).wal_status == "unreserved"
        danger = run.outcome(NOTICE_SECONDS)
    assert danger.details["kind"] == "slot_in_danger" and danger.details["retained_bytes"] > LIMIT_MB * MB
    assert f"max_slot_wal_keep_size is {LIMIT_MB}MB" in danger.message and "SELECT pg_reload_conf();" in danger.remedy
    before = finished(tight)
    set_on_source(tight, "max_slot_wal_keep_size", "1GB")
    tight.on_source("CHECKPOINT")
    again = copied(tight)
    assert again.resumed and health(tight).usable and set(before) < set(finished(tight)), "a finished chunk was copied again"
    assert verify(tight.source, tight.target, ALL).equal
