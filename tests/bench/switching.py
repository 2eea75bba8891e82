"""make bench-cutover: the switch under load, with clients of every kind that remember what was acknowledged.

Per run a database of its own, copied and streamed as the product does it. write stop of the databases: from the first writer that had to wait until
the target was open, proof included; of the clients: the longest time between two acknowledged writes of one that goes through the pooler.
Environment: RUNS (10), RATES ("500 1000 2000", writes a second), CLIENTS (8), SECONDS (5, of writes before the switch), SIZES ("200 2000", MB for
the growth of the proof; 0 leaves it out), SEED (1).
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from . import harness, load
from .world import World, stage

GOAL_RATE = 1000
CYCLES = 5


@dataclass(frozen=True)
class Run:
    """One switch. Seconds; rate: writes a second that were acknowledged before it; refused: attempts of direct clients that were turned away."""

    asked: int
    rate: float
    stop_db: float
    stop_pooled: float
    stop_direct: float
    freeze: float
    drain: float
    proof: float
    keys: int
    ahead: float
    acknowledged: int
    lost: int
    doubled: int
    failed_reads: int
    longest_read: float
    errors_pooled: int


def main() -> None:
    """Run it and publish."""
    began = harness.machine()
    runs, count, seconds = harness.number("RUNS", 10), harness.number("CLIENTS", 8, 4), harness.number("SECONDS", 5)
    rates, sizes, seed = numbers("RATES", "500 1000 2000"), numbers("SIZES", "200 2000"), harness.number("SEED", 1)
    found: list[Run] = []
    growth: dict[int, list[float]] = {}
    with stage() as world:
        for rate in rates:
            for number in range(runs):
                with world(f"run_{rate}_{number}") as one:
                    found.append(switch(one, rate, count, seconds, seed + number))
                    harness.note(f"{rate}/s, run {number + 1} of {runs}: {found[-1]}")
        for size in sizes:
            if size:
                with world(f"size_{size}") as one:
                    growth[size] = proofs(one, size, count, seed)
                    harness.note(f"{size} MB: proof {[round(value, 3) for value in growth[size]]} s")
    figures: dict[str, harness.Figure] = {
        "runs": len(found),
        "lost": sum(run.lost for run in found),
        "doubled": sum(run.doubled for run in found),
        "failed_reads": sum(run.failed_reads for run in found),
    }
    goal = [run for run in found if run.asked == GOAL_RATE] or found
    figures["write_stop_p95_db"] = p95([run.stop_db for run in goal])
    figures["write_stop_p95_client"] = p95([run.stop_pooled for run in goal])
    figures["errors_pooled"] = sum(run.errors_pooled for run in found)
    if len(growth) > 1:
        small, large = min(growth), max(growth)
        figures["proof_growth"] = statistics.median(growth[large]) / statistics.median(growth[small])
    harness.publish("cutover", figures, lines(found), began, growth={str(size): values for size, values in growth.items()}, clients=count)
    if figures["lost"] or figures["doubled"]:
        raise SystemExit("writes were lost or doubled: see above")


def numbers(name: str, default: str) -> list[int]:
    """Whole numbers of the environment. Raises SystemExit for anything else."""
    words = os.environ.get(name, default).split()
    if not words or not all(word.isdigit() for word in words):
        raise SystemExit(f"{name} is {' '.join(words)!r}, expected whole numbers")
    return [int(word) for word in words]


def switch(world: World, rate: int, count: int, seconds: float, seed: int) -> Run:
    """One switch under load."""
    world.make()
    world.begin()
    world.copy()
    world.complete()
    with load.Load(world.clients(count, rate, seed), reader=world.readers()) as clients:
        began = time.monotonic()
        time.sleep(seconds)
        asked = time.monotonic()
        done = world.switch(fault=opened(clients))
        time.sleep(2.0)
        memories, reading = clients.stop()
    verdict = world.judged(memories, 1)
    for example in verdict.examples:
        harness.note(example)
    before = sum(1 for _client, memory in memories for at in memory.at if at < asked)
    steps = {step["name"]: step["seconds"] for step in done["steps"]}
    pooled = [memory for client, memory in memories if client.kind == "pooled"]
    direct = [memory for client, memory in memories if client.kind != "pooled"]
    return Run(
        asked=rate,
        rate=round(before / (asked - began), 1),
        stop_db=done["write_stop_seconds"],
        stop_pooled=round(max(memory.longest_gap for memory in pooled), 3),
        stop_direct=round(max(memory.longest_gap for memory in direct), 3),
        freeze=steps["freeze"],
        drain=steps["drain"],
        proof=steps["proof"],
        keys=done["proof"]["keys"],
        ahead=done["ahead"]["seconds"],
        acknowledged=verdict.acknowledged,
        lost=verdict.lost,
        doubled=verdict.doubled,
        failed_reads=reading.failed,
        longest_read=round(reading.longest, 3),
        errors_pooled=sum(len(memory.refused) for memory in pooled),
    )


def opened(clients: load.Load, place: int = 1) -> Callable[[str], None]:
    """Sends clients without a pooler to the other address as soon as that is open."""
    return lambda point: clients.switch(place) if point == "open:done" else None


def proofs(world: World, size: int, count: int, seed: int) -> list[float]:
    """Seconds of the proof of switches there and back over a database of so many MB."""
    world.make(size)
    world.begin()
    world.copy()
    world.complete()
    found = []
    with load.Load(world.clients(count, GOAL_RATE, seed, pooled_only=True)) as clients:
        for number in range(CYCLES):
            time.sleep(3.0)
            done = world.back() if number % 2 else world.switch()
            found.append(float(next(step["seconds"] for step in done["steps"] if step["name"] == "proof")))
            world.caught_up("reverse" if done["state"] == "cut_over" else "forward")
        memories, _reading = clients.stop()
    verdict = world.judged(memories, CYCLES % 2)
    if verdict.lost or verdict.doubled:
        raise SystemExit(f"{size} MB: {verdict.lost} lost, {verdict.doubled} doubled: {verdict.examples[:3]}")
    return found


def p95(values: Sequence[float]) -> float:
    """The value that 95 of 100 do not exceed, one of those measured. Pure."""
    ordered = sorted(values)
    return ordered[max(0, -(-95 * len(ordered) // 100) - 1)]


def lines(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One line per rate. Pure."""
    found = []
    for rate in sorted({run.asked for run in runs}):
        some = [run for run in runs if run.asked == rate]
        found.append(
            {
                "tool": "ours",
                "asked_per_second": rate,
                "acknowledged_per_second": round(statistics.median(run.rate for run in some)),
                "runs": len(some),
                **{
                    name: {"median": round(statistics.median(values), 3), "p95": round(p95(values), 3), "max": round(max(values), 3)}
                    for name in ("stop_db", "stop_pooled", "stop_direct", "freeze", "drain", "proof", "longest_read")
                    for values in [[float(getattr(run, name)) for run in some]]
                },
                "keys": [run.keys for run in some],
                "acknowledged": sum(run.acknowledged for run in some),
                **{name: sum(int(getattr(run, name)) for run in some) for name in ("lost", "doubled", "failed_reads", "errors_pooled")},
            }
        )
    return found


if __name__ == "__main__":
    main()
