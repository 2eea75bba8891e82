# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Showing what another session's exported snapshot shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import session
from .catalog import quote_literal
from .errors import TransferError

if TYPE_CHECKING:
    import psycopg


def import_snapshot(conn: psycopg.Connection[Any], snapshot: str) -> None:
    """Show what an exported snapshot shows, in the transaction just begun. Raises TransferError of kind snapshot_lost when it is gone."""
    try:
        conn.execute(f"SET TRANSACTION SNAPSHOT {quote_literal(snapshot)}")
    except (session.psycopg.errors.InvalidParameterValue, session.psycopg.errors.UndefinedObject) as error:
        raise TransferError(
            f"snapshot {snapshot} is not there any more: {str(error).splitlines()[0]}",
            "Keep the session that exported it open, or run without a snapshot.",
            kind="snapshot_lost",
        ) from error
