# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Tables made equal while the stream runs: it stands at one position of the sender's log for as long as they are compared and what differs is replaced.

Exact for the reason that a verification at one position is: the sender's snapshot shows what was committed before the position and nothing else, and
so does the receiver, which nobody else writes to. What comes later the stream brings.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import ExitStack, closing
from fnmatch import fnmatchcase
from typing import Any

from .. import catalog, session, slots
from ..endpoint import Endpoint
from ..errors import TransferError
from ..resync import ResyncResult, resync
from ..selection import Name, Selection, narrowed
from ..verify import verify
from . import pause
from .config import FORWARD, Config


def mend(
    sending: Endpoint, receiving: Endpoint, selection: Selection, direction: str, workers: int, slot_seconds: float = 120.0
) -> ResyncResult:
    """Replace on the receiver what differs from the sender. selection: as the sender calls its tables; slot_seconds: as for :func:`..moment.take`

    The lag grows meanwhile; however this ends, the stream goes on.
    Raises TransferError as :func:`.pause.pause_at`, :func:`..slots.create` and :func:`..resync.resync` do, or of kind differs when rows differ still.
    """
    tables = selection.without_large_objects()
    with ExitStack() as stack:
        hook = stack.enter_context(pause.pause_at(sending, receiving, direction, keep=True))
        name = f"cutover_mend_{secrets.token_hex(4)}"
        slot = stack.enter_context(slots.create(sending, name, temporary=True, deadline_seconds=slot_seconds))
        hook(slot.lsn)
        result = resync(sending, receiving, tables, workers, snapshot=slot.snapshot)
        if result.changed:
            proof = verify(sending, receiving, tables, workers=workers, source_snapshot=slot.snapshot)
            if not proof.equal:
                raise TransferError(
                    f"rows of {', '.join(proof.differing[:5])} differ although they were brought over",
                    "See with pg_row_verify which rows, and whether a trigger or a rule of the receiving table changes them.",
                    kind="differs",
                    differing=list(proof.differing),
                )
    return result


def mend_named(config: Config, patterns: Sequence[str], workers: int = 2) -> list[dict[str, Any]]:
    """Mend the tables of a stream that patterns name, as the migration's source calls them; what was replaced, by table.

    Raises TransferError of kind no_such_table when a pattern matches none, or as :func:`mend` does.
    """
    with closing(session.connect(config.sending, application_name="cutover mend", read_only=True)) as conn:
        tables = [(table.full_name, table.partition_root) for table in catalog.read_tables(conn, config.sent)]

    def called(name: Name | None) -> str:
        named = name if name is None or config.direction == FORWARD else config.sent.target_name(*name)
        return ".".join(named or ())

    found = {
        pattern: [name for name, root in tables if fnmatchcase(called(name), pattern) or fnmatchcase(called(root), pattern)]
        for pattern in patterns
    }
    lost = [pattern for pattern, names in found.items() if not names]
    if lost:
        raise TransferError(
            f"mend has {', '.join(lost)}, which matches no table of the stream",
            "Write schema.table as the source calls it, with * and ? where it helps.",
            kind="no_such_table",
        )
    names = tuple(dict.fromkeys(name for some in found.values() for name in some))
    result = mend(config.sending, config.receiving, narrowed(config.sent, names), config.direction, workers)
    return [
        {"name": table.name, "ranges": table.ranges, "rows_deleted": table.rows_deleted, "rows_copied": table.rows_copied}
        for table in result.tables
        if table.ranges
    ]
