"""A gate lets nothing pass that was not measured."""

from __future__ import annotations

import pytest
from ansible_collections.cutover.hetzner.plugins.filter.gate_measurements import gate_measurements
from ansible_collections.cutover.hetzner.plugins.module_utils.operations import gates
from ansible_collections.cutover.hetzner.plugins.module_utils.operations.errors import OperationsError

RESULTS = {"health": {"ok": True, "p95_ms": 0.8, "detail": {"list": [{"status": "online"}]}}}


@pytest.mark.parametrize(
    ("raw", "holds"),
    [
        ({"name": "a", "result": "health"}, True),
        ({"name": "a", "result": "health", "field": "p95_ms", "op": "lt", "value": 1}, True),
        ({"name": "a", "result": "health", "field": "p95_ms", "op": "lt", "value": 0.8}, False),
        ({"name": "a", "result": "health", "field": "p95_ms", "op": "lt", "value": "text"}, False),
        ({"name": "a", "result": "health", "field": "detail.list.0.status", "value": "online"}, True),
        ({"name": "a", "result": "health", "field": "detail.list.1.status", "value": "online"}, False),
        ({"name": "a", "result": "nobody measured this"}, False),
        ({"name": "a", "result": "health", "field": "p95_ms", "op": "in", "value": [0.8, 1]}, True),
    ],
)
def test_judge(raw: dict[str, object], holds: bool) -> None:
    verdict = gates.judge([gates.criterion(raw)], RESULTS)[0]
    assert verdict.holds is holds
    assert bool(verdict.reason) is not holds


def test_decide() -> None:
    good = gates.judge([gates.criterion({"name": "a", "result": "health"})], RESULTS)
    bad = gates.judge([gates.criterion({"name": "a", "result": "none"})], RESULTS)
    assert gates.decide(good, "auto") == "go"
    assert gates.decide(good + bad, "auto") == "no_go"
    assert gates.decide([], "auto") == "no_go"
    assert gates.decide(good, "no_go") == "no_go"
    assert gates.decide(bad, "go") == "go"


@pytest.mark.parametrize(
    ("raw", "named"),
    [
        ({"name": "a", "result": "b", "vlaue": 1}, "vlaue"),
        ({"result": "b"}, "name"),
        ({"name": "a", "result": "b", "op": "about"}, "about"),
    ],
)
def test_bad_criteria_are_refused(raw: dict[str, object], named: str) -> None:
    with pytest.raises(OperationsError, match=named):
        gates.criterion(raw)


def test_measurements_of_hosts() -> None:
    processes = [{"status": "online", "restarts": 0}, {"status": "errored", "restarts": 3}]
    made = gate_measurements(
        {"app1": {"probes": [{"name": "health", "ok": True}], "processes": processes}, "app2": {"probes": [], "processes": []}}
    )
    verdicts = {v.name: v.holds for v in gates.judge([gates.criterion(c) for c in made["criteria"]], made["results"])}
    assert verdicts == {
        "app1: health": True,
        "app1: processes exist": True,
        "app1: processes are online": False,
        "app1: processes did not restart": False,
        "app2: processes exist": False,
        "app2: processes are online": True,
        "app2: processes did not restart": True,
    }
