"""How far a plan is carried out: counted while the steps run, and what people read of it."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Mapping

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner import graph
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner.errors import HetznerError
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner.model import Change
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner.progress import Progress, Step, as_text, lines, parse, snapshot


def change(kind: str, name: str, action: str = "create") -> Change:
    return Change(action, kind, name, f"{kind}.{name}", "not there")


CHANGES = [change("network", "private"), change("server", "app"), change("server", "db"), change("volume", "data", "delete")]
HALF = Progress(9, 3, 1, 2, 1, 12.4, (Step("server.app", "create", 8.2), Step("volume.data", "delete", 0.0)))


def test_counts_add_up_and_the_longest_comes_first() -> None:
    outcome = graph.Outcome(done={"network.private": 1.0}, failed={"volume.data": HetznerError("no")})
    found = snapshot(CHANGES, outcome, {"server.db": 2.0}, 5.0)
    assert found == Progress(4, 1, 1, 0, 1, 5.0, (Step("server.db", "create", 2.0),))
    both = snapshot(CHANGES, graph.Outcome(), {"server.app": 1.0, "server.db": 2.0}, 5.0)
    assert [step.resource for step in both.running] == ["server.db", "server.app"] and both.waiting == 2


def test_watcher_sees_steps_on_their_way_and_the_end() -> None:
    seen: list[Progress] = []
    waited = threading.Event()

    def work(step: Change) -> None:
        if step.key == "server.app":
            assert waited.wait(10)

    def watch(outcome: graph.Outcome, running: Mapping[str, float]) -> None:
        seen.append(snapshot(CHANGES, outcome, running, 0.0))
        waited.set()

    needs = {one.key: set() if one.kind == "network" else {"network.private"} for one in CHANGES}
    needs["server.db"] = {"server.app"}
    outcome = graph.run(CHANGES, needs, work, watch)
    assert len(outcome.done) == 4
    assert (seen[0].done, seen[0].waiting, [step.resource for step in seen[0].running]) == (2, 1, ["server.app"])
    assert (seen[-1].done, seen[-1].waiting, seen[-1].running) == (4, 0, ())


def test_lines() -> None:
    assert lines([HALF]) == [
        "3 of 9 resources done in 12 s, 1 failed, 2 not tried, 1 to come",
        "  waiting for server.app: create, 8 s",
        "  waiting for volume.data: delete, 0 s",
    ]
    assert lines([HALF, Progress(9, 9, 0, 0, 0, 20.0, ())]) == ["9 of 9 resources done in 20 s"]
    assert lines([Progress(0, 0, 0, 0, 0, 0.0, ())]) == ["0 of 0 resources done in 0 s"] and lines([]) == []
    crowd = tuple(Step(f"server.n{number}", "create", 1.0) for number in range(12))
    assert len(lines([dataclasses.replace(HALF, running=crowd)])) == 10
    assert lines([dataclasses.replace(HALF, running=crowd)])[-1] == "  and for 4 more"


def test_what_is_written_is_read_again() -> None:
    assert parse(as_text(HALF)) == HALF


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", "{}", as_text(HALF)[:30], json.dumps({**dataclasses.asdict(HALF), "total": "x"}), '{"running": null}']
)
def test_anything_else_is_no_snapshot(text: str) -> None:
    assert parse(text) is None
