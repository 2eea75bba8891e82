"""make bench-apply: a backlog of changes applied by our stream and by PostgreSQL's own subscription, each into a database of its own.

Both begin at a slot of the same moment and read the same log. small: transactions of one row, two in five an update of a wide table, two in five an
insert into a narrow one, the rest updates and deletes there. large: a few transactions of very many rows. Time counts from the moment when
our two processes, which are up, connect, or of ``ALTER SUBSCRIPTION ENABLE``, until the last row is there.
latency_ms: of one transaction while nothing else is written. Environment: SCALE (1.0: 200,000 small transactions), ROUNDS (3).
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pgservers
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.copy import copy
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.endpoint import Endpoint
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Selection

from . import content, harness
from .contestants import uri
from .usage import server_cpu

SOURCE = "backlog"
ROWS, SMALL, LARGE = 200_000, 200_000, 400_000
TOOLS = ("ours", "subscription")
SCHEMA = (
    "CREATE TABLE leads (id bigint PRIMARY KEY, company uuid NOT NULL, name text, score numeric(10, 2), data jsonb, tags text[], active bool,"
    " changed timestamptz)",
    "CREATE INDEX ON leads (company)",
    "CREATE TABLE events (id bigint PRIMARY KEY, lead bigint NOT NULL, kind int, at timestamptz)",
    "CREATE TABLE marker (id int PRIMARY KEY)",
)
FILL = (
    "INSERT INTO leads SELECT g, md5(g::text)::uuid, 'name ' || g, g / 7.0, jsonb_build_object('g', g, 'text', md5(g::text)),"
    " ARRAY['a', 'b' || g % 10], g % 2 = 0, now() FROM generate_series(1, {rows}) g",
    "INSERT INTO events SELECT g, g % 1000, g % 7, now() FROM generate_series(1, {rows}) g",
)
# One transaction each: the block commits after every step.
SMALL_LOAD = """DO $$ BEGIN
FOR g IN 1..{count} LOOP
    CASE g % 5
    WHEN 0, 1 THEN UPDATE leads SET score = score + 1, data = jsonb_build_object('g', g, 'text', md5(g::text)), changed = clock_timestamp()
        WHERE id = 1 + (g::bigint * 7919) % {rows};
    WHEN 2, 3 THEN INSERT INTO events VALUES ({rows} + {round} * 10000000 + g, g % 1000, g % 7, clock_timestamp());
    ELSE IF g % 10 = 4 THEN UPDATE events SET kind = kind + 1 WHERE id = 1 + (g::bigint * 7919) % {rows};
         ELSE DELETE FROM events WHERE id = {rows} + {round} * 10000000 + g - 1; END IF;
    END CASE;
    COMMIT;
END LOOP; END $$"""
LARGE_LOAD = (
    "INSERT INTO events SELECT {rows} + {round} * 10000000 + 5000000 + g, g % 1000, g % 7, now() FROM generate_series(1, {count} / 2) g",
    "UPDATE leads SET score = score + 1, name = name || '.' WHERE id <= {count} / 4",
    "UPDATE events SET kind = kind + 1 WHERE id > {rows} + {round} * 10000000 + 5000000 AND id <= {rows} + {round} * 10000000 + 5000000 + {count} / 4",
)


@dataclass
class Score:
    """What was measured of one tool with one load, by round."""

    seconds: list[float] = field(default_factory=list)
    cpu: list[tuple[float, float, float]] = field(default_factory=list)
    latency: list[float] = field(default_factory=list)
    peak_mb: float = 0.0
    batches: int = 0


def main() -> None:
    """Run it and publish."""
    began = harness.machine()
    scale, rounds = harness.scale(), harness.number("ROUNDS", 3)
    sizes = {"rows": max(int(ROWS * scale), 1000)}
    counts = {"small": max(int(SMALL * scale), 1000), "large": max(int(LARGE * scale), 4000)}
    changes = {"small": counts["small"], "large": counts["large"]}
    with harness.servers() as (source, target):
        source.execute("postgres", f"CREATE DATABASE {SOURCE} TEMPLATE template0")
        source.execute(SOURCE, *SCHEMA, *(text.format(**sizes) for text in FILL), "CREATE PUBLICATION bench FOR ALL TABLES", "ANALYZE")
        scores = {(tool, load): Score() for tool in TOOLS for load in counts}
        equal = True
        for number in range(rounds):
            for load, count in counts.items():
                equal &= turn(source, target, scores, load, number, {**sizes, "count": count, "round": 2 * number + 1 + (load == "large")})
    figures: dict[str, harness.Figure] = {}
    for load in counts:
        ours, theirs = scores["ours", load], scores["subscription", load]
        figures[f"vs_subscription_{load}"] = harness.paired_ratio(theirs.seconds, ours.seconds)
        figures[f"rows_per_second_{load}"] = changes[load] / statistics.median(ours.seconds)
        figures[f"subscription_rows_per_second_{load}"] = changes[load] / statistics.median(theirs.seconds)
    figures["applier_mb"] = max(score.peak_mb for score in scores.values())
    figures["latency_ms"] = statistics.median(value for score in scores.values() for value in score.latency)
    figures["rows_equal"] = equal
    harness.publish("apply", figures, lines(scores, changes), began, scale=scale, rounds=rounds, changes=changes)
    if not equal:
        raise SystemExit("a contestant does not hold the source's rows: see rows_equal above")


def turn(
    source: pgservers.Server,
    target: pgservers.Server,
    scores: Mapping[tuple[str, str], Score],
    load: str,
    number: int,
    sizes: dict[str, int],
) -> bool:
    """One load for both, who begins changes from round to round; whether both have brought the source's rows."""
    order = TOOLS if number % 2 else TOOLS[::-1]
    for tool in TOOLS:
        target.execute("postgres", f"CREATE DATABASE {tool} TEMPLATE template0")
        target.execute(tool, *SCHEMA)
        copy(endpoint(source, SOURCE), endpoint(target, tool), Selection.from_args(), slot=f"bench_{tool}")
        target.execute(tool, "VACUUM ANALYZE")
    marker = sizes["round"]
    statements = (SMALL_LOAD,) if load == "small" else LARGE_LOAD
    source.execute(SOURCE, *(text.format(**sizes) for text in statements), f"INSERT INTO marker VALUES ({marker})")
    truth = content.digests(source, SOURCE)
    equal = True
    for tool in order:
        for server in (source, target):
            server.execute("postgres", "CHECKPOINT")
        score = scores[tool, load]
        before = server_cpu(source.pid), server_cpu(target.pid)
        seconds, client, facts = (ours if tool == "ours" else subscription)(source, target, marker)
        after = server_cpu(source.pid), server_cpu(target.pid)
        score.seconds.append(seconds)
        score.cpu.append((after[0] - before[0], after[1] - before[1], client))
        if "latency" in facts:
            score.latency.append(facts["latency"])
        score.peak_mb, score.batches = max(score.peak_mb, facts.get("mb", 0.0)), int(facts.get("batches", 0))
        target.execute(tool, "DELETE FROM marker WHERE id < 0")
        found = content.digests(target, tool)
        equal &= {name: value for name, value in found.items() if not name.startswith("cutover.")} == truth
        harness.note(f"round {number + 1}: {tool} {load} {seconds:.1f} s {facts}")
        target.execute("postgres", f"DROP DATABASE {tool} WITH (FORCE)")
    return equal


def ours(source: pgservers.Server, target: pgservers.Server, _marker: int) -> tuple[float, float, dict[str, float]]:
    """(seconds, CPU seconds of our processes, figures)."""
    folder = Path(tempfile.mkdtemp(prefix="cutover-bench-", dir=harness.workplace()))
    position = source.execute(SOURCE, "SELECT pg_current_wal_insert_lsn()::text")[0][0]
    source.execute(SOURCE, "SELECT pg_logical_emit_message(true, 'bench', '')")
    given = {
        "source": source.args(SOURCE),
        "target": target.args("ours"),
        "slot": "bench_ours",
        "publication": "bench",
        "spool": str(folder / "spool"),
        "until": position,
        "latency_rounds": 50,
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", "bench.apply_ours"],
            input=json.dumps(given),
            capture_output=True,
            text=True,
            timeout=1800,
            check=False,
            env={**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH", "tests:.collections")},
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if done.returncode:
        raise SystemExit(f"our stream ended with {done.returncode}: {done.stderr[-3000:]}")
    found = json.loads(done.stdout)
    source.execute(SOURCE, "SELECT pg_drop_replication_slot('bench_ours')")
    # Of nobody's backlog: both sides hold the same before the next load again.
    source.execute(SOURCE, "DELETE FROM marker WHERE id < 0")
    facts = {
        "latency": statistics.median(found["latencies"]),
        "mb": found["applier"]["mb"],
        "batches": found["batches"],
        "exact": found["exact_batches"],
        "spooled": found["spooled"],
        "applier_cpu": found["applier"]["cpu"],
        "receiver_cpu": found["receiver"]["cpu"],
    }
    return found["seconds"], found["applier"]["cpu"] + found["receiver"]["cpu"], facts


def subscription(source: pgservers.Server, target: pgservers.Server, marker: int) -> tuple[float, float, dict[str, float]]:
    """PostgreSQL's own, over the same kind of connection."""
    with target.connect("subscription") as conn:
        conn.execute(
            f"CREATE SUBSCRIPTION bench CONNECTION '{uri(source, SOURCE)}' PUBLICATION bench"
            " WITH (create_slot = false, slot_name = 'bench_subscription', copy_data = false, enabled = false)"
        )
        began = time.monotonic()
        conn.execute("ALTER SUBSCRIPTION bench ENABLE")
        while not conn.execute("SELECT FROM marker WHERE id = %s", (marker,)).fetchall():
            if time.monotonic() - began > 1800:
                raise SystemExit("the subscription has not caught up within 1800 s")
            time.sleep(0.02)
        seconds = time.monotonic() - began
        conn.execute("DROP SUBSCRIPTION bench")
    return seconds, 0.0, {}


def endpoint(server: pgservers.Server, dbname: str) -> Endpoint:
    """The engine's address of a database."""
    return Endpoint.from_args(server.args(dbname))


def lines(scores: Mapping[tuple[str, str], Score], changes: Mapping[str, int]) -> list[dict[str, Any]]:
    """One line per tool and load. Pure."""
    return [
        {
            "tool": tool,
            "load": load,
            "seconds_median": round(statistics.median(score.seconds), 2),
            "rows_per_second": round(changes[load] / statistics.median(score.seconds)),
            "seconds": [round(value, 2) for value in score.seconds],
            "cpu_source": round(statistics.median(one[0] for one in score.cpu), 2),
            "cpu_target": round(statistics.median(one[1] for one in score.cpu), 2),
            "cpu_client": round(statistics.median(one[2] for one in score.cpu), 2),
            "batches": score.batches,
        }
        for (tool, load), score in scores.items()
    ]


if __name__ == "__main__":
    main()
