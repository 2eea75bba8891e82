# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Partitions that were truncated, attached or detached since all rows were proven equal, which no stream tells: their tables are looked at as a whole.

Before writes stop they are made equal at one position of the stream; what happens to them after that is brought over under the freeze.
"""

from __future__ import annotations

import time
from typing import Any

from .cutover_sides import Side
from .errors import certain
from .selection import Name, narrowed
from .stream import leaves, mending, turning
from .stream import state as streams

# Nobody waits long for somebody's transaction before a switch; what is not mended then is looked at under the freeze, which names the session.
_SLOT_SECONDS = 10.0


def reshaped(old: Side, new: Side) -> tuple[Name, ...]:
    """Tables on top, as ``old`` calls them, with other partitions than at the proof. None without a proof, since everything is compared then."""
    return leaves.changed(*_both(old, new))


def mend(old: Side, new: Side, workers: int) -> dict[str, Any]:
    """Make them equal while writes go on. Returns ``partitions`` (their tables), ``mended_ranges``, ``mended_rows``, ``seconds``; {} without any.

    Raises TransferError as :func:`.stream.mending.mend` does.
    """
    began = time.monotonic()
    noted, now = _both(old, new)
    names = leaves.changed(noted, now)
    if not names:
        return {}
    done = mending.mend(old.endpoint, new.endpoint, narrowed(old.selection, names), new.inward, workers, _SLOT_SECONDS)
    turning.leaves_mended(new.conn, new.inward, {name: now[name] for name in names})
    return {
        "partitions": [".".join(name) for name in names],
        "mended_ranges": done.ranges,
        "mended_rows": done.rows_copied + done.rows_deleted,
        "seconds": round(time.monotonic() - began, 4),
    }


def _both(old: Side, new: Side) -> tuple[leaves.Leaves, leaves.Leaves]:
    """(at the proof, now), of what ``old`` publishes for the stream into ``new``."""
    if turning.proven_at(new.conn, new.inward) is None:
        return {}, {}
    row = certain(streams.read(new.conn, new.inward), "the stream's row")
    return turning.leaves_at_proof(new.conn, new.inward), leaves.read(old.conn, row.publication)
