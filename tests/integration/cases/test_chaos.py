"""A whole move, there and back, under blows: what ``make chaos`` does at length, with a short budget."""

from __future__ import annotations

import os

from bench import chaos
from bench.world import stage

SEED = int(os.environ.get("SEED", "11"))


def test_a_move_there_and_back_survives_kills_crashes_and_cut_links_without_losing_or_doubling_a_write() -> None:
    with stage({"shared_buffers": "64MB"}) as stand, chaos.course(*stand.parts, "chaos", SEED) as course:
        verdict = course.run(megabytes=1.0, rate=100.0)
    assert (verdict.lost, verdict.doubled) == (0, 0) and verdict.acknowledged > 300
    assert course.blows.total() >= 9
