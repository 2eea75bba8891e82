"""What happens to single partitions of a table that is published through the table on top, which no stream tells."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import session
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Selection
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream import leaves, turning
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.proof import verify_following
from integration.conftest import Pair
from integration.transfer.moving import ALL, Move, moved

PARTED = (
    "CREATE TABLE parted (id int PRIMARY KEY, memo text) PARTITION BY RANGE (id)",
    *(f"CREATE TABLE p_{n} PARTITION OF parted FOR VALUES FROM ({n * 100}) TO ({n * 100 + 100})" for n in range(4)),
    "INSERT INTO parted SELECT g, 'first' FROM generate_series(0, 299) g WHERE g % 100 < 90",
    "CREATE TABLE quiet (id int PRIMARY KEY) PARTITION BY RANGE (id)",
    "CREATE TABLE q_0 PARTITION OF quiet DEFAULT",
    "INSERT INTO quiet SELECT generate_series(1, 50)",
)
# With rows in it, as no client of a stream will hear.
ATTACH = (
    "ALTER TABLE parted DETACH PARTITION p_3",
    "SET session_replication_role = replica",
    "INSERT INTO p_3 SELECT g, 'attached' FROM generate_series(300, 339) g",
    "ALTER TABLE parted ATTACH PARTITION p_3 FOR VALUES FROM (300) TO (400)",
)


@pytest.fixture
def move(pair: Pair, tmp_path: Path) -> Iterator[Move]:
    """With partitioned tables, all rows proven equal, the stream running; only tables on top are published."""
    with moved(pair, tmp_path, *PARTED) as made:
        pair.on_source("DROP PUBLICATION p", "CREATE PUBLICATION p FOR TABLE parted, quiet WITH (publish_via_partition_root = true)")
        with made.forward.running():
            made.forward.caught_up()
            assert verify_following(pair.source, pair.target, ALL, workers=2).equal
            yield made


def noted(pair: Pair, direction: str = "forward") -> leaves.Leaves:
    with session.connect(pair.target if direction == "forward" else pair.source, application_name="test") as conn:
        return turning.leaves_at_proof(conn, direction)


def test_case_38_partitions_emptied_and_attached_since_the_proof_are_brought_over_before_writes_stop(move: Move) -> None:
    pair = move.pair
    assert set(noted(pair)) == {("public", "parted"), ("public", "quiet")}
    pair.on_source("TRUNCATE p_0", *ATTACH, "VACUUM FULL q_0", "INSERT INTO parted VALUES (95, 'after')")
    move.forward.caught_up()
    assert pair.on_target("SELECT count(*) FROM parted") == [(271,)], "a row came, and nothing else is known there"
    done = move.switch(afterwards="full")
    assert done["ahead"]["partitions"] == ["public.parted", "public.quiet"] and done["ahead"]["mended_rows"] >= 90 + 40
    assert done["resync"]["ranges"] == 0 and done["proof"]["mode"] == "dirty" and done["afterwards"]["equal"]
    assert pair.on_target("SELECT count(*), count(*) FILTER (WHERE memo = 'after') FROM parted") == [(221, 1)]


def test_case_38_a_partition_emptied_in_the_last_moment_is_brought_over_under_the_freeze(move: Move) -> None:
    pair = move.pair

    def fault(point: str) -> None:
        if point == "freeze":
            pair.on_source("TRUNCATE p_1")

    done = move.switch(afterwards="full", fault=fault)
    assert "partitions" not in done["ahead"] and done["resync"]["rows"] + done["resync"]["ranges"] > 0
    assert done["afterwards"]["equal"] and pair.on_target("SELECT count(*) FROM parted") == [(180,)]

    # On the way back the same holds for what happens on the target.
    with move.reverse.running():
        pair.on_target("TRUNCATE p_2", "INSERT INTO parted VALUES (295, 'late')")
        move.reverse.caught_up()
        back = move.back(afterwards="full")
    assert back["ahead"]["partitions"] == ["public.parted"] and back["afterwards"]["equal"]
    assert pair.on_source("SELECT count(*) FROM parted") == [(91,)]


def test_a_partition_dropped_since_the_proof_takes_its_rows_along(move: Move) -> None:
    pair = move.pair
    pair.on_source("DROP TABLE p_2")
    assert not verify_following(pair.source, pair.target, ALL, workers=2).equal, "its rows are in the target's partition of that name"
    with session.connect(pair.target, application_name="test") as conn:
        assert turning.proven_at(conn, "forward") is None
    pair.on_target("SET session_replication_role = replica", "TRUNCATE p_2")
    assert verify_following(pair.source, pair.target, ALL, workers=2).equal
    assert move.switch(afterwards="full")["afterwards"]["equal"]


def test_a_comparison_of_some_tables_is_no_proof_of_all(move: Move) -> None:
    pair = move.pair
    before = noted(pair)
    pair.on_source("TRUNCATE p_0", "INSERT INTO quiet VALUES (100)")
    move.forward.caught_up()
    assert verify_following(pair.source, pair.target, Selection.from_args(["public.quiet"]), workers=1).equal
    assert noted(pair) == before
    assert move.switch(afterwards="full")["proof"]["keys"] == 1, "the key touched before that comparison is still to be looked at"


def test_nobody_who_is_at_a_partition_is_waited_for(move: Move) -> None:
    pair = move.pair
    with pair.source_server.connect(pair.dbname) as conn, conn.transaction(force_rollback=True):
        conn.execute("TRUNCATE p_0")
        with session.connect(pair.source, application_name="test", read_only=True) as looking:
            looking.execute("SET lock_timeout = 100")
            assert leaves.read(looking, "p") == noted(pair), "what was not committed is no change"
