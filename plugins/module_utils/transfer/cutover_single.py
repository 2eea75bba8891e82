# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One side alone: stop its writes, let them pass, remove what a move left; and what a switch would do."""

from __future__ import annotations

import time
import uuid
from typing import Any

from . import cutover_check, cutover_stream, freeze, pgbouncer
from . import cutover_state as state
from .cutover import by_stream
from .cutover_sides import Options, Side, Sides, freeze_side, has_schema
from .endpoint import Endpoint
from .errors import TransferError
from .selection import Selection


def frozen(source: Endpoint, target: Endpoint, selection: Selection, side: str, options: Options) -> dict[str, Any]:
    """Stop writes on one side: the target from its schema transfer until it is opened, the source for maintenance."""
    with Sides(source, target, selection) as both:
        one = _chosen(both, side)
        recorded = state.current(both[1].conn)
        serving = "target" if recorded.state == state.CUT_OVER else "source"
        if side == "target" and serving == "target" and not options.force:
            raise TransferError(
                "the target is in service; freezing it stops the application", "Give force=true if that is meant, or use state=rolled_back."
            )
        tables, sequence_names = one.names()
        done = freeze_side(one, tables, sequence_names, str(uuid.uuid4()), options, time.monotonic() + options.deadline)
        return {
            "changed": done.changed,
            "state": "frozen",
            "side": side,
            "fence": {"id": done.id, "lsn": done.lsn},
            "tables_frozen": done.tables,
        }


def thawed(source: Endpoint, target: Endpoint, selection: Selection, side: str, options: Options) -> dict[str, Any]:
    """Let writes pass on one side again, with its privileges as before. Refused when the other side takes writes, without force."""
    with Sides(source, target, selection) as both:
        one = _chosen(both, side)
        recorded = state.current(both[1].conn)
        serving = "target" if recorded.state == state.CUT_OVER else "source"
        if side != serving and freeze.status(one.conn).state == "frozen" and not options.force:
            raise TransferError(
                f"the {serving} is in service; with the {side} thawed both sides would take writes",
                f"Use state={'rolled_back' if side == 'source' else 'cut_over'}, or give force=true if both are meant to.",
            )
        other = both[1] if one is both[0] else both[0]
        now = freeze.status(one.conn)
        streamed = serving == side and now.state == "frozen" and cutover_stream.carries(other)
        if streamed:
            cutover_stream.disarm(one, other)
        done = freeze.thaw(one.conn)
        # Of a switch that was killed with clients waiting: they lead to the side in service still.
        waiting = pgbouncer.resume(options.poolers) if serving == side else ()
        if streamed:
            cutover_stream.release(other, now.id)
        if waiting:
            raise TransferError(
                f"the {side} is thawed, but clients still wait: {'; '.join(waiting)}",
                "Run RESUME on their consoles at once.",
                kind="pooler",
            )
        return {
            "changed": done.changed,
            "state": "thawed",
            "side": side,
            "leftover_triggers": list(done.leftover),
            "privileges_kept": list(done.acl_kept),
        }


def finalized(source: Endpoint, target: Endpoint, selection: Selection, options: Options) -> dict[str, Any]:
    """Remove schema ``cutover`` on both sides and look that it is gone. There is no way back afterwards; the source takes writes again."""
    with Sides(source, target, selection) as (src, dst):
        here = [side for side in (src, dst) if has_schema(side)]
        if not here:
            return {"changed": False, "state": "finalized", "removed": []}
        recorded = state.current(dst.conn)
        if recorded.state not in (state.CUT_OVER, state.ROLLED_BACK) and has_schema(dst) and not options.force:
            raise TransferError(
                "nothing was cut over yet, so there is nothing to finalize",
                "Run state=cut_over first, or give force=true to give the move up.",
            )
        # The target last: it holds the record, so that a run that dies in between can be repeated.
        for side in here:
            freeze.remove_schema(side.conn)
        left = [side.name for side in (src, dst) if has_schema(side)]
        if left:
            raise TransferError(f"schema cutover is still on the {' and the '.join(left)}", "See who recreates it, then run again.")
        return {"changed": True, "state": "finalized", "removed": [side.name for side in here]}


def outlook(source: Endpoint, target: Endpoint, selection: Selection, goal: str, side: str, options: Options) -> dict[str, Any]:
    """What the goal would do, with expected seconds; touches nothing. Raises as the real run would before its first change."""
    with Sides(source, target, selection) as (src, dst):
        recorded = state.current(dst.conn)
        if goal in (state.CUT_OVER, state.ROLLED_BACK):
            if recorded.state == goal:
                return {**(recorded.result or {}), "changed": False}
            if goal == state.CUT_OVER:
                cutover_check.ready(src.conn, dst.conn, selection, recorded.state)
            elif recorded.state not in (state.CUT_OVER, state.ROLLING_BACK):
                raise TransferError(
                    "nothing was cut over, so there is nothing to roll back", "The source is in service; no step is needed."
                )
            old, new = (src, dst) if goal == state.CUT_OVER else (dst, src)
            pgbouncer.check(options.poolers)
            if by_stream(old, new, options):
                return {"changed": True, "state": goal, "method": cutover_stream.METHOD, "steps": cutover_stream.expected(old, new)}
            steps = cutover_check.expected(src.conn, dst.conn, selection, options.workers)
            return {"changed": True, "state": goal, "method": cutover_check.METHOD, "steps": steps}
        if goal == "finalized":
            return {"changed": any(has_schema(one) for one in (src, dst)), "state": goal}
        one = src if side == "source" else dst
        now = freeze.status(one.conn)
        covered = {".".join(name) for name in one.names()[0]} <= set(now.covered)
        changed = not (now.state == "frozen" and covered) if goal == "frozen" else now.state == "frozen" or bool(now.covered)
        return {"changed": changed, "state": goal, "side": side}


def _chosen(both: tuple[Side, Side], side: str) -> Side:
    return both[0] if side == "source" else both[1]
