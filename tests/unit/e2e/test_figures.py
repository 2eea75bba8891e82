from __future__ import annotations

import math

import pytest
from e2e.client.figures import Acknowledged, Attempt, LogError, Read, Stored, compare, longest_gap, parse_lines, percentile, summary
from hypothesis import given
from hypothesis import strategies as st

OLD, NEW = "10.93.0.1", "10.93.0.2"


def ack(t: float, key: str, booking: int = 1, receipt: int = 1, address: str = OLD) -> Acknowledged:
    return Acknowledged(t, key, booking, receipt, address)


def attempt(t: float, key: str, status: int | None = 201, ms: float = 10.0, address: str | None = OLD) -> Attempt:
    return Attempt(t, key, status, ms, address)


def test_lines_of_a_killed_writer_lose_only_the_broken_one() -> None:
    assert parse_lines("x", '{"a": 1}\n{"a": 2}\n{"a": ') == [{"a": 1}, {"a": 2}]
    assert parse_lines("x", '{"a": 1}\n{"a": 2}') == [{"a": 1}, {"a": 2}]
    assert parse_lines("x", "") == []


def test_a_broken_line_in_the_middle_is_named() -> None:
    with pytest.raises(LogError, match="acknowledged.jsonl:2"):
        parse_lines("acknowledged.jsonl", '{"a": 1}\n{"a\n{"a": 2}\n')
    with pytest.raises(LogError, match="expected an object"):
        parse_lines("x", "[1]\n")


def test_percentile_is_the_nearest_rank() -> None:
    assert percentile([], 50) is None
    assert percentile([7], 95) == 7
    assert percentile([4, 1, 3, 2], 50) == 2
    assert percentile(range(1, 101), 95) == 95
    assert percentile(range(1, 101), 100) == 100


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(1, 100))
def test_percentile_covers_its_share_with_a_value_that_was_measured(values: list[float], percent: float) -> None:
    found = percentile(values, percent)
    assert found is not None
    assert found in values
    assert sum(value <= found for value in values) >= math.floor(percent / 100 * len(values))


def test_the_longest_gap_lies_between_acknowledgements() -> None:
    gap = longest_gap([11.0, 10.0, 15.5, 16.0], first_attempt=9.5, last_attempt=16.5)
    assert (gap.begin, gap.end, gap.seconds) == (11.0, 15.5, 4.5)


def test_an_application_that_never_comes_back_is_a_gap_to_the_last_attempt() -> None:
    assert longest_gap([1.0, 2.0], 0.0, 60.0).seconds == 58.0
    assert longest_gap([], 0.0, 60.0).seconds == 60.0


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=50))
def test_no_shift_of_two_neighbours_is_longer_than_the_gap_found(moments: list[float]) -> None:
    gap = longest_gap(moments, min(moments), max(moments))
    ordered = sorted(moments)
    assert all(b - a <= gap.seconds for a, b in zip(ordered, ordered[1:], strict=False))


def test_lost_doubled_and_altered_are_told_apart() -> None:
    said = [ack(1, "a", 1, 11), ack(2, "b", 2, 12), ack(3, "c", 3, 13), ack(4, "d", 4, 14)]
    there = [Stored("a", 1, 11), Stored("c", 3, 13), Stored("c", 9, 19), Stored("d", 4, 99)]
    found = compare(said, there)
    assert (found.lost, found.doubled, found.altered) == (("b",), ("c",), ("d",))


def test_two_different_answers_for_one_id_are_an_alteration() -> None:
    found = compare([ack(1, "a", 1, 11), ack(2, "a", 2, 12)], [Stored("a", 1, 11)])
    assert found.altered == ("a",)
    assert compare([ack(1, "a", 1, 11), ack(2, "a", 1, 11)], [Stored("a", 1, 11)]).altered == ()


def test_a_row_that_was_not_acknowledged_is_no_loss_but_counts_as_doubled() -> None:
    found = compare([], [Stored("a", 1, 1), Stored("a", 2, 2)])
    assert (found.lost, found.doubled) == ((), ("a",))


@given(st.sets(st.text("abc", min_size=1, max_size=4)), st.sets(st.text("abc", min_size=1, max_size=4)))
def test_lost_is_the_difference_of_sets(said: set[str], there: set[str]) -> None:
    found = compare([ack(1, key) for key in said], [Stored(key, 1, 1) for key in there])
    assert set(found.lost) == said - there


def test_summary_of_a_switch() -> None:
    attempts = [
        attempt(10.0, "a", ms=10),
        attempt(10.1, "b", ms=30),
        attempt(10.2, "c", 503, ms=5),
        attempt(10.5, "c", None, ms=5, address=None),
        attempt(12.1, "c", 200, ms=20, address=NEW),
        attempt(12.2, "d", 503, ms=5, address=NEW),
    ]
    said = [ack(10.0, "a", 1, 1), ack(10.1, "b", 2, 2), ack(12.1, "c", 3, 3, NEW)]
    reads = [
        Read(10.0, "/health", 200, 2.0, True, OLD),
        Read(12.5, "/health", 200, 4.0, True, NEW),
        Read(11.0, "/health", 502, 1.0, False, OLD),
    ]
    found = summary(attempts, said, reads, [Stored("a", 1, 1), Stored("b", 2, 2), Stored("c", 3, 3)], confirmed=3)
    assert found["acknowledged"] == 3
    assert found["unacknowledged"] == 1
    assert (found["lost"], found["doubled"], found["altered"]) == (0, 0, 0)
    assert found["longest_write_gap_seconds"] == 2.0
    assert found["longest_write_gap"] == {"begin": 10.1, "end": 12.1}
    assert (found["reads"], found["failed_reads"]) == (3, 1)
    assert found["refused_attempts"] == 3
    assert found["statuses"] == {"200": 1, "201": 2, "503": 2, "none": 1}
    assert found["addresses"] == [OLD, NEW]
    assert found["writes"] == {"before": {"count": 2, "p50_ms": 10, "p95_ms": 30}, "after": {"count": 1, "p50_ms": 20, "p95_ms": 20}}
    assert found["reading"] == {"before": {"count": 1, "p50_ms": 2.0, "p95_ms": 2.0}, "after": {"count": 1, "p50_ms": 4.0, "p95_ms": 4.0}}


def test_summary_without_a_switch_has_nothing_after() -> None:
    found = summary([attempt(1.0, "a")], [ack(1.0, "a")], [], [], confirmed=0)
    assert found["lost"] == 1
    assert found["lost_ids"] == ["a"]
    assert found["writes"] == {
        "before": {"count": 1, "p50_ms": 10.0, "p95_ms": 10.0},
        "after": {"count": 0, "p50_ms": None, "p95_ms": None},
    }


def test_figures_of_nothing_are_refused() -> None:
    with pytest.raises(LogError, match="tried no write"):
        summary([], [], [], [], 0)
