"""The benchmarks' own arithmetic: figures, turns, accounting of processes, what counts as done twice."""

from __future__ import annotations

import datetime
import json
import os
import random
import sys
from collections import Counter
from pathlib import Path

import pytest
from bench import copying, harness, resuming, usage
from bench.contestants import Outcome
from bench.copying import Contestant, Score
from bench.faults import Done
from bench.usage import Stat

NOON = datetime.datetime(2026, 1, 1, 12, 0, tzinfo=datetime.UTC)


def stat(parent: int, own: float = 0.0, reaped: float = 0.0) -> Stat:
    return Stat(parent, "x", own, reaped)


def test_a_process_may_be_called_anything() -> None:
    line = "42 (post) gres: (x) S 7 42 42 0 -1 4194560 100 200 0 0 150 50 300 100 20 0 1 0 1 1 1"
    found = usage.parse_stat(line)
    assert (found.parent, found.name) == (7, "post) gres: (x")
    assert found.own == pytest.approx(200 / usage.TICK) and found.reaped == pytest.approx(400 / usage.TICK)


def test_a_tree_counts_what_runs_and_what_has_run_and_nobody_else() -> None:
    known = {1: stat(0, 100.0), 2: stat(1, 1.0, 10.0), 3: stat(2, 2.0), 4: stat(3, 4.0), 5: stat(1, 50.0)}
    assert usage.descendants(known, 2) == {3, 4}
    assert usage.tree_cpu(known, 2) == pytest.approx(17.0)
    assert usage.tree_cpu(known, 99) == 0.0


def test_a_command_is_measured_with_its_children() -> None:
    burn = "x = 0\nfor n in range(3_000_000): x += n\nprint(x)"
    done = usage.run([sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}], check=True)"])
    assert done.output.strip() == "4499998500000" and done.cpu > 0.05 and done.seconds > 0.0


def test_a_failure_anywhere_in_a_pipe_fails_the_command() -> None:
    with pytest.raises(usage.CommandError, match="ended with 3"):
        usage.run("(exit 3) | cat")
    with pytest.raises(usage.CommandError, match="not ended within"):
        usage.run(["sleep", "20"], timeout=0.2)


def test_the_memory_of_python_descendants_is_sampled() -> None:
    inner = "data = bytearray(60_000_000); import time; time.sleep(1)"
    done = usage.run(
        [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}], check=True)"], watch=True
    )
    assert 55 < max(done.peaks.values()) < 200


def test_ratios_are_paired_by_round() -> None:
    assert harness.paired_ratio([2.0, 30.0, 4.0], [1.0, 10.0, 2.0]) == 2.0
    with pytest.raises(ValueError, match="no round"):
        harness.paired_ratio([], [1.0])


def test_the_table_is_aligned() -> None:
    assert (
        harness.table([("figure", "value"), ("a", "1"), ("longer", "2.5")]) == "figure  value\n------  -----\na           1\nlonger    2.5"
    )
    assert [harness.shown(value) for value in (True, False, None, 1.23456, 1234.5, 7)] == ["yes", "no", "-", "1.23", "1234", "7"]


@pytest.mark.parametrize("text", ["0", "-1", "much", "1000"])
def test_a_wrong_scale_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("SCALE", text)
    with pytest.raises(SystemExit, match="SCALE"):
        harness.scale()


def test_the_result_file_is_as_agreed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(harness, "ARTIFACTS", tmp_path / "bench")
    monkeypatch.setattr(harness, "ROOT", tmp_path)
    path = harness.publish("copy", {"vs_x": 1.5, "rows_equal": True}, [{"tool": "ours", "seconds_median": 1.0}], {"cores": 2}, scale=0.1)
    found = json.loads(path.read_text())
    assert found["figures"] == {"vs_x": 1.5, "rows_equal": True} and found["machine"] == {"cores": 2} and found["scale"] == 0.1
    assert datetime.datetime.fromisoformat(found["time"]).tzinfo is not None
    lines = capsys.readouterr().out.splitlines()
    assert json.loads(lines[0]) == {"bench": "copy", "tool": "ours", "seconds_median": 1.0}


def outcome(seconds: float, python: float = 0.0, worker_mb: float = 0.0) -> Outcome:
    return Outcome(seconds, 1.0, python, worker_mb)


def score(*seconds: float, python: float = 0.0, worker_mb: float = 0.0, rows_equal: bool = True) -> Score:
    made = [outcome(value, python, worker_mb) for value in seconds]
    return Score(dict(enumerate(seconds)), made, [(4.0, 5.0)] * len(seconds), rows_equal)


def test_everyone_takes_part_in_every_round_in_another_place() -> None:
    runners = [
        Contestant(name, lambda _course: outcome(1.0), rounds=1 if name == "once" else None) for name in ("a", "b", "c", "d", "e", "once")
    ]
    rounds = [[one.tool for one in copying.order(runners, number)] for number in range(3)]
    assert [sorted(names) for names in rounds] == [["a", "b", "c", "d", "e", "once"], ["a", "b", "c", "d", "e"], ["a", "b", "c", "d", "e"]]
    assert len({tuple(names) for names in rounds}) == 3
    assert rounds[0].index("a") < rounds[0].index("b") and rounds[1].index("a") > rounds[1].index("b")


def test_figures_compare_like_with_like() -> None:
    scores = {
        "ours": score(10.0, 20.0, 10.0, python=0.5, worker_mb=40.0),
        "pgcopydb": score(15.0, 40.0, 15.0),
        "ours_rows": score(5.0, worker_mb=60.0),
        "raw_pipe": score(4.0),
        "pg_dump_uncompressed": score(30.0),
    }
    figures = copying.judge(scores)
    assert figures["vs_pgcopydb"] == 1.5 and figures["of_raw_pipe"] == 0.8 and figures["vs_pg_dump_uncompressed"] == 3.0
    assert figures["python_cpu_share"] == pytest.approx(0.05) and figures["worker_rss_mb"] == 60.0
    assert figures["rows_equal"] is True and "vs_pg_dump" not in figures
    scores["pgcopydb"].rows_equal = False
    assert copying.judge(scores)["rows_equal"] is False
    lines = {line["tool"]: line for line in copying.lines(scores)}
    assert lines["pgcopydb"]["ratio_to_ours"] == 1.5 and lines["raw_pipe"]["ratio_to_ours"] == 0.8 and lines["ours"]["ratio_to_ours"] == 1.0
    assert lines["pgcopydb"]["seconds_median"] == 15.0 and lines["pgcopydb"]["rows_equal"] is False


def chunk(number: int, second: int, content: str = "a", table: str = "t") -> Done:
    return Done(table, number, NOON + datetime.timedelta(seconds=second), content)


def test_a_chunk_done_twice_is_told_from_one_whose_snapshot_was_lost() -> None:
    before = [chunk(0, 0), chunk(1, 1), chunk(0, 2, table="u"), chunk(1, 2, table="u")]
    after = {(done.table, done.number): done for done in (chunk(0, 0), chunk(1, 9), chunk(0, 8, "b", "u"))}
    assert resuming.compare(before, after) == (1, 2)
    assert resuming.compare([*before, *before], after) == (1, 2)
    assert resuming.compare(after.values(), after) == (0, 0)


def test_every_kind_of_blow_is_dealt_as_often_as_agreed() -> None:
    courses = resuming.menu(30, random.Random(7))
    assert Counter(blow for blows in courses for blow in blows) == Counter(resuming.MENU) and len(resuming.MENU) == 30
    assert all(1 <= len(blows) <= 3 for blows in courses)
    assert courses == resuming.menu(30, random.Random(7)) != resuming.menu(30, random.Random(8))
    assert sum(len(blows) for blows in resuming.menu(4, random.Random(1))) == 4


def test_the_memory_of_a_process_that_is_gone_is_none() -> None:
    assert usage.peak_mb(os.getpid()) > 5 and usage.peak_mb(2**22 + 1) == 0.0
