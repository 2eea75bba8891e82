"""The judge of the clients' memories is itself judged."""

from __future__ import annotations

from bench.load import Client, Memory, judge

ME = Client(1, "plain", ("", ""), 1.0, 0)


def memory() -> Memory:
    return Memory(live={(0, 1, 1): 2, (1, 1, 2): 1}, gone={(2, 1, 3)}, at=[1.0, 1.5, 4.0, 4.1])


def test_what_is_as_it_was_acknowledged_is_neither_lost_nor_doubled() -> None:
    verdict = judge([(ME, memory())], [(0, 1, 1, 2), (1, 1, 2, 1)])
    assert (verdict.acknowledged, verdict.lost, verdict.doubled, verdict.examples) == (4, 0, 0, ())


def test_missing_rows_old_versions_and_risen_rows_are_lost() -> None:
    verdict = judge([(ME, memory())], [(0, 1, 1, 1), (2, 1, 3, 1)])
    assert (verdict.lost, verdict.doubled) == (3, 0)


def test_rows_twice_later_versions_and_strangers_are_doubled() -> None:
    verdict = judge([(ME, memory())], [(0, 1, 1, 2), (0, 1, 1, 2), (1, 1, 2, 5), (3, 9, 9, 1)])
    assert (verdict.lost, verdict.doubled) == (0, 3)


def test_the_longest_gap_is_between_two_acknowledgements() -> None:
    assert memory().longest_gap == 2.5 and Memory().longest_gap == 0.0
