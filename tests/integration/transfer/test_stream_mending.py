"""Rows made equal while the stream runs and the sender is written to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Rename
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream import mending
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.proof import verify_following
from integration.conftest import Pair
from integration.transfer.moving import ALL, Move, moved

SPOIL = "SET session_replication_role = replica"


@pytest.fixture
def move(pair: Pair, tmp_path: Path) -> Iterator[Move]:
    """With rows of nobody beside those of the clients, the stream running."""
    rows = "INSERT INTO load_0 (client, seq, version) SELECT 0, g, 1 FROM generate_series(1, 20000) g"
    with moved(pair, tmp_path, rows) as made, made.forward.running():
        made.forward.caught_up()
        yield made


def test_what_was_spoiled_is_made_equal_under_writers_who_never_stop(move: Move) -> None:
    pair = move.pair
    pair.on_target(
        SPOIL,
        "DELETE FROM load_0 WHERE client = 0 AND seq % 1000 = 0",
        "UPDATE load_0 SET version = 7 WHERE client = 0 AND seq = 333",
        "INSERT INTO load_0 (client, seq, version) VALUES (0, 700000, 1)",
    )
    with move.clients() as clients:
        found = verify_following(pair.source, pair.target, ALL, workers=2)
        assert [table.name for table in found.tables if not table.equal] == ["public.load_0"]
        told = mending.mend_named(move.forward.config, ["public.load_0"])
        assert [one["name"] for one in told] == ["public.load_0"] and told[0]["ranges"] > 0
        assert mending.mend_named(move.forward.config, ["*.load_*"]) == [], "the second time there is nothing to do"
        assert verify_following(pair.source, pair.target, ALL, workers=2).equal
        assert move.switch(afterwards="full", fault=lambda point: clients.switch() if point == "open:done" else None)["afterwards"]["equal"]
        memories, _reading = clients.stop()
    verdict = move.judged(memories, "target")
    assert (verdict.lost, verdict.doubled) == (0, 0), verdict.examples


def test_a_pattern_that_matches_nothing_is_refused_before_anything_is_done(move: Move) -> None:
    with pytest.raises(TransferError) as caught:
        mending.mend_named(move.forward.config, ["public.load_0", "public.laod_1"])
    assert caught.value.details["kind"] == "no_such_table" and "public.laod_1" in caught.value.message


def test_names_are_those_of_the_source_on_the_way_back_too(move: Move) -> None:
    config = replace(move.forward.config, direction="reverse", rename=Rename({"old": "public"}, {}, {}), slot=move.reverse.slot)
    with pytest.raises(TransferError) as caught:
        mending.mend_named(config, ["public.load_0"])
    assert caught.value.details["kind"] == "no_such_table"
    with pytest.raises(TransferError) as caught:
        mending.mend_named(config, ["old.load_0"])
    assert caught.value.details["kind"] == "no_stream", "the name is known, and the way back has not begun"
