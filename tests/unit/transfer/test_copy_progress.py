"""How far a copy is: what the watcher counts, and what people read of it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.chunks import Chunk
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.progress import (
    Progress,
    TableProgress,
    Tally,
    as_text,
    duration,
    lines,
    parse,
    percent,
    rate,
    size,
)


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def chunk(table: str, number: int, total: int, weight: int) -> Chunk:
    return Chunk("public", table, number, total, "whole", "", None, None, weight)


def snapshot(**changed: Any) -> Progress:
    plain = Progress(1_234_567, 312_400_000, 10**9, 0.26, 3, 12, 2, 5, 8.0, 39_050_000.0, 72.0, ())
    return dataclasses.replace(plain, **changed)


def test_tally_of_two_workers_on_two_tables() -> None:
    clock = Clock()
    tally = Tally([chunk("big", 0, 2, 1000), chunk("big", 1, 2, 1000), chunk("small", 0, 1, 500)], clock=clock)
    nothing = tally.progress()
    assert (nothing.rows, nothing.bytes, nothing.share, nothing.eta_seconds, nothing.tables) == (0, 0, 0, None, ())
    assert (nothing.chunks_total, nothing.tables_total, nothing.bytes_total, nothing.bytes_per_second) == (3, 2, 2500, 0)
    tally.moving(1, ("public", "big", 0), 0, 0)
    tally.moving(2, ("public", "small", 0), 0, 0)
    clock.now += 2
    tally.moving(1, ("public", "big", 0), 250, 10)
    tally.moving(2, ("public", "small", 0), 250, 5)
    half = tally.progress()
    assert (half.rows, half.bytes, half.share, half.bytes_per_second, half.eta_seconds) == (15, 500, 0.2, 250, 8)
    assert [(one.name, one.rows, one.share, one.in_flight, one.seconds) for one in half.tables] == [
        ("public.big", 10, 0.25 / 2, 1, 2),
        ("public.small", 5, 0.5, 1, 2),
    ]
    tally.finished(1, ("public", "big", 0), 20, 500)
    tally.finished(2, ("public", "small", 0), 10, 500)
    tally.moving(1, ("public", "big", 1), 250, 10)
    third = tally.progress()
    # The first chunk weighed 1000 on disk and 500 on the wire: 250 of the second are half of it.
    assert (third.share, third.rows, third.bytes, third.tables_done, third.chunks_done) == (0.8, 40, 1250, 1, 2)
    assert third.tables == (TableProgress("public.big", 30, 750, 0.75, 1, 2, 1, 2.0),)
    tally.idle(1)
    assert (tally.progress().rows, tally.progress().tables) == (30, ())
    tally.finished(2, ("public", "big", 1), 20, 500)
    done = tally.progress()
    assert (done.share, done.eta_seconds, done.chunks_done, done.tables_done, done.rows, done.tables) == (1, 0, 3, 2, 50, ())


def test_more_bytes_than_expected_are_never_more_than_all() -> None:
    tally = Tally([chunk("a", 0, 1, 100)], clock=Clock())
    tally.moving(1, ("public", "a", 0), 5000, 1)
    assert tally.progress().share == 1 and "99 %" in lines([tally.progress()])[0]


def test_empty_tables_and_no_tables() -> None:
    clock = Clock()
    assert (Tally([], clock=clock).progress().share, Tally([], clock=clock).progress().eta_seconds) == (1, None)
    tally = Tally([chunk("empty", 0, 1, 0)], clock=clock)
    assert tally.progress().share == 0
    tally.finished(1, ("public", "empty", 0), 0, 0)
    assert lines([tally.progress()]) == ["0 rows, 0 B, 100 %, 0 B/s, in 0 s; 1 of 1 chunks, 1 of 1 tables done"]


def test_lines_of_the_whole_and_of_each_table() -> None:
    tables = (TableProgress("public.big", 1_000_000, 200_100_000, 0.45, 1, 4, 2, 10.0), TableProgress("s.new", 0, 0, 0.0, 0, 1, 1, 0.0))
    assert lines([snapshot(tables=tables)]) == [
        "1,234,567 rows, 312.4 MB, 26 %, 39.0 MB/s, 1 min 12 s left; 3 of 12 chunks, 2 of 5 tables done",
        "  public.big: 1,000,000 rows, 200.1 MB, 45 %, 20.0 MB/s, 1 of 4 chunks done, 2 in flight",
        "  s.new: 0 rows, 0 B, 0 %, 0 of 1 chunks done, 1 in flight",
    ]
    assert "time left unknown" in lines([snapshot(eta_seconds=None)])[0]
    assert lines([]) == []


def test_rate_is_that_of_the_last_snapshots() -> None:
    early, late = snapshot(seconds=10.0, bytes=100_000_000), snapshot(seconds=20.0, bytes=150_000_000)
    assert rate([early, late]) == 5_000_000
    assert ", 5.0 MB/s," in lines([early, late])[0]
    assert rate([late]) == late.bytes_per_second
    # After a lost snapshot the copy begins again, with less.
    assert rate([late, early]) == early.bytes_per_second
    # At the end it is the whole that counts.
    assert "39.0 MB/s, in 20 s" in lines([early, dataclasses.replace(late, chunks_done=12)])[0]


def test_what_is_written_is_read_again() -> None:
    given = snapshot(tables=(TableProgress("a.b", 1, 2, 0.5, 0, 1, 1, 1.0),))
    assert parse(as_text(given)) == given
    assert as_text(given).count("\n") == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "7",
        "null",
        "{}",
        '{"tables": []}',
        as_text(snapshot())[:60],
        json.dumps({**dataclasses.asdict(snapshot()), "rows": "x"}),
    ]
    + [
        json.dumps({**dataclasses.asdict(snapshot()), **wrong})
        for wrong in ({"new": 1}, {"tables": [1]}, {"tables": None}, {"share": None})
    ],
)
def test_anything_else_is_no_snapshot(text: str) -> None:
    assert parse(text) is None


def test_sizes() -> None:
    told = [size(count) for count in (0, 999, 1000, 12_340, 999_949, 999_950, 312_400_000, 1.24e9, 5e12, 2e15)]
    assert told == ["0 B", "999 B", "1.0 kB", "12.3 kB", "999.9 kB", "1.0 MB", "312.4 MB", "1.2 GB", "5.0 TB", "2,000.0 TB"]


def test_durations() -> None:
    told = [duration(seconds) for seconds in (0, 0.4, 59.4, 59.6, 72, 3599.6, 7500, 360_000)]
    assert told == ["0 s", "0 s", "59 s", "1 min 00 s", "1 min 12 s", "1 h 00 min", "2 h 05 min", "100 h 00 min"]


def test_percents() -> None:
    assert [percent(share, False) for share in (-1, 0, 0.259, 0.999, 1, 3)] == ["0 %", "0 %", "25 %", "99 %", "99 %", "99 %"]
    assert percent(0.3, True) == "100 %"
