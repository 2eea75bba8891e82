"""How often progress is read and told, and what of a command's output counts."""

from __future__ import annotations

import pytest
from ansible_collections.cutover.hetzner.plugins.plugin_utils.progress import interval, last_line, pause


def reports(seconds: int, terminal: bool) -> int:
    """How many reports a module that runs so long makes, when there is always something new."""
    shown = count = 0
    for now in range(1, seconds + 1):
        if now - shown >= interval(now, terminal):
            shown, count = now, count + 1
    return count


def test_no_log_is_flooded() -> None:
    assert [reports(seconds, False) for seconds in (4, 5, 60, 300)] == [0, 1, 12, 60]
    assert reports(3600, False) < 250 and reports(86_400, False) < 1700
    assert [reports(seconds, True) for seconds in (1, 10, 60)] == [1, 10, 60] and reports(3600, True) < 600


@pytest.mark.parametrize("age", [0.0, 1.0, 59.0, 300.0, 301.0, 3600.0, 1e6])
def test_a_terminal_is_told_at_least_as_often(age: float) -> None:
    assert 1 <= interval(age, True) <= 10 and 5 <= interval(age, False) <= 60 and interval(age, True) <= interval(age, False)


def test_reading_takes_a_tenth_of_the_time_at_most_and_tires_of_a_missing_file() -> None:
    assert [pause(0.01, 0), pause(0.5, 0), pause(0.01, 5), pause(0.01, 20), pause(0.01, 10_000)] == [1.0, 5.0, 1.0, 4.0, 10.0]


def test_only_the_last_line_of_a_command_that_worked_counts() -> None:
    assert last_line({"rc": 0, "stdout": "sudo: unable to resolve host\r\n\r\n{}\n"}) == "{}"
    assert last_line({"rc": 0, "stdout": " \n"}) == "" and last_line({"rc": 1, "stdout": "cat: no such file"}) == ""
