"""make bench-verify: the same two databases compared by us, by reladiff and by pg_comparator, and read by what none of them can be faster than.

Equal data first, then 5 changed, 3 missing and 2 extra rows, then changes of the kinds that comparisons have been seen to miss. All contestants take
turns in every round. Peers compare one table after the other, all columns, each with one command; we the same tables with one command for the ratios, and
the whole database for the ceiling and for what finding costs. Environment: SCALE (1.0), ROUNDS (3), WORKERS (the number of cores).
"""

from __future__ import annotations

import json
import os
import re
import statistics
import sys
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pgservers

from . import contestants, dataset, harness, usage
from .verify_plants import PLANTS, TRAP_ROWS, TRAP_SCHEMA, TRAPPED, TRAPS, wanted

DBNAME = "mixed"
# Tables with one integer as the key, the shape that both peers take.
PEER_TABLES = ("leads", "events", "accounts", "articles")
# Those that a peer gets right, which decide its ratio: reladiff 0.6.0 loses differences in rows with NULL, pg_comparator 2.3.2 fails on arrays.
ABLE = {"reladiff": ("events", "accounts", "articles"), "pg_comparator": ("leads", "events", "articles")}
RELADIFF = Path(__file__).parents[2] / ".cache" / "reladiff" / "bin" / "reladiff"


@dataclass(frozen=True)
class Answer:
    """What a contestant says. seconds: of its command or queries; found: rows that it calls different, None when it does not look at rows."""

    seconds: float
    found: int | None = None
    failed: str = ""


@dataclass
class Score:
    """Answers by round: over equal data and over planted differences."""

    equal: list[Answer] = field(default_factory=list)
    planted: list[Answer] = field(default_factory=list)


@dataclass(frozen=True)
class Sides:
    """Both servers and how many sessions each contestant may have on either."""

    source: pgservers.Server
    target: pgservers.Server
    workers: int

    @property
    def both(self) -> tuple[pgservers.Server, pgservers.Server]:
        return self.source, self.target


def ours(sides: Sides, tables: Sequence[str]) -> Answer:
    """Our engine in a process of its own, start of Python included. tables: () for all."""
    args = {
        "source": sides.source.args(DBNAME),
        "target": sides.target.args(DBNAME),
        "workers": sides.workers,
        "include": [f"public.{table}" for table in tables],
    }
    done = usage.run([sys.executable, "-m", "bench.verify_ours"], given=json.dumps(args), timeout=3600)
    told = json.loads(done.output.strip().splitlines()[-1])
    return Answer(done.seconds if tables else told["seconds"], sum(told["differences"].values()))


def reladiff(sides: Sides, tables: Sequence[str]) -> Answer:
    """reladiff on one table after the other, all columns. A difference is one line for each side of a row."""
    seconds, found = 0.0, 0
    for table in tables:
        places = [part for server in sides.both for part in (contestants.uri(server, DBNAME), table)]
        command = [str(RELADIFF), *places, "-k", "id", "-c", "%", "-j", str(sides.workers), "--json"]
        try:
            done = usage.run(command, timeout=3600)
        except usage.CommandError as error:
            return Answer(seconds, None, str(error).strip().splitlines()[-1][:200])
        seconds += done.seconds
        # Its lines are not always JSON, but always begin with the sign and the key.
        found += len(set(re.findall(r'^\["[-+]", \["([^"]*)"', done.output, re.MULTILINE)))
    return Answer(seconds, found)


def pg_comparator(sides: Sides, tables: Sequence[str]) -> Answer:
    """pg_comparator on one table after the other, all columns. Its own threads do not work with PostgreSQL."""
    seconds, found = 0.0, 0
    for table in tables:
        columns = [
            row[0]
            for row in sides.source.execute(DBNAME, f"SELECT attname FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum > 1")
        ]
        places = [
            f"pgsql://postgres:{pgservers.PASSWORD}@127.0.0.1:{server.port}/{DBNAME}/public.{table}?id:{','.join(columns)}"
            for server in sides.both
        ]
        try:
            done = usage.run(["pg_comparator", *places], timeout=3600)
        except usage.CommandError as error:
            return Answer(seconds, None, str(error).strip().splitlines()[-1][:200])
        seconds += done.seconds
        found += sum(line.startswith(("UPDATE ", "INSERT ", "DELETE ")) for line in done.output.splitlines())
    return Answer(seconds, found)


def ceiling(statement: str, sides: Sides, tables: Sequence[str]) -> Answer:
    """A statement over every table of both servers, as many sessions on each as the others have, the largest table first."""

    def read(server: pgservers.Server) -> None:
        with server.connect(DBNAME) as conn:
            conn.execute("SET max_parallel_workers_per_gather = 0")
            conn.execute("SET jit = off")
            while True:
                try:
                    table = todo[server.name].popleft()
                except IndexError:
                    return
                conn.execute(statement.format(table=table, columns=_columns(conn, table)))

    todo = {server.name: deque(tables) for server in sides.both}
    began = time.monotonic()
    with ThreadPoolExecutor(max_workers=2 * sides.workers) as pool:
        list(pool.map(read, [server for server in sides.both for _unused in range(sides.workers)]))
    return Answer(time.monotonic() - began)


def _columns(conn: Any, table: str) -> str:
    found = conn.execute(
        "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0",
        (table,),
    ).fetchone()
    return str(found[0])


CEILINGS = {
    "count": "SELECT count(*) FROM {table}",
    "copy_binary": "COPY {table} TO '/dev/null' (FORMAT binary)",
    "render": "SELECT count(length(ROW({columns})::text)) FROM {table}",
}


def main() -> None:
    """Run it and publish."""
    began = harness.machine()
    scale, rounds = harness.scale(), harness.number("ROUNDS", 3)
    workers = harness.number("WORKERS", max(len(os.sched_getaffinity(0)), 2))
    with harness.servers() as (source, target):
        sides = Sides(source, target, workers)
        size = prepare(sides, scale)
        harness.note(f"data set: {size / 1e6:.0f} MB on each side")
        tables = [
            row[0]
            for row in source.execute(
                DBNAME,
                "SELECT c.relname FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace AND c.relname NOT LIKE 'trap%'"
                " ORDER BY pg_table_size(c.oid) DESC",
            )
        ]
        field_: dict[str, Callable[[], Answer]] = {
            "ours": partial(ours, sides, ()),
            "copy_binary": partial(ceiling, CEILINGS["copy_binary"], sides, tables),
            "count": partial(ceiling, CEILINGS["count"], sides, tables),
            "render": partial(ceiling, CEILINGS["render"], sides, tables),
        }
        for table in PEER_TABLES:
            field_ |= {
                f"reladiff {table}": partial(reladiff, sides, (table,)),
                f"pg_comparator {table}": partial(pg_comparator, sides, (table,)),
            }
        field_ |= {f"ours {'+'.join(able)}": partial(ours, sides, able) for able in ABLE.values()}
        scores: dict[str, Score] = defaultdict(Score)
        for planted in (False, True):
            if planted:
                # Past foreign keys and triggers, as damage comes.
                target.execute(
                    DBNAME,
                    "SET session_replication_role = replica",
                    *(statement for statements in PLANTS.values() for statement in statements),
                )
            for number in range(rounds):
                names = list(field_)[number % 3 :] + list(field_)[: number % 3]
                for name in names[::-1] if number % 2 else names:
                    # Reading takes the same on both, and tells how busy the machine is in either half.
                    if planted and name in ("count", "render"):
                        continue
                    answer = field_[name]()
                    (scores[name].planted if planted else scores[name].equal).append(answer)
                harness.note(f"{'planted' if planted else 'equal'} data, round {number + 1} of {rounds}")
        target.execute(DBNAME, *TRAPS)
        traps = trapped(sides)
    figures = judge(scores, traps)
    harness.publish("verify", figures, lines(scores), began, scale=scale, rounds=rounds, workers=workers, data_bytes=size)
    if figures["false_equal"] or figures["false_different"]:
        raise SystemExit("our verdict was wrong: see false_equal and false_different above")


def prepare(sides: Sides, scale: float) -> int:
    """The same rows on both sides, each made by its own server, and the extension that pg_comparator wants; bytes of one side."""
    data = dataset.mixed(scale)
    size = 0
    for server in sides.both:
        size = dataset.make(server, DBNAME, data)
        server.execute(DBNAME, *TRAP_SCHEMA, *TRAP_ROWS, "CREATE EXTENSION pgcmp", "ANALYZE", "CHECKPOINT")
    return size


def trapped(sides: Sides) -> dict[str, set[str]]:
    """{table: rows that we name} after the traps."""
    args = {
        "source": sides.source.args(DBNAME),
        "target": sides.target.args(DBNAME),
        "workers": sides.workers,
        "include": ["public.trap*"],
    }
    done = usage.run([sys.executable, "-m", "bench.verify_ours"], given=json.dumps(args), timeout=600)
    return {table: set(named) for table, named in json.loads(done.output.strip().splitlines()[-1])["named"].items()}


def judge(scores: dict[str, Score], traps: dict[str, set[str]]) -> dict[str, harness.Figure]:
    """Figures of the rounds. Pure."""
    planted = sum(wanted(table) for table in PLANTS)
    expected = {table: set(names) for table, names in TRAPPED.items()}
    hidden = sum(len(names - traps.get(table, set())) for table, names in expected.items())
    invented = sum(len(names - expected.get(table, set())) for table, names in traps.items())
    found = [answer.found or 0 for answer in scores["ours"].planted]
    figures: dict[str, harness.Figure] = {
        "of_read_limit": ratio(scores, "copy_binary", "ours"),
        "find_overhead": harness.paired_ratio(seconds(scores["ours"].planted), seconds(scores["copy_binary"].planted))
        / harness.paired_ratio(seconds(scores["ours"].equal), seconds(scores["copy_binary"].equal))
        - 1,
        "planted": planted + sum(map(len, expected.values())),
        "planted_found": min(found) + sum(len(names & traps.get(table, set())) for table, names in expected.items()),
        "false_equal": sum(max(planted - number, 0) for number in found) + hidden,
        "false_different": sum((answer.found or 0) for answer in scores["ours"].equal)
        + sum(max(number - planted, 0) for number in found)
        + invented,
    }
    for tool, able in ABLE.items():
        figures[f"{tool}_was_right"] = all(can(scores[f"{tool} {table}"], wanted(table)) for table in able)
        figures[f"vs_{tool}"] = harness.paired_ratio(
            [sum(answers) for answers in zip(*(seconds(scores[f"{tool} {table}"].equal) for table in able), strict=True)],
            seconds(scores[f"ours {'+'.join(able)}"].equal),
        )
    return figures


def can(score: Score, planted: int) -> bool:
    """Whether a peer can check a table: no failure, nothing found where nothing is, and what was planted found. Pure."""
    return all(answer.found == 0 for answer in score.equal) and all(answer.found == planted for answer in score.planted)


def seconds(answers: Sequence[Answer]) -> list[float]:
    """Of each round. Pure."""
    return [answer.seconds for answer in answers]


def ratio(scores: dict[str, Score], one: str, other: str) -> float:
    """How many times the seconds of another one contestant takes, over equal data. Pure."""
    return harness.paired_ratio(seconds(scores[one].equal), seconds(scores[other].equal))


def lines(scores: dict[str, Score]) -> list[dict[str, Any]]:
    """A line for each contestant and table. Pure."""
    found = []
    for name, score in scores.items():
        tool, _unused, table = name.partition(" ")
        failed = next((answer.failed for answer in (*score.equal, *score.planted) if answer.failed), "")
        line: dict[str, Any] = {
            "tool": tool,
            "table": table or "all",
            "seconds_median": round(statistics.median(one.seconds for one in score.equal), 3),
        }
        if not table:
            line["ratio_to_ours"] = round(ratio(scores, name, "ours"), 3)
        if score.planted:
            line["seconds_planted"] = round(statistics.median(one.seconds for one in score.planted), 3)
            line["found_on_equal"], line["found_planted"] = score.equal[-1].found, score.planted[-1].found
        found.append({**line, **({"failed": failed} if failed else {})})
    return found


if __name__ == "__main__":
    main()
