"""make bench-resume: kill -9 and ended sessions at random points of a copy under load; after each the copy goes on or is run again.

Counts chunks that were done and had to be done again, and compares every table with what it held in the snapshot that the ledger names for
it. Environment: SCALE (1.0), KILLS (30), SEED (1), WORKERS (2).
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pgservers
import psycopg
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.endpoint import Endpoint
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.resync import resync
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Selection

from . import content, faults, harness, history
from .faults import Done, Mover

DBNAME = "resumed"
CHUNK_BYTES = 1_000_000
RERUNS = 12
# What is hit, as often as it stands here for thirty kills.
MENU = (
    *("mover",) * 8,
    *("worker",) * 6,
    *("keeper",) * 2,
    *("source session",) * 5,
    *("target session",) * 5,
    *("target crash",) * 2,
    *("source crash",) * 2,
)
TABLES = (history.Written("wide"), history.Written("hashed", "md5(%s::text)::uuid"), history.Written("narrow"))


@dataclass
class Tally:
    """What the kills have cost. after_lost_snapshot: chunks of unfinished tables, begun anew under another snapshot because theirs was gone."""

    kills: Counter[str] = field(default_factory=Counter)
    extra: int = 0
    after_lost_snapshot: int = 0
    chunks: int = 0
    reruns: int = 0
    copies: int = 0
    differing: list[str] = field(default_factory=list)


def schema(keys: bool) -> list[str]:
    """Tables; the target's get their keys from the copy."""
    key = " PRIMARY KEY" if keys else " NOT NULL"
    return [
        f"CREATE TABLE wide (id bigint{key}, a int, b text)",
        f"CREATE TABLE hashed (id uuid{key}, a int, b text)",
        f"CREATE TABLE narrow (id bigint{key}, a int, b text)",
    ]


def rows(scale: float) -> int:
    """Of the largest table."""
    return max(int(120_000 * scale), 400)


def fill(count: int) -> list[str]:
    """Rows of the source."""
    return [
        f"INSERT INTO wide SELECT g, g % 1000, repeat(md5(g::text), 8) FROM generate_series(1, {count}) g",
        f"INSERT INTO hashed SELECT md5(g::text)::uuid, g % 7, repeat(md5(g::text), 4) FROM generate_series(1, {count}) g",
        f"INSERT INTO narrow SELECT g, g % 7, g FROM generate_series(1, {count * 2}) g",
        "CREATE INDEX wide_a ON wide (a, id)",
        "CREATE INDEX narrow_b ON narrow (b)",
        "VACUUM (ANALYZE)",
    ]


def compare(before: Iterable[Done], after: Mapping[tuple[str, int], Done]) -> tuple[int, int]:
    """(chunks done twice under one snapshot, chunks done anew because their snapshot was gone). Pure.

    before: seen as done when blows fell; after: at the end of the copy
    """
    extra = anew = 0
    for chunk in set(before):
        now = after.get((chunk.table, chunk.number))
        if now is not None and now.finished == chunk.finished:
            continue
        if chunk.content in {other.content for other in after.values() if other.table == chunk.table}:
            extra += 1
        else:
            anew += 1
    return extra, anew


def menu(kills: int, dice: random.Random) -> list[list[str]]:
    """Blows by copy: one to three each, every kind as often as its share wants. Pure but for the dice."""
    blows = [MENU[place % len(MENU)] for place in range(kills)] if kills >= len(MENU) else dice.sample(MENU, kills)
    dice.shuffle(blows)
    found = []
    while blows:
        size = dice.randint(1, 3)
        found.append(blows[:size])
        blows = blows[size:]
    return found


class Course:
    """One benchmark: two servers and the blows that a copy between them gets."""

    def __init__(
        self,
        source: pgservers.Server,
        target: pgservers.Server,
        dbname: str,
        dice: random.Random,
        workers: int = 2,
        chunk_bytes: int = CHUNK_BYTES,
        heartbeat: float | None = None,
    ) -> None:
        """heartbeat: seconds between two looks of a mover at its sessions. With it no blow falls before the snapshot is kept beyond the mover's
        own end, so that it depends on no chance whether two blows together take the snapshot.
        """
        self.careful = heartbeat is not None
        self.source, self.target, self.dbname, self.dice = source, target, dbname, dice
        self.tally = Tally()
        self.args: dict[str, Any] = {
            "source": source.args(dbname),
            "target": target.args(dbname),
            "exclude": [f"{history.SCHEMA}.*"],
            "copy": {"workers": workers, "chunk_bytes": chunk_bytes},
            **({"heartbeat": heartbeat} if heartbeat is not None else {}),
        }

    def copy(self, blows: Sequence[str]) -> None:
        """One copy from nothing to its end, with these blows on the way."""
        self.target.execute(
            "postgres", f"DROP DATABASE IF EXISTS {self.dbname} WITH (FORCE)", f"CREATE DATABASE {self.dbname} TEMPLATE template0"
        )
        self.target.execute(self.dbname, *schema(keys=False))
        shares = sorted(self.dice.random() for _unused in blows)
        seen: set[Done] = set()
        movers = [Mover(self.args)]
        try:
            for what, share in zip(blows, shares, strict=True):
                self._await(movers[-1], share)
                if not movers[-1].running:  # the copy was over before the blow, which then falls on a run that has little to do
                    said = movers[-1].result()
                    assert "error" not in said, f"a copy has failed before its blow: {said}"
                    movers.append(Mover(self.args))
                if self.careful:
                    self._await_kept(movers[-1])
                now = set(faults.done(self.target, self.dbname).values())
                if what == "target crash":
                    faults.flush(self.target, self.dbname)
                seen |= now
                hit = self._strike(movers[-1], what)
                self.tally.kills[hit] += 1
                harness.note(f"kill {self.tally.kills.total()}: {hit} when {share:.0%} of the chunks were done")
                if not movers[-1].running:
                    self.tally.reruns += 1
                    movers.append(Mover(self.args))
            self._finish(movers)
        finally:
            for mover in movers:
                mover.kill()
                for pid in mover.keepers():
                    faults.kill_one([pid], self.dice)
        self._judge(seen)

    def _share(self) -> float:
        """Of the chunks that are planned, how many are done; 0 while nothing is planned."""
        try:
            row = self.target.execute(
                self.dbname, "SELECT count(*) FILTER (WHERE state = 'done')::float / greatest(count(*), 1) FROM cutover.chunk"
            )
        except psycopg.Error:  # before there is a ledger, and while a server recovers
            return 0.0
        return float(row[0][0])

    def _await(self, mover: Mover, share: float) -> None:
        faults.wait_until(lambda: not mover.running or self._share() >= share, "the point of a blow")

    def _await_kept(self, mover: Mover) -> None:
        """Until the snapshot would outlive the mover, or nobody needs it any more."""
        faults.wait_until(
            lambda: not mover.running or self._share() == 1.0 or faults.kept(self.source, self.target, self.dbname),
            "a keeper of the snapshot",
        )

    def _strike(self, mover: Mover, what: str) -> str:
        """One blow; what it has hit: the mover itself where nothing of the wanted kind has come up before the mover was done."""
        server = self.source if what.startswith("source") else self.target
        while mover.running and what != "mover":
            if what == "worker":
                hit = faults.kill_one(mover.workers(), self.dice)
            elif what == "keeper":
                hit = faults.kill_one(mover.keepers(), self.dice)
            else:
                hit = bool((faults.crash if what.endswith("crash") else faults.end_session)(server, self.dbname, self.dice))
            if hit:
                return what
            time.sleep(0.01)
        mover.kill()
        return "mover"

    def _finish(self, movers: list[Mover]) -> None:
        """Run until a run ends well."""
        for _unused in range(RERUNS):
            said = movers[-1].result()
            if said and "error" not in said:
                return
            if said:
                harness.note(f"a run has given up: {said['error']}")
            self.tally.reruns += 1
            movers.append(Mover(self.args))
        raise AssertionError(f"the copy was not complete after {RERUNS} runs")

    def _judge(self, seen: set[Done]) -> None:
        """Count what was redone, and compare every table with what the source held in the snapshot that the ledger names."""
        after = faults.done(self.target, self.dbname)
        extra, anew = compare(seen, after)
        self.tally.extra += extra
        self.tally.after_lost_snapshot += anew
        self.tally.chunks += len(after)
        self.tally.copies += 1
        with self.source.connect(self.dbname) as source, self.target.connect(self.dbname) as target:
            for table in TABLES:
                contents = {chunk.content for chunk in after.values() if chunk.table == table.name}
                held = history.now(target, table.name)
                if len(contents) != 1 or history.then(source, table.name, contents.pop()) != held:
                    self.tally.differing.append(f"copy {self.tally.copies}: {table.name}")
                    harness.note(f"{table.name} is not what it was in its snapshot: {held[0]} rows")
            missing = content.objects(self.source, self.dbname) - content.objects(self.target, self.dbname)
            for kind, name, _definition in sorted(missing):
                if kind == "index":
                    self.tally.differing.append(f"copy {self.tally.copies}: {kind} {name}")

    def rest(self) -> None:
        """With the load at an end: bring what it has written since, and compare what the two sides hold now."""
        resync(
            Endpoint.from_args(self.args["source"]), Endpoint.from_args(self.args["target"]), Selection.from_args([], self.args["exclude"])
        )
        with self.source.connect(self.dbname) as source, self.target.connect(self.dbname) as target:
            for table in TABLES:
                if history.now(source, table.name) != history.now(target, table.name):
                    self.tally.differing.append(f"at the end: {table.name}")


def main() -> None:
    """Run it and publish."""
    began = harness.machine()
    scale, kills, seed, workers = harness.scale(), harness.number("KILLS", 30), harness.number("SEED", 1), harness.number("WORKERS", 2)
    dice = random.Random(seed)
    with harness.servers({"restart_after_crash": "on", "shared_buffers": "256MB"}) as (source, target):
        source.execute("postgres", f"CREATE DATABASE {DBNAME} TEMPLATE template0")
        source.execute(DBNAME, *schema(keys=True), *fill(rows(scale)))
        course = Course(source, target, DBNAME, dice, workers)
        with source.connect(DBNAME) as conn:
            history.start(conn, [table.name for table in TABLES])
        with history.Load(lambda: source.connect(DBNAME), TABLES, rows(scale), seed=seed) as load:
            for blows in menu(kills, dice):
                course.copy(blows)
            load.stop()
        course.rest()
    tally = course.tally
    figures: dict[str, harness.Figure] = {
        "kills": tally.kills.total(),
        "extra_chunks_redone": tally.extra,
        "chunks_redone_lost_snapshot": tally.after_lost_snapshot,
        "equal": not tally.differing,
    }
    line = {
        "tool": "ours",
        **figures,
        "chunks": tally.chunks,
        "copies": tally.copies,
        "reruns": tally.reruns,
        "transactions_meanwhile": load.transactions,
        "by_kind": dict(tally.kills),
        "differing": tally.differing,
    }
    harness.publish("resume", figures, [line], began, scale=scale, seed=seed)
    if tally.differing:
        raise SystemExit(f"not equal: {', '.join(tally.differing)}")


if __name__ == "__main__":
    main()
