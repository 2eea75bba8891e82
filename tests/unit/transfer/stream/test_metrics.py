"""What a stream's files and row mean, as data and as text for Prometheus."""

from __future__ import annotations

import datetime
import re
from typing import Any

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.metrics import Sample, View, prometheus, rates, status
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.pgoutput import lsn_text
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.reporter import told
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.state import Stream
from hypothesis import given
from hypothesis import strategies as st

NOW = 1_800_000_000.0
MIB = 1024 * 1024


def receiver(sender: int, spooled: int, commit: int, **more: Any) -> dict[str, Any]:
    return {
        "state": "streaming",
        "updated": NOW - 1,
        "last_message": NOW - 2,
        "sender_lsn": lsn_text(sender),
        "received_lsn": lsn_text(spooled),
        "spooled_lsn": lsn_text(spooled),
        "synced_lsn": lsn_text(spooled),
        "commit_lsn": lsn_text(commit),
        "bytes": 100,
        "transactions": 3,
        "rate": 50.0,
        "reconnects": 1,
        "slot_health": {"wal_status": "reserved", "safe_wal_bytes": None, "retained_bytes": 77, "confirmed_lsn": lsn_text(spooled)},
        "problem": None,
        **more,
    }


APPLIER = {"state": "applying", "updated": NOW - 0.5, "reconnects": 0, "exact_batches": 0}


def row(applied: int, age: float = 5.0, **more: Any) -> Stream:
    at = datetime.datetime.fromtimestamp(NOW - age, datetime.UTC)
    given: dict[str, Any] = {
        "begin": 1,
        "applied": applied,
        "source_time": at,
        "transactions": 10,
        "changes": 20,
        "fence": None,
        "hold": False,
        "problem": None,
        "tables": {},
    }
    names = ("applied_at", "dirty_from", "stop_at", "paused_at", "fence_lsn", "owner", "heartbeat")
    return Stream("forward", "source", "slot_one", "moved", **{**given, **dict.fromkeys(names), **more})


def view(told: dict[str, Any], stream: Stream | None, applier: dict[str, Any] | None = None, **more: Any) -> View:
    return View("forward", "slot_one", NOW, told, APPLIER if applier is None else applier, stream, **more)


def test_behind_by_what_is_not_applied() -> None:
    found = status(view(receiver(10 * MIB, 8 * MIB, 7 * MIB), row(3 * MIB)))
    assert found["lag_bytes"] == 7 * MIB and found["lag_seconds"] == 5.0 and found["state"] == "streaming"
    assert (found["received_lsn"], found["applied_lsn"]) == (lsn_text(8 * MIB), lsn_text(3 * MIB))
    assert (found["transactions"], found["changes"], found["problem"]) == (10, 20, None)
    # Nothing to apply: writes that are not published count as soon as they are known to be none of ours.
    idle = status(view(receiver(10 * MIB, 10 * MIB, 3 * MIB), row(3 * MIB, age=3600)))
    assert (idle["lag_bytes"], idle["lag_seconds"], idle["eta_seconds"], idle["catching_up"]) == (0, 0.0, 0.0, True)


def test_a_sender_that_cannot_be_heard_makes_the_age_grow() -> None:
    lost = receiver(10, 10, 10, state="reconnecting", last_message=NOW - 600, problem={"kind": "lost", "message": "x", "remedy": "y"})
    found = status(view(lost, row(10)))
    assert found["lag_seconds"] == 600.0 and found["state"] == "reconnecting" and found["problem"]["kind"] == "lost"
    assert status(view({}, None, {}))["lag_seconds"] is None
    assert status(view(receiver(10, 10, 10, state="waiting_for_slot", last_message=None), None))["lag_seconds"] is None


@pytest.mark.parametrize(
    ("told_receiver", "told_applier", "state"),
    [
        ({}, {}, "streaming"),
        ({"state": "in_danger"}, {}, "in_danger"),
        ({}, {"state": "fenced"}, "fenced"),
        ({}, {"state": "waiting_for_copy"}, "waiting_for_copy"),
        ({"state": "disk_full"}, {"state": "paused"}, "disk_full"),
        ({"updated": NOW - 60}, {}, "receiver_down"),
        ({}, {"updated": NOW - 60}, "applier_down"),
        ({"state": "failed", "updated": NOW - 60}, {}, "failed"),
        ({}, {"state": "failed", "updated": NOW - 60}, "failed"),
    ],
)
def test_the_worst_is_the_state(told_receiver: dict[str, Any], told_applier: dict[str, Any], state: str) -> None:
    assert status(view(receiver(10, 10, 10, **told_receiver), row(10), {**APPLIER, **told_applier}))["state"] == state


def test_prospects_come_from_two_rates() -> None:
    behind = view(receiver(1000 * MIB, 900 * MIB, 900 * MIB), row(400 * MIB))
    faster = status(behind, [Sample(0.0, 900 * MIB, 100 * MIB), Sample(10.0, 1000 * MIB, 400 * MIB)])
    assert (faster["rate"], faster["write_rate"]) == (30.0 * MIB, 10.0 * MIB) and faster["eta_seconds"] == 30.0
    assert faster["catching_up"] is True and told(faster) == "streaming, 600.0 MiB behind, 30 s to go"
    slower = status(behind, [Sample(0.0, 100 * MIB, 100 * MIB), Sample(10.0, 1000 * MIB, 400 * MIB)])
    assert slower["eta_seconds"] is None and slower["catching_up"] is False and told(slower).endswith("and not catching up")
    unknown = status(behind)
    assert (unknown["rate"], unknown["eta_seconds"], unknown["catching_up"]) == (None, None, None)


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 2**40), st.integers(0, 2**40)), max_size=6))
def test_rates_are_never_below_nothing(raw: list[tuple[float, int, int]]) -> None:
    found = rates([Sample(*one) for one in sorted(raw)])
    assert found == (None, None) or all(value is not None and value >= 0 for value in found)


def test_prometheus_can_read_it() -> None:
    seen = view(
        receiver(10 * MIB, 8 * MIB, 7 * MIB, state="failed", problem={"kind": 'odd "one"\\\n'}),
        row(3 * MIB),
        starts={"receiver": 3, "applier": 1},
        segments=2,
        spool_bytes=130,
        free_bytes=10**9,
    )
    text = prometheus(seen, status(seen))
    sample = re.compile(
        r'^(cutover_stream_[a-z_]+)\{direction="forward",slot="slot_one"(,[a-z]+="(?:[^"\\\n]|\\["\\n])*")*\} (-?[0-9.e+]+)$'
    )
    typed: dict[str, str] = {}
    seen_names = set()
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _unused, _unused, name, kind = line.split()
            assert name not in typed
            typed[name] = kind
        elif not line.startswith("# HELP "):
            found = sample.match(line)
            assert found, line
            seen_names.add(found[1])
    assert seen_names == set(typed)
    assert all((kind == "counter") == name.endswith("_total") for name, kind in typed.items())
    assert 'cutover_stream_lag_bytes{direction="forward",slot="slot_one"} 7340032\n' in text
    assert 'cutover_stream_problem{direction="forward",slot="slot_one",kind="odd \\"one\\"\\\\\\n"} 1\n' in text
    assert 'cutover_stream_process_starts_total{direction="forward",slot="slot_one",process="receiver"} 3\n' in text
    assert 'cutover_stream_position_bytes{direction="forward",slot="slot_one",of="applied"} 3145728\n' in text


def test_what_is_unknown_has_no_line() -> None:
    nothing = View("reverse", "s", NOW)
    text = prometheus(nothing, status(nothing))
    assert "None" not in text and "lag_bytes" not in text
    assert 'cutover_stream_up{direction="reverse",slot="s",process="receiver"} 0\n' in text
    assert 'cutover_stream_state{direction="reverse",slot="s",state="receiver_down"} 1\n' in text
