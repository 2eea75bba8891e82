"""make bench-rollback: minutes of writes on the target after a switch, then back to the source, which must have every one of them.

Clients are of every kind. After the way back both databases are compared row by row, and the source with what the clients remember.
Environment: MINUTES (10), RATE (500, writes a second), CLIENTS (8), SIZE (200, MB), SEED (1).
"""

from __future__ import annotations

import time
from typing import Any

from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.verify import verify

from . import harness, load
from .switching import opened
from .world import ALL, World, stage


def main() -> None:
    """Run it and publish."""
    began = harness.machine()
    minutes, rate = harness.number("MINUTES", 10), harness.number("RATE", 500)
    with stage() as world, world("returned") as one:
        line = returned(one, minutes * 60.0, rate)
    figures: dict[str, harness.Figure] = {name: line[name] for name in ("write_stop", "lost", "verified")}
    harness.publish("rollback", figures, [line], began, minutes=minutes)
    if line["lost"] or line["doubled"] or not line["verified"]:
        raise SystemExit("the source does not hold what was written: see above")


def returned(world: World, seconds: float, rate: int) -> dict[str, Any]:
    """One way there and back. lost: acknowledged writes that the source lacks; verified: all rows of both sides are equal after the way back"""
    world.make(harness.number("SIZE", 200))
    world.begin()
    world.copy()
    world.complete()
    with load.Load(world.clients(harness.number("CLIENTS", 8, 4), rate, harness.number("SEED", 1)), reader=world.readers()) as clients:
        time.sleep(3.0)
        there = world.switch(fault=opened(clients))
        harness.note(f"switched in {there['write_stop_seconds']:.2f} s; {seconds:.0f} s of writes on the target follow")
        switched, told = time.monotonic(), time.monotonic()
        while time.monotonic() < switched + seconds:
            time.sleep(min(1.0, max(0.0, switched + seconds - time.monotonic())))
            if time.monotonic() - told > 60:
                told = time.monotonic()
                harness.note(f"{told - switched:.0f} s")
        asked = time.monotonic()
        back = world.back(fault=opened(clients, 0))
        harness.note(f"back in {back['write_stop_seconds']:.2f} s")
        time.sleep(3.0)
        memories, reading = clients.stop()
    # The target is closed and follows again: when it has caught up both are equal as wholes.
    world.caught_up("forward", behind=0)
    result = verify(world.source, world.target, ALL, workers=2)
    verdict = world.judged(memories, 0)
    for example in verdict.examples:
        harness.note(example)
    meanwhile = sum(1 for _client, memory in memories for at in memory.at if switched < at < asked)
    pooled = [memory for client, memory in memories if client.kind == "pooled"]
    return {
        "tool": "ours",
        "write_stop": back["write_stop_seconds"],
        "write_stop_there": there["write_stop_seconds"],
        "wait_of_pooled_clients": back["poolers"]["wait_seconds"],
        "longest_gap_pooled": round(max(memory.longest_gap for memory in pooled), 3),
        "written_on_the_target": meanwhile,
        "per_second": round(meanwhile / (asked - switched), 1),
        "acknowledged": verdict.acknowledged,
        "lost": verdict.lost,
        "doubled": verdict.doubled,
        "failed_reads": reading.failed,
        "verified": result.equal,
        "rows": sum(table.rows for table in result.tables),
        "steps": {step["name"]: step["seconds"] for step in back["steps"]},
        "keys": back["proof"]["keys"],
        "ahead": back["ahead"],
    }


if __name__ == "__main__":
    main()
