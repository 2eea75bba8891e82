"""make bench-copy: the same database moved by us, by pgcopydb, by pg_dump and pg_restore, and by the raw pipe that none can beat.

All contestants take turns, in another order every round, each into a new database after a checkpoint. Environment: SCALE (1.0), ROUNDS (3),
WORKERS (the number of cores), ONLY (names of contestants, with commas between).
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pgservers

from . import content, contestants, dataset, harness
from .contestants import Course, Outcome
from .usage import server_cpu


@dataclass(frozen=True)
class Contestant:
    """rows_only: moves rows into tables that exist, and not the small ones, where starting psql would be measured

    rounds: of how many rounds it takes part in, None is all; setup: statements for its new database
    """

    tool: str
    run: Callable[[Course], Outcome]
    data: str = "mixed"
    rows_only: bool = False
    rounds: int | None = None
    setup: tuple[str, ...] = ()


@dataclass
class Score:
    """What was measured of one contestant, by round."""

    seconds: dict[int, float] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)
    cpu: list[tuple[float, float]] = field(default_factory=list)
    rows_equal: bool = True
    objects_equal: bool = True


LZ4 = ("ALTER DATABASE {dbname} SET default_toast_compression = 'lz4'",)
FIELD = (
    Contestant("ours", contestants.ours),
    Contestant("pgcopydb", contestants.pgcopydb),
    Contestant("pg_dump", contestants.pg_dump),
    Contestant("ours_same_storage", contestants.ours_same_storage),
    Contestant("ours_rows", contestants.ours_rows, rows_only=True),
    Contestant("raw_pipe", contestants.raw_pipe, rows_only=True),
    Contestant("pgcopydb_lz4", contestants.pgcopydb, setup=LZ4),
    Contestant("ours_tls", contestants.ours_tls),
    Contestant("pg_dump_uncompressed", contestants.pg_dump_uncompressed, rounds=1),
    Contestant("ours_plain", contestants.ours, data="plain"),
    Contestant("pgcopydb_plain", contestants.pgcopydb, data="plain"),
    Contestant("pg_dump_plain", contestants.pg_dump, data="plain"),
)
SMALL = "public.small_"


def main() -> None:
    """Run it and publish."""
    began = harness.machine()
    scale, rounds = harness.scale(), harness.number("ROUNDS", 3)
    workers = harness.number("WORKERS", max(len(os.sched_getaffinity(0)), 2))
    chosen = [name for name in os.environ.get("ONLY", "").split(",") if name]
    field_ = [one for one in FIELD if not chosen or one.tool in chosen]
    if not field_:
        raise SystemExit(f"ONLY is {os.environ['ONLY']!r}, expected some of {', '.join(one.tool for one in FIELD)}")
    with harness.servers() as (source, target):
        contestants.allow_tls(source)
        sizes = {}
        for data in (dataset.mixed(scale), dataset.plain(scale)):
            if any(one.data == data.name for one in field_):
                sizes[data.name] = dataset.make(source, data.name, data)
                harness.note(f"data set {data.name}: {sizes[data.name] / 1e6:.0f} MB")
        scores = measure(source, target, field_, rounds, workers)
    figures = judge(scores)
    harness.publish("copy", figures, lines(scores), began, scale=scale, rounds=rounds, workers=workers, data_bytes=sizes)
    if not figures["rows_equal"]:
        raise SystemExit("a contestant has not brought the same rows over: see rows_equal above")


def order(field_: Sequence[Contestant], number: int) -> list[Contestant]:
    """Who runs in a round, and when: begun elsewhere every time, every other round backwards. Pure."""
    step = number * max(len(field_) // 3, 1) % len(field_)
    turned = [*field_[step:], *field_[:step]]
    return [one for one in (turned[::-1] if number % 2 else turned) if one.rounds is None or number < one.rounds]


def measure(
    source: pgservers.Server, target: pgservers.Server, field_: Sequence[Contestant], rounds: int, workers: int
) -> dict[str, Score]:
    """Scores of all contestants. Contents are compared after a contestant's first round, the numbers of rows after each."""
    truth = {name: content.digests(source, name) for name in {one.data for one in field_}}
    objects = {name: content.objects(source, name) for name in truth}
    scores = {one.tool: Score() for one in field_}
    for number in range(rounds):
        for one in order(field_, number):
            dbname = f"moved_{one.tool}"
            folder = Path(tempfile.mkdtemp(prefix="cutover-bench-", dir=harness.workplace()))
            try:
                course = Course(source, target, one.data, dbname, workers, folder)
                prepare(course, one)
                before = server_cpu(source.pid), server_cpu(target.pid)
                outcome = one.run(course)
                after = server_cpu(source.pid), server_cpu(target.pid)
                score = scores[one.tool]
                score.seconds[number] = outcome.seconds
                score.outcomes.append(outcome)
                score.cpu.append((after[0] - before[0], after[1] - before[1]))
                check(course, one, score, truth[one.data], objects[one.data], full=len(score.outcomes) == 1)
                harness.note(f"round {number + 1} of {rounds}: {one.tool} {outcome.seconds:.1f} s")
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            target.execute("postgres", f"DROP DATABASE {dbname} WITH (FORCE)")
    return scores


def prepare(course: Course, one: Contestant) -> None:
    """An empty database on the target, with tables where only rows are moved, and nothing left to write for either server."""
    course.target.execute("postgres", f"CREATE DATABASE {course.target_db} TEMPLATE template0")
    course.target.execute("postgres", *(text.format(dbname=course.target_db) for text in one.setup))
    if one.rows_only:
        dump = subprocess.run(
            [course.source.bin / "pg_dump", "--section=pre-data", "--no-owner", contestants.uri(course.source, course.source_db)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=120,
            check=True,
        )
        subprocess.run(
            [course.target.bin / "psql", "-qXv", "ON_ERROR_STOP=1", contestants.uri(course.target, course.target_db)],
            input=dump.stdout,
            stdout=subprocess.DEVNULL,
            timeout=120,
            check=True,
        )
    for server in (course.source, course.target):
        server.execute("postgres", "CHECKPOINT")


def check(
    course: Course, one: Contestant, score: Score, truth: Mapping[str, content.Digest], objects: set[tuple[str, str, str]], full: bool
) -> None:
    """Judge what has arrived and note it in the score."""
    if full:
        exclude = SMALL if one.rows_only else ""
        wanted = {name: value for name, value in truth.items() if not exclude or not name.startswith(exclude)}
        score.rows_equal &= content.digests(course.target, course.target_db, exclude) == wanted
    else:
        total = sum(rows for name, (rows, _first, _second) in truth.items() if not (one.rows_only and name.startswith(SMALL)))
        names = [row[0] for row in course.target.execute(course.target_db, content.TABLES)]
        counts = " UNION ALL ".join(f"SELECT count(*) AS n FROM ONLY {name}" for name in names)
        score.rows_equal &= int(course.target.execute(course.target_db, f"SELECT sum(n) FROM ({counts}) s")[0][0]) == total
    if not one.rows_only:
        missing = objects - content.objects(course.target, course.target_db)
        score.objects_equal &= not missing
        for kind, name, definition in sorted(missing)[:5]:
            harness.note(f"{one.tool} has not brought {kind} {name}: {definition}")


def judge(scores: Mapping[str, Score]) -> dict[str, harness.Figure]:
    """Figures of those that took part. Pure. Ratios above 1 are in our favour, paired by round."""
    figures: dict[str, harness.Figure] = {}

    def ratio(name: str, one: str, other: str) -> None:
        if one in scores and other in scores:
            both = sorted(scores[one].seconds.keys() & scores[other].seconds.keys())
            figures[name] = harness.paired_ratio([scores[one].seconds[n] for n in both], [scores[other].seconds[n] for n in both])

    ratio("vs_pgcopydb", "pgcopydb", "ours")
    ratio("vs_pg_dump", "pg_dump", "ours")
    ratio("of_raw_pipe", "raw_pipe", "ours_rows")
    ratio("vs_pgcopydb_same_storage", "pgcopydb", "ours_same_storage")
    ratio("vs_pgcopydb_both_lz4", "pgcopydb_lz4", "ours")
    ratio("vs_pg_dump_same_storage", "pg_dump", "ours_same_storage")
    ratio("vs_pg_dump_uncompressed", "pg_dump_uncompressed", "ours")
    ratio("tls_costs", "ours_tls", "ours")
    ratio("plain_vs_pgcopydb", "pgcopydb_plain", "ours_plain")
    ratio("plain_vs_pg_dump", "pg_dump_plain", "ours_plain")
    if "ours" in scores:
        shares = [
            outcome.python_cpu / (outcome.cpu + sum(servers))
            for outcome, servers in zip(scores["ours"].outcomes, scores["ours"].cpu, strict=True)
        ]
        figures["python_cpu_share"] = statistics.median(shares)
    peaks = [outcome.worker_mb for score in scores.values() for outcome in score.outcomes if outcome.worker_mb]
    if peaks:
        figures["worker_rss_mb"] = max(peaks)
    figures["rows_equal"] = all(score.rows_equal for score in scores.values())
    figures["objects_equal"] = all(score.objects_equal for score in scores.values())
    return figures


def lines(scores: Mapping[str, Score]) -> list[dict[str, Any]]:
    """One line per contestant. Pure. ratio_to_ours: against ours on the same data, or against our rows where rows are all it moves."""
    found = []
    for one in FIELD:
        score = scores.get(one.tool)
        if score is None:
            continue
        ours = scores.get("ours_rows" if one.rows_only else "ours_plain" if one.data == "plain" else "ours")
        both = sorted(score.seconds.keys() & ours.seconds.keys()) if ours else []
        found.append(
            {
                "tool": one.tool,
                "seconds_median": round(statistics.median(score.seconds.values()), 2),
                "ratio_to_ours": (
                    round(harness.paired_ratio([score.seconds[n] for n in both], [ours.seconds[n] for n in both]), 3)
                    if ours and both
                    else None
                ),
                "rows_equal": score.rows_equal,
                "objects_equal": None if one.rows_only else score.objects_equal,
                "seconds": [round(value, 2) for value in score.seconds.values()],
                "cpu_source": round(statistics.median(source for source, _target in score.cpu), 2),
                "cpu_target": round(statistics.median(target for _source, target in score.cpu), 2),
                "cpu_client": round(statistics.median(outcome.cpu for outcome in score.outcomes), 2),
                "data": one.data,
                "steps": score.outcomes[-1].steps,
            }
        )
    return found


if __name__ == "__main__":
    main()
