"""A copy under a slot's snapshot: each table stands exactly at its position, whatever became of the first snapshot."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import workers
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.copy import CopyResult, copy
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Selection
from integration.conftest import Pair
from integration.transfer.cases import wait_until

ALL = Selection.from_args()
SLOT = "copy_slot_test"


@pytest.fixture
def slotted(pair: Pair) -> Iterator[Pair]:
    """Small and big, each row with the number of the transaction that wrote it; the slot is gone afterwards."""
    pair.on_both("CREATE TABLE small (id int PRIMARY KEY)", "CREATE TABLE big (id int PRIMARY KEY, b text)")
    pair.on_source(
        "INSERT INTO small SELECT generate_series(1, 10)", "INSERT INTO big SELECT g, repeat('x', 200) FROM generate_series(1, 60000) g"
    )
    pair.on_source("CREATE PUBLICATION p FOR ALL TABLES")
    yield pair
    pair.on_source(f"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{SLOT}'")


def slots_of(pair: Pair) -> list[tuple[Any, ...]]:
    return pair.on_source("SELECT slot_name::text, temporary, plugin::text FROM pg_replication_slots ORDER BY 1")


def inserted_after(pair: Pair, table: str, lsn: str) -> set[int]:
    """Keys whose insertion the slot sends with a commit at or above this position: what an applier would add to the copy."""
    oid = pair.on_source(f"SELECT '{table}'::regclass::oid::bigint")[0][0]
    # A commit that is waited for brings those before it to the log, too.
    pair.on_source("SET synchronous_commit = on", "SELECT pg_logical_emit_message(true, 'test', '')")
    options = "'proto_version', '1', 'publication_names', 'p'"
    rows = pair.on_source(f"SELECT data FROM pg_logical_slot_peek_binary_changes('{SLOT}', NULL, NULL, {options})")
    high, _unused, low = lsn.partition("/")
    edge = int(high, 16) << 32 | int(low, 16)
    found: set[int] = set()
    commit = 0
    for (data,) in rows:
        if data[:1] == b"B":
            commit = struct.unpack_from("!Q", data, 1)[0]
        elif data[:1] == b"I" and commit >= edge and struct.unpack_from("!I", data, 1)[0] == oid:
            length = struct.unpack_from("!I", data, 9)[0]
            found.add(int(data[13 : 13 + length]))
    return found


def test_copy_and_the_slots_changes_make_the_source(slotted: Pair) -> None:
    assert copy(slotted.source, slotted.target, ALL, workers=2, slot=SLOT, check=True).changed and slots_of(slotted) == []
    done = threading.Event()
    written = 10

    def write() -> None:
        nonlocal written
        with slotted.source_server.connect(slotted.dbname) as conn:
            while not done.is_set() and written < 5000:
                written += 1
                conn.execute("INSERT INTO small VALUES (%s)", (written,))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        result = copy(slotted.source, slotted.target, ALL, workers=2, slot=SLOT)
    finally:
        done.set()
        writer.join(30)
    lsn = {table.name: table.snapshot_lsn for table in result.tables}["public.small"]
    assert slots_of(slotted) == [(SLOT, False, "pgoutput")] and lsn == result.snapshot_lsn and written > 11
    copied = {row[0] for row in slotted.on_target("SELECT id FROM small")}
    later = inserted_after(slotted, "small", str(lsn))
    assert not copied & later and copied | later == set(range(1, written + 1)) and later
    again = copy(slotted.source, slotted.target, ALL, workers=2, slot=SLOT)
    assert not again.changed and slots_of(slotted) == [(SLOT, False, "pgoutput")]


def test_after_a_lost_snapshot_each_table_has_its_own_position(slotted: Pair) -> None:
    copy(slotted.source, slotted.target, Selection.from_args(["public.small"]), slot=SLOT)
    first = slotted.on_target("SELECT snapshot_lsn::text FROM cutover.run")[0][0]
    slotted.on_source("INSERT INTO small VALUES (11)", "INSERT INTO big VALUES (0, 'new')")
    result = copy(slotted.source, slotted.target, ALL, workers=2, slot=SLOT)
    lsns = {table.name: table.snapshot_lsn for table in result.tables}
    assert lsns["public.small"] == first and lsns["public.big"] != first and not result.consistent
    assert slotted.on_target("SELECT (SELECT count(*) FROM small), (SELECT count(*) FROM big WHERE id = 0)") == [(10, 1)]
    assert inserted_after(slotted, "small", str(first)) == {11} and inserted_after(slotted, "big", str(lsns["public.big"])) == set()
    assert slots_of(slotted) == [(SLOT, False, "pgoutput")], "the temporary slot has gone"


def test_a_slot_that_is_lost_ends_the_run_and_is_named(slotted: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "HEARTBEAT_SECONDS", 0.2)
    slotted.on_target(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN IF NEW.id % 2000 = 0 THEN PERFORM pg_sleep(0.2); END IF; RETURN NEW; END$$",
        "CREATE TRIGGER slow BEFORE INSERT ON big FOR EACH ROW EXECUTE FUNCTION slow()",
        "ALTER TABLE big ENABLE ALWAYS TRIGGER slow",
    )
    found: list[CopyResult | BaseException] = []

    def run() -> None:
        try:
            found.append(copy(slotted.source, slotted.target, ALL, workers=2, slot=SLOT))
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    small = "SELECT count(*) FROM cutover.chunk WHERE state = 'done'"
    wait_until(lambda: bool(slotted.on_target("SELECT to_regclass('cutover.chunk')")[0][0]) and slotted.on_target(small) == [(1,)], "small")
    slotted.on_source(f"SELECT pg_drop_replication_slot('{SLOT}')")
    thread.join(60)
    assert isinstance(found[0], TransferError) and found[0].details["kind"] == "slot_lost" and SLOT in found[0].message
    with pytest.raises(TransferError) as caught:
        copy(slotted.source, slotted.target, ALL, workers=2, slot=SLOT)
    assert caught.value.details["kind"] == "slot_lost", "what is copied under a slot that is gone cannot be completed"


def test_runs_with_different_slots_do_not_mix(slotted: Pair) -> None:
    copy(slotted.source, slotted.target, Selection.from_args(["public.small"]))
    with pytest.raises(TransferError, match="none") as caught:
        copy(slotted.source, slotted.target, ALL, slot=SLOT)
    assert caught.value.details["kind"] == "slot_mismatch" and slots_of(slotted) == []
