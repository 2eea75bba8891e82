"""What is told about things that a cutover switches on and off."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import cutover_deferred
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.cutover_deferred import Item

JOB = Item("f", 1, "cron_job", "nightly", ("ON",), ("OFF",), ("STOP",), ("START",), "todo", False, "", "")


@pytest.mark.parametrize(
    ("item", "state", "statements", "source", "problem"),
    [
        (replace(JOB, state="on", stopped=True), "on", [], [], ""),
        (replace(JOB, state="on", source_problem="denied"), "on", [], ["STOP"], "on the source: denied"),
        (replace(JOB, state="found", stopped=True), "on", [], [], ""),
        (replace(JOB, state="found"), "on", [], ["STOP"], ""),
        (replace(JOB, problem="no lock"), "waiting", ["ON"], [], "no lock"),
        (replace(JOB, state="needs", problem="needs pg_cron"), "waiting", ["ON"], [], "needs pg_cron"),
        (replace(JOB, state="on", source=(), source_undo=()), "on", [], [], ""),
    ],
)
def test_after_a_cutover(item: Item, state: str, statements: list[str], source: list[str], problem: str) -> None:
    told = cutover_deferred._told(item)
    assert (told["state"], told["statements"], told["source_statements"], told["problem"]) == (state, statements, source, problem)
    assert bool(cutover_deferred.warnings({"deferred": [told]})) is bool(statements or source)


@pytest.mark.parametrize(
    ("item", "state", "statements", "source"),
    [
        (replace(JOB, state="off"), "off", [], []),
        (replace(JOB, state="on", problem="no lock"), "on", ["OFF"], []),
        (replace(JOB, state="off", stopped=True, source_problem="denied"), "off", [], ["START"]),
        (replace(JOB, state="found"), "on", ["OFF"], []),
        (replace(JOB, state="todo", problem="no lock"), "off", [], []),
        (replace(JOB, state="needs", problem="needs pg_cron"), "off", [], []),
    ],
)
def test_after_the_way_back(item: Item, state: str, statements: list[str], source: list[str]) -> None:
    told = cutover_deferred._told_back(item)
    assert (told["state"], told["statements"], told["source_statements"]) == (state, statements, source)
    assert bool(told["problem"]) is bool(statements or source) is bool(cutover_deferred.warnings({"deferred": [told]}))


def test_a_warning_has_everything_that_is_to_be_run() -> None:
    item = cutover_deferred._told(replace(JOB, state="on", source_problem="denied"))
    assert cutover_deferred.warnings({"deferred": [item]}) == ["cron job nightly: on the source: denied. By hand on the source run STOP;"]
    unknown = cutover_deferred._unknown(RuntimeError("gone"), "cut_over")
    assert cutover_deferred.warnings({"deferred": [unknown]}) == [
        "what waits could not be switched: RuntimeError: gone. Run state=cut_over again, which only does what is left"
    ]
    assert cutover_deferred.warnings({}) == []


def test_a_result_of_something_else_is_left_alone() -> None:
    rehearsed = {"state": "rehearsed", "changed": True}
    nowhere = None
    assert (
        cutover_deferred.switched_on(nowhere, nowhere, rehearsed)
        == rehearsed
        == cutover_deferred.switched_back(nowhere, nowhere, rehearsed)
    )  # type: ignore[arg-type]
