"""What the verification benchmark makes of answers, without a server."""

from __future__ import annotations

from collections import defaultdict

import pytest
from bench import verifying
from bench.verify_plants import PLANTS, TRAPPED, wanted
from bench.verifying import Answer, Score

PLANTED = sum(wanted(table) for table in PLANTS)
TRAPS = {table: set(names) for table, names in TRAPPED.items()}


def scores(found_equal: int = 0, found_planted: int = PLANTED) -> dict[str, Score]:
    """Two rounds: reading takes 1 s, we 2 s and half as much again on planted data, peers 6 s for each table. The machine is slower in the second half."""
    made: dict[str, Score] = defaultdict(Score)
    made["copy_binary"] = Score([Answer(1.0)] * 2, [Answer(2.0)] * 2)
    made["ours"] = Score([Answer(2.0, found_equal)] * 2, [Answer(6.0, found_planted)] * 2)
    for tool, able in verifying.ABLE.items():
        made[f"ours {'+'.join(able)}"] = Score([Answer(3.0, 0)] * 2, [Answer(3.0, 0)] * 2)
        for table in verifying.PEER_TABLES:
            made[f"{tool} {table}"] = Score([Answer(6.0, 0)] * 2, [Answer(6.0, wanted(table))] * 2)
    return made


def test_figures_of_a_clean_run() -> None:
    figures = verifying.judge(scores(), TRAPS)
    assert figures["of_read_limit"] == 0.5 and figures["find_overhead"] == pytest.approx(0.5)
    assert figures["vs_reladiff"] == figures["vs_pg_comparator"] == 6.0 and figures["reladiff_was_right"] is True
    assert figures["planted"] == figures["planted_found"] == 10 + sum(map(len, TRAPS.values()))
    assert (figures["false_equal"], figures["false_different"]) == (0, 0)


def test_what_was_not_found_and_what_was_invented_is_counted() -> None:
    fewer = {**TRAPS, "public.trap": TRAPS["public.trap"] - {"1"} | {"999"}}
    figures = verifying.judge(scores(found_equal=1, found_planted=9), fewer)
    assert figures["false_equal"] == 2 + 1 and figures["false_different"] == 2 + 1
    assert figures["planted_found"] == figures["planted"] - 2


def test_a_peer_that_misses_a_row_is_not_called_right() -> None:
    made = scores()
    made["reladiff events"].planted[1] = Answer(1.0, wanted("events") - 1)
    made["pg_comparator articles"].equal[0] = Answer(1.0, None, "it failed")
    figures = verifying.judge(made, TRAPS)
    assert figures["reladiff_was_right"] is False and figures["pg_comparator_was_right"] is False
    assert {"tool": "pg_comparator", "table": "articles", "failed": "it failed"}.items() <= next(
        line for line in verifying.lines(made) if line["tool"] == "pg_comparator" and line["table"] == "articles"
    ).items()
