# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which database is in service: table ``cutover.state`` of the target, written in the transaction that makes it so."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

NONE = "none"
CUT_OVER = "cut_over"
# The target is closed and the source complete; only opening the source is left. There is no way but on.
ROLLING_BACK = "rolling_back"
ROLLED_BACK = "rolled_back"

_DDL = """
CREATE TABLE IF NOT EXISTS cutover.state (
  number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, state text NOT NULL CHECK (state IN ('cut_over', 'rolling_back', 'rolled_back')),
  fence text NOT NULL, at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(), result jsonb NOT NULL)
"""


@dataclass(frozen=True)
class Recorded:
    """The last thing that was decided. state: none, cut_over, rolling_back or rolled_back; at: ISO text of the server."""

    state: str
    fence: str = ""
    at: str = ""
    result: Mapping[str, Any] | None = None


def current(conn: psycopg.Connection[Any]) -> Recorded:
    """What the target says about itself."""
    there = conn.execute("SELECT pg_catalog.to_regclass('cutover.state') IS NOT NULL").fetchone()
    if not there or not there[0]:
        return Recorded(NONE)
    row = conn.execute("SELECT state, fence, at::text, result FROM cutover.state ORDER BY number DESC LIMIT 1").fetchone()
    return Recorded(*row) if row else Recorded(NONE)


def record(conn: psycopg.Connection[Any], state: str, fence: str, result: Mapping[str, Any]) -> None:
    """Add a decision, inside the caller's transaction."""
    there = conn.execute("SELECT pg_catalog.to_regclass('cutover.state') IS NOT NULL").fetchone()
    if not there or not there[0]:
        conn.execute(_DDL)
    conn.execute("INSERT INTO cutover.state (state, fence, result) VALUES (%s, %s, %s::jsonb)", (state, fence, json.dumps(result)))


def complete(conn: psycopg.Connection[Any], fence: str, state: str, result: Mapping[str, Any]) -> None:
    """Put the final figures of a decision in place of those known when it was taken."""
    conn.execute("UPDATE cutover.state SET result = %s::jsonb WHERE fence = %s AND state = %s", (json.dumps(result), fence, state))
