# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The switch and the way back: freeze, drain or bring the rest, sequences, proof, open; on any failure the side in service serves again at once.

At every moment at most one side accepts writes. The commit that opens a side also records it, so a killed run leaves either state, never
something between; the next run of the same state goes on from there.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from functools import partial
from typing import Any

from . import cutover_check, cutover_deferred, cutover_stream, freeze, ledger, pgbouncer, predecessor, sequences
from . import cutover_state as state
from .cutover_sides import CONTROL, Options, Side, Sides, freeze_side, interrupt, text
from .endpoint import Endpoint
from .errors import TransferError
from .resync import resync
from .selection import Selection
from .session import connect
from .steps import Steps
from .verify import verify

METHODS = ("auto", cutover_stream.METHOD, cutover_check.METHOD)
# Advisory lock of the only switch of a target; the copy's own lock is free for what brings the rest.
LOCK_KEY = ledger.LOCK_KEY + 1
_RESUME = "Run RESUME on their consoles at once."


def cut_over(source: Endpoint, target: Endpoint, selection: Selection, options: Options) -> dict[str, Any]:
    """Put the target into service. Returns steps, write_stop_seconds, fence, proof, resync, sequences, method, changed.

    Raises TransferError; then the source is in service again and the target closed, unless the message says otherwise.
    """
    with Sides(source, target, selection) as (src, dst):
        _only_one(dst)
        recorded = state.current(dst.conn)
        if recorded.state == state.CUT_OVER:
            pgbouncer.turn(options.poolers, dst.name)
            return cutover_deferred.switched_on(src, dst, {**(recorded.result or {}), "changed": False})
        cutover_check.ready(src.conn, dst.conn, selection, recorded.state)
        return cutover_deferred.switched_on(src, dst, _switch(src, dst, state.CUT_OVER, options, _way(src, dst, options)))


def roll_back(source: Endpoint, target: Endpoint, selection: Selection, options: Options) -> dict[str, Any]:
    """Put the source back into service with every row that the target has taken since. Returns as :func:`cut_over`."""
    with Sides(source, target, selection) as (src, dst):
        _only_one(dst)
        recorded = state.current(dst.conn)
        if recorded.state == state.ROLLED_BACK:
            pgbouncer.turn(options.poolers, src.name)
            return cutover_deferred.switched_back(src, dst, {**(recorded.result or {}), "changed": False})
        if recorded.state == state.ROLLING_BACK:
            opened = _open_source(src, dst, recorded.fence, dict(recorded.result or {}), time.monotonic(), options)
            return cutover_deferred.switched_back(src, dst, opened)
        if recorded.state != state.CUT_OVER:
            raise TransferError("nothing was cut over, so there is nothing to roll back", "The source is in service; no step is needed.")
        if freeze.status(src.conn).state != "frozen":
            raise TransferError(
                "the source is not frozen although the target is in service: rows may have been written on both sides",
                "Compare both sides with pg_row_verify and decide by hand which rows are right.",
            )
        return cutover_deferred.switched_back(src, dst, _switch(dst, src, state.ROLLED_BACK, options, _way(dst, src, options)))


def by_stream(old: Side, new: Side, options: Options) -> cutover_stream.Way | None:
    """The way of a change stream that brings the rest into ``new``, ready for the switch; None without one. Raises TransferError when it is not ready."""
    streams = cutover_stream.carries(new)
    if options.method == cutover_stream.METHOD and not streams:
        raise TransferError(
            f"no change stream into the {new.name} was begun",
            "Run pg_change_stream state=started and let it catch up; or use method=copy_under_freeze, with writes stopped for as long as that takes.",
            kind="no_stream",
        )
    if not streams:
        return None
    if options.method == cutover_check.METHOD:
        cutover_stream.stop(new)
        return None
    return cutover_stream.prepare(old, new, options)


def _way(old: Side, new: Side, options: Options) -> cutover_stream.Way | None:
    """As :func:`by_stream`; when a run was killed with writes stopped, and the stream is not ready now, the side in service goes on."""
    try:
        return by_stream(old, new, options)
    except TransferError as error:
        stopped = freeze.status(old.conn)
        if stopped.state != "frozen":
            raise
        raise _undo(old, new, Steps(options.deadline, {}, lambda: None), error, stopped.id, options) from error


def _only_one(dst: Side) -> None:
    """Refuse a second switch of this target, and a copy that is still running."""
    if predecessor.take(dst.conn, LOCK_KEY, 0.0) is not None:
        raise TransferError("another run is switching this target", "Wait until it has ended, then run again.", kind="second_mover")
    ledger.acquire(dst.conn)
    dst.conn.execute("SELECT pg_advisory_unlock(%s)", (ledger.LOCK_KEY,))


def _switch(old: Side, new: Side, goal: str, options: Options, way: cutover_stream.Way | None) -> dict[str, Any]:
    """Take service from ``old`` to ``new``. old is writable until the freeze; new is closed until the end. way: of a stream that brings the rest."""
    pgbouncer.check(options.poolers)
    compared = None if way is None else cutover_stream.ahead(old, new, options.workers)
    steps = Steps(options.deadline, options.step_deadlines, lambda: interrupt(old, new), options.fault)
    fence_id = str(uuid.uuid4())
    dst = new if goal == state.CUT_OVER else old
    back = goal == state.ROLLED_BACK
    later: cutover_stream.Later | None = None
    try:
        tables, sequence_names = old.names()
        waiting = time.monotonic()
        if options.poolers:
            steps.run("pause", lambda: pgbouncer.pause(options.poolers, min(options.pause_seconds, steps.remaining("pause"))))
        frozen = steps.run(
            "freeze", lambda: freeze_side(old, tables, sequence_names, fence_id, options, time.monotonic() + steps.remaining("freeze"))
        )
        fence_id, stopped = frozen.id, frozen.locked_at or time.monotonic() - _stopped_for(old)
        result: dict[str, Any] = {
            "state": goal,
            "method": cutover_stream.METHOD if way else cutover_check.METHOD,
            "fence": {"id": frozen.id, "lsn": frozen.lsn},
            "tables_frozen": frozen.tables,
            "lock_attempts": frozen.attempts,
        }
        if way is not None:
            result["ahead"] = compared
            steps.run("drain", lambda: cutover_stream.drain(new, frozen.id))
            way = cutover_stream.completed(old, new, way)
            brought = steps.run("rest", partial(cutover_stream.rest, old, new, way, options.workers))
        else:
            brought = steps.run("rest", lambda: resync(old.endpoint, new.endpoint, old.selection, options.workers))
        result["resync"] = cutover_check.brought(brought)
        moved = steps.run("sequences", lambda: sequences.move(old.conn, new.conn, old.selection))
        result["sequences"] = {"count": moved.count, "set": len(moved.changed), "ahead": list(moved.ahead)}
        result["proof"] = steps.run("proof", lambda: _prove(old, new, options, way, back))
        if options.rehearse:
            return _undo_rehearsal(old, new, {**result, "steps": steps.report()}, stopped, way is not None, options)
        if way is not None:
            later = cutover_stream.Later(old, new, options.afterwards)
            result["way_back"] = steps.run("reverse", lambda: cutover_stream.arm(old, new, way))
        if back:
            steps.run("record", lambda: _decide(dst, state.ROLLING_BACK, frozen.id, result))
    except BaseException as error:
        if later is not None:
            later.close()
        raise _undo(old, new, steps, error, fence_id if way is not None else None, options) from error
    try:
        done = (
            _open_source(new, old, frozen.id, result, stopped, options, steps, waiting)
            if back
            else _open_target(old, new, frozen.id, result, stopped, options, steps, way is not None, waiting)
        )
    except BaseException:
        if later is not None:
            later.close()
        raise
    if later is None:
        return done
    # Both sides are looked at as they were when one of them opened: no hurry, and nothing in the way.
    found = later.compare(old, new, options.workers)
    done["proof"] = cutover_stream.counted(done["proof"], found.pop("counts", {}))
    done["afterwards"] = found
    state.complete(dst.conn, frozen.id, goal, {name: value for name, value in done.items() if name != "changed"})
    cutover_stream.refuse_difference(done["afterwards"], new, back)
    return done


def _stopped_for(old: Side) -> float:
    """Seconds since a run that was killed has stopped the writes."""
    row = old.conn.execute("SELECT greatest(extract(epoch FROM clock_timestamp() - at), 0)::float8 FROM cutover.freeze").fetchone()
    return float(row[0]) if row else 0.0


def _prove(old: Side, new: Side, options: Options, way: cutover_stream.Way | None, back: bool) -> dict[str, Any]:
    if way is not None:
        return cutover_stream.figures(cutover_stream.prove(old, new, way, options.workers), old.conn, back)
    return cutover_check.proven(verify(old.endpoint, new.endpoint, old.selection, workers=options.workers), old.conn, back)


def _open_target(
    src: Side,
    dst: Side,
    fence_id: str,
    result: dict[str, Any],
    stopped: float,
    options: Options,
    steps: Steps,
    streamed: bool,
    waiting: float,
) -> dict[str, Any]:
    def act() -> None:
        with dst.conn.transaction():
            freeze.release(dst.conn)
            state.record(dst.conn, state.CUT_OVER, fence_id, {**result, "steps": steps.report()})

    try:
        steps.run("open", act)
    except BaseException as error:
        # The commit may have arrived although its answer did not: only the target itself knows.
        opened = _is_open(dst, fence_id)
        if opened is None:
            raise TransferError(
                f"whether the target was opened is not known, it cannot be reached: {text(error)}",
                "Both sides refuse writes now. Make the target reachable and run state=cut_over again; it goes on from what the target says.",
                step="open",
            ) from error
        if not opened:
            raise _undo(src, dst, steps, error, fence_id if streamed else None, options) from error
    return _finish(dst, dst, fence_id, state.CUT_OVER, result, stopped, options, steps, waiting)


def _open_source(
    src: Side,
    dst: Side,
    fence_id: str,
    result: dict[str, Any],
    stopped: float,
    options: Options,
    steps: Steps | None = None,
    waiting: float | None = None,
) -> dict[str, Any]:
    """Open the source after everything is back; from here on there is only forward, also for a run that died here."""
    steps = steps or Steps(60, {}, lambda: interrupt(src, dst))

    def act() -> None:
        with src.conn.transaction():
            freeze.release(src.conn)

    cutover_deferred.switched_off(dst)
    try:
        steps.run("open", act)
        result = {**result, "state": state.ROLLED_BACK}
        steps.run("record_done", lambda: _decide(dst, state.ROLLED_BACK, fence_id, result))
    except BaseException as error:
        raise TransferError(
            f"the source holds everything but opening it failed: {text(error)}",
            "The target stays closed. Run state=rolled_back again: only the opening is left.",
            step=steps.current,
        ) from error
    return _finish(src, dst, fence_id, state.ROLLED_BACK, result, stopped, options, steps, waiting)


def _finish(
    opened: Side,
    dst: Side,
    fence_id: str,
    goal: str,
    result: dict[str, Any],
    stopped: float,
    options: Options,
    steps: Steps,
    waiting: float | None,
) -> dict[str, Any]:
    """Figures, clients that wait in a pooler, then what does not hurry: the triggers of the open side."""
    write_stop = round(time.monotonic() - stopped, 4)
    done = {**result, "steps": steps.report(), "write_stop_seconds": write_stop}
    if options.poolers:
        pgbouncer.turn(options.poolers, opened.name)
        done["poolers"] = {"count": len(options.poolers), "wait_seconds": round(time.monotonic() - (waiting or stopped), 4)}
    _dropped, leftover = freeze.drop_triggers(opened.conn)
    done["leftover_triggers"] = list(leftover)
    state.complete(dst.conn, fence_id, goal, done)
    return {**done, "changed": True}


def _decide(dst: Side, what: str, fence_id: str, result: Mapping[str, Any]) -> None:
    with dst.conn.transaction():
        state.record(dst.conn, what, fence_id, result)


def _undo_rehearsal(old: Side, new: Side, result: dict[str, Any], stopped: float, streamed: bool, options: Options) -> dict[str, Any]:
    """Let the old side serve again after everything but the switch."""
    with connect(old.endpoint, application_name=CONTROL) as conn:
        undone = freeze.thaw(conn)
    write_stop = round(time.monotonic() - stopped, 4)
    waiting = pgbouncer.resume(options.poolers)
    if streamed:
        cutover_stream.release(new, str(result["fence"]["id"]))
    if waiting:
        raise TransferError(f"the rehearsal has ended well, but clients still wait: {'; '.join(waiting)}", _RESUME, kind="pooler")
    return {**result, "state": "rehearsed", "write_stop_seconds": write_stop, "leftover_triggers": list(undone.leftover), "changed": True}


def _undo(old: Side, new: Side, steps: Steps, error: BaseException, fence_id: str | None, options: Options) -> TransferError:
    """Let the old side serve again on a session of its own, whatever became of ours. Returns the error to raise. fence_id: of a switch by stream"""
    started = time.monotonic()
    details: dict[str, Any] = dict(error.details) if isinstance(error, TransferError) else {}
    details |= {"step": steps.current, "steps": steps.report()}
    remedy = error.remedy if isinstance(error, TransferError) else "Correct the cause and run the same state again."
    try:
        # Before the old side takes a write: nothing of the new one may reach it any more.
        if fence_id is not None:
            cutover_stream.disarm(old, new)
        with connect(old.endpoint, application_name=CONTROL) as conn:
            undone = freeze.thaw(conn)
    except Exception as second:
        return TransferError(
            f"step {steps.current} failed ({text(error)}) and the {old.name} could not be thawed: {text(second)}",
            f"Run state=thawed side={old.name} at once: until then both sides refuse writes.",
            **details,
            thawed=False,
        )
    waiting = pgbouncer.resume(options.poolers)
    if waiting:
        remedy = f"Clients still wait: {'; '.join(waiting)}. {_RESUME} {remedy}"
    details |= {"thawed": True, "thaw_seconds": round(time.monotonic() - started, 4), "leftover_triggers": list(undone.leftover)}
    if fence_id is not None:
        try:
            cutover_stream.release(new, fence_id)
        except Exception as third:
            remedy += f" The change stream still holds at the fence ({text(third)}): the next switch, or pg_change_stream state=started, lets it go on."
    return TransferError(
        f"step {steps.current or 'prepare'} failed, the {old.name} is in service again with its privileges as before"
        f" and the {new.name} stays closed: {text(error)}",
        remedy,
        **details,
    )


def _is_open(dst: Side, fence_id: str) -> bool | None:
    for pause in (0.0, 1.0, 3.0):
        time.sleep(pause)
        try:
            with connect(dst.endpoint, application_name=CONTROL) as conn:
                found = state.current(conn)
                return found.state == state.CUT_OVER and found.fence == fence_id
        except Exception:
            continue
    return None
