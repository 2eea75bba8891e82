"""How far a failover cannot take the log back, by what the server says of its standbys."""

from __future__ import annotations

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.standbys import held


@pytest.mark.parametrize(
    ("names", "standbys", "expected"),
    [
        # Nobody is waited for.
        ("", [], None),
        ("  ", [], None),
        # A plain list means its first one.
        ("two", [("sync", 70)], 70),
        ('"two", three', [("sync", 70)], 70),
        # All of the chosen ones must have it.
        ("2 (one, two, three)", [("sync", 70), ("sync", 50)], 50),
        ("FIRST 2 (*)", [("sync", 70), ("sync", 50)], 50),
        # So many of those that may be asked.
        ("ANY 1 (one, two)", [("quorum", 50), ("quorum", 70)], 70),
        ("any 2 (one, two, three)", [("quorum", 50), ("quorum", 70), ("quorum", 60)], 60),
        # One that is waited for and not there, or has told nothing yet.
        ("two", [], 0),
        ("2 (one, two)", [("sync", 70)], 0),
        ("two", [("sync", None)], 0),
        # A role that may not see them.
        ("two", [(None, None), (None, None)], None),
    ],
)
def test_held(names: str, standbys: list[tuple[str | None, int | None]], expected: int | None) -> None:
    assert held(names, standbys) == expected
