"""What stands between a slot and a spool, decided without a server."""

from __future__ import annotations

import struct

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.slots import Health
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.sender import (
    Identity,
    check_positions,
    feedback,
    in_danger,
    switch_point,
)
from hypothesis import given
from hypothesis import strategies as st

GIB = 1024**3


@given(st.integers(1, 100), st.integers(0, 100), st.integers(0, 100))
def test_positions_fit_or_are_refused(confirmed: int, spooled: int, end: int) -> None:
    """Nothing may be missing between spool and slot, and the spool may not know more than the sender."""
    health = Health("s", True, confirmed_lsn=f"0/{confirmed:X}")
    want = "spool_gap" if 0 < spooled < confirmed else "sender_behind" if spooled > end else None
    try:
        check_positions(health, Identity("1", 1, end, "d"), spooled)
        found = None
    except TransferError as error:
        found = error.details["kind"]
    assert found == want


@pytest.mark.parametrize(
    ("status", "safe", "retained", "danger"),
    [
        ("reserved", None, 500 * GIB, False),
        ("reserved", 4 * GIB, 0, False),
        ("extended", 2 * GIB, 2 * GIB, False),
        ("extended", GIB // 2, 3 * GIB, True),
        ("unreserved", -1, 5 * GIB, True),
        ("extended", 0, 0, False),
    ],
)
def test_danger_is_a_part_of_what_the_slot_may_hold(status: str, safe: int | None, retained: int, danger: bool) -> None:
    assert in_danger(Health("s", True, wal_status=status, safe_wal_bytes=safe, retained_bytes=retained)) is danger


def test_the_history_of_a_timeline() -> None:
    history = "1\t0/3000000\tno recovery target specified\n\n2\t1/A0\tbefore 2000-01-01 05:00:00+00\n"
    assert switch_point(history, 1) == 0x3000000 and switch_point(history, 2) == 0x1000000A0
    # Never on it: nothing that came from there is known.
    assert switch_point(history, 3) == 0 and switch_point("", 1) == 0


def test_feedback_is_as_the_protocol_has_it() -> None:
    data = feedback(0x20, 0x10, 946_684_800.5, True)
    assert struct.unpack(">cQQQqB", data) == (b"r", 0x20, 0x10, 0, 500_000, 1) and len(data) == 34
