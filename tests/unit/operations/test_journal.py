"""The record survives crashes, and the report says nothing that was not recorded."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.operations import journal, report, report_html
from ansible_collections.cutover.hetzner.plugins.module_utils.operations.errors import OperationsError


def event(second: float, what: str, name: str, result: str = "ok", **more: object) -> journal.Event:
    return journal.Event(f"2026-11-22T02:{int(second) // 60:02d}:{second % 60:06.3f}+00:00", what, name, result, **more)  # type: ignore[arg-type]


MOVE = [
    event(0, "run", "demo", "opened"),
    event(0.1, "phase", "phase0_database", "started"),
    event(1, "task", "Install <everything>", "changed", phase="phase0_database", host="db1", seconds=9.5),
    event(
        5,
        "figures",
        "copy",
        figures={"seconds": 2.0, "mb_per_s": 50.0, "rows": 30, "bytes": 900, "workers": 2, "tables": [{"name": "public.a", "bytes": 900}]},
    ),
    event(10, "phase", "phase0_database"),
    event(11, "gate", "before_cutover", "no_go", figures={"failed": ["x"], "by": "criteria", "judgements": []}),
    event(12, "gate", "before_cutover", "go", figures={"failed": [], "by": "criteria", "judgements": []}),
    event(13, "phase", "phase5_cutover", "started"),
    event(
        20,
        "step",
        "endpoint_switched",
    ),
    event(20.5, "step", "freeze", seconds=0.2, figures={"at": journal.moment("2026-11-22T02:00:15+00:00")}),
    event(20.6, "step", "resync", seconds=3.0, figures={"at": journal.moment("2026-11-22T02:00:15.2+00:00")}),
    event(
        21,
        "figures",
        "verify",
        figures={
            "mode": "full",
            "equal": False,
            "seconds": 1.0,
            "critical": ["public.a"],
            "tables": [
                {
                    "name": "public.a",
                    "rows": 30,
                    "missing": [],
                    "extra": [],
                    "changed": [],
                    "missing_count": 0,
                    "extra_count": 0,
                    "changed_count": 0,
                },
                {
                    "name": "public.b",
                    "rows": 5,
                    "missing": [1],
                    "extra": [],
                    "changed": [],
                    "missing_count": 7,
                    "extra_count": 0,
                    "changed_count": 0,
                },
            ],
        },
    ),
    event(22, "phase", "phase5_cutover"),
    event(23, "run", "demo", "cut_over"),
]


def test_report_is_what_was_recorded() -> None:
    data = report.summarise(MOVE)
    assert data["result"] == "cut_over"
    assert [(p["name"], p["seconds"], p["result"]) for p in data["phases"]] == [
        ("phase0_database", 9.9, "ok"),
        ("phase5_cutover", 9.0, "ok"),
    ]
    assert data["write_stop_seconds"] == 5.0
    assert [(s["name"], s["started"], s["seconds"]) for s in data["write_stop_steps"]] == [
        ("freeze", 0.0, 0.2),
        ("resync", 0.2, 3.0),
        ("application and endpoint", 3.2, 1.8),
    ]
    assert data["tables"] == {"count": 2, "rows": 35, "bytes": 900, "missing": 7, "extra": 0, "changed": 0, "verified": 1}
    assert [t["name"] for t in data["critical_tables"]] == ["public.a"]
    assert [(g["name"], g["decision"]) for g in data["gates"]] == [("before_cutover", "go")]


def test_what_was_not_measured_is_none() -> None:
    data = report.summarise([event(0, "run", "demo", "opened")])
    assert data["result"] == "running"
    for key in ("provision", "tables", "copy", "client", "application", "write_stop_seconds", "verification"):
        assert data[key] is None, key


def test_a_cutover_that_did_not_reach_its_endpoint_has_no_write_stop() -> None:
    events = [e for e in MOVE if e.name != "endpoint_switched"]
    assert report.summarise(events)["write_stop_seconds"] is None


def test_interrupted_phase() -> None:
    events = MOVE[:4]
    assert [(p["result"], p["seconds"]) for p in report.phases(events)] == [("interrupted", 0.9)]


FAILED = [
    *MOVE[:2],
    event(3, "phase", "phase0_database", "failed", figures={"task": "Copy <rows>", "host": "db1", "message": "disk is full"}),
]


def test_a_failed_phase_makes_the_run_failed_until_it_went_well() -> None:
    data = report.summarise(FAILED)
    assert data["result"] == "failed"
    assert data["phases"][0]["failure"] == {"task": "Copy <rows>", "host": "db1", "message": "disk is full"}
    assert "Copy &lt;rows&gt;" in report_html.render(data)
    again = [*FAILED, event(10, "phase", "phase0_database", "started")]
    assert report.summarise(again)["result"] == "running"
    done = report.summarise([*again, event(12, "phase", "phase0_database")])
    assert done["result"] == "running" and done["phases"][0] == {
        "name": "phase0_database",
        "started": 10.0,
        "seconds": 2.0,
        "result": "ok",
        "failure": None,
    }


def test_a_failed_phase_does_not_hide_behind_another() -> None:
    assert report.result_of([*FAILED, event(20, "phase", "phase1_prepare", "started"), event(21, "phase", "phase1_prepare")]) == "failed"


def test_a_phase_that_its_gate_stopped_is_a_no_go() -> None:
    stopped = [
        event(0, "run", "demo", "opened"),
        event(1, "phase", "phase4_validate", "started"),
        event(2, "gate", "before_cutover", "no_go", phase="phase4_validate", figures={"failed": ["x"]}),
        event(3, "phase", "phase4_validate", "failed", figures={"task": "Stop at a no-go", "host": "localhost", "message": "No-go"}),
    ]
    assert report.result_of(stopped) == "no_go"
    other = [*stopped, event(5, "phase", "phase0_database", "started"), event(6, "phase", "phase0_database", "failed")]
    assert report.result_of(other) == "failed"


def test_page_is_whole_and_escaped() -> None:
    page = report_html.render(report.summarise(MOVE))
    assert "Install &lt;everything&gt;" in page and "Install <everything>" not in page
    assert "http://" not in page and "https://" not in page and "<script" not in page
    assert "1 / 2" in page
    empty = report_html.render(report.summarise([event(0, "run", "demo", "opened")]))
    assert "–" in empty


def test_lines_round_trip_and_a_cut_line_is_mended(tmp_path: Path) -> None:
    file = tmp_path / "sub" / "journal.jsonl"
    for entry in MOVE[:3]:
        journal.append(file, entry)
    with file.open("ab") as handle:
        handle.write(b'{"time": "2026-11')
    assert journal.read(file) == MOVE[:3]
    journal.append(file, MOVE[3])
    assert journal.read(file) == MOVE[:4]


def test_a_foreign_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "journal.jsonl"
    file.write_text('not json\n{"time": "x"}\n')
    with pytest.raises(OperationsError, match="line 1"):
        journal.read(file)


def _write(file: str, name: str) -> None:
    for number in range(50):
        journal.append(file, event(number, "task", f"{name}{number}" * 50))


def test_writers_do_not_mix_their_lines(tmp_path: Path) -> None:
    file = str(tmp_path / "journal.jsonl")
    workers = [multiprocessing.Process(target=_write, args=(file, name)) for name in "abcd"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(20)
    assert len(journal.read(file)) == 200


def test_a_rolled_back_move_ends_its_run() -> None:
    assert journal.is_open(MOVE)
    assert not journal.is_open([*MOVE, event(30, "run", "demo", "rolled_back")])
    assert not journal.is_open([])
    assert journal.current_run([*MOVE, event(30, "run", "demo", "rolled_back"), event(40, "run", "demo", "opened")])[0].time.startswith(
        "2026-11-22T02:00:40"
    )
