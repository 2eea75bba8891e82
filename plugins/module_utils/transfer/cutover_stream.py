# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A switch that a change stream prepared: drain to the fence, prove the rows that were touched since the last proof of all, begin the way back.

The stream into ``new`` carries what is written to ``old`` until the fence; the stream the other way begins under the freeze, before ``new`` takes its first
write. Only one of the two ever applies: the first one holds at the fence, the second one has no row in ``cutover.stream`` before.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from . import catalog, cutover_check, cutover_partitions, freeze, large_objects, session, slots, todo
from .catalog import quote_literal
from .cutover_sides import CONTROL, Options, Side
from .errors import TransferError, certain
from .moment import hold
from .resync import ResyncResult, resync
from .selection import Name, narrowed
from .stream import leaves, roster, turning
from .stream import proof as proofs
from .stream import state as streams
from .stream.config import FORWARD
from .stream.pgoutput import lsn_number, lsn_text
from .stream.shapes import Route
from .verify import VerifyResult, verify

if TYPE_CHECKING:
    import psycopg

METHOD = "change_stream"
# Of the applier: it writes at least every five seconds, also when there is nothing to apply.
SILENT_SECONDS = 30.0
POLL_SECONDS = 0.005
# For one message to come through a stream that has caught up.
ANSWER_SECONDS = 20.0
# What is touched is compared before writes stop until no more than this is left, or a round does not bring much less.
FEW_KEYS = 1_000
AHEAD_ROUNDS = 6
# Reasons for which a moment of both sides cannot be had although nothing is wrong with the rows.
_NO_MOMENT = frozenset(
    {"slot_blocked", "no_free_slot", "no_wal_sender", "no_replication_right", "pause_taken", "too_late", "deadline", "standby"}
)
# Of one session on a server of two cores: rows compared by key, and log applied.
KEYS_PER_SECOND = 20_000
BYTES_PER_SECOND = 5_000_000


@dataclass(frozen=True)
class Way:
    """What was read before writes stop. unstreamed: tables as ``old`` calls them; slot, publication, routes: of the stream back"""

    unstreamed: tuple[Name, ...]
    slot: str
    publication: str
    routes: tuple[Route, ...]


def carries(new: Side) -> bool:
    """Whether a stream into this side was begun."""
    return streams.read(new.conn, new.inward) is not None


def prepare(old: Side, new: Side, options: Options) -> Way:
    """Look at the stream into ``new``, and at the way back.

    Raises TransferError, naming what is wrong and what to do, for a stream that would not drain in a short time.
    """
    row = certain(streams.read(new.conn, new.inward), "the stream's row")
    _alive(row, old, new, options)
    # Behind the fence of a run that was killed nothing comes through any more; what is before it is drained as usual.
    if not frozen(old):
        _answers(old, new)
    there = streams.read(old.conn, new.outward)
    slot, publication = (there.slot, there.publication) if there else (options.way_back_slot, options.way_back_publication)
    if not new.conn.execute("SELECT FROM pg_publication WHERE pubname = %s", (publication,)).rowcount:
        raise TransferError(
            f"the {new.name} has no publication {publication}, so that nothing written there would find its way back",
            f"Run pg_change_stream state=started direction={new.outward} first.",
            kind="no_way_back",
        )
    found = roster.draw_up(new.conn, old.conn, new.selection, forward=new.outward == FORWARD)
    if found.problems:
        raise TransferError(
            f"{len(found.problems)} objects would not find their way back to the {old.name}: {'; '.join(found.problems[:5])}",
            "Make the definitions alike, or exclude these tables.",
            kind="no_way_back",
            problems=list(found.problems),
        )
    return Way(unstreamed(old, row.publication), slot, publication, found.routes)


def frozen(side: Side) -> bool:
    """Whether writes are stopped already, by a run that was killed."""
    return freeze.status(side.conn).state == "frozen"


def _alive(row: streams.Stream, old: Side, new: Side, options: Options) -> None:
    if row.problem:
        raise TransferError(
            f"the change stream into the {new.name} has stopped: {row.problem.get('message', row.problem)}",
            str(row.problem.get("remedy") or "Mend that; the stream goes on by itself."),
            kind="stream_stopped",
            problem=dict(row.problem),
        )
    silent = certain(
        new.conn.execute(
            "SELECT coalesce(extract(epoch FROM clock_timestamp() - %s::timestamptz), 1e9)::float8", (row.heartbeat,)
        ).fetchone(),
        "the age of the heartbeat",
    )[0]
    if silent > SILENT_SECONDS:
        raise TransferError(
            f"nothing has been heard of the change stream into the {new.name} for {min(silent, 1e6):.0f} s",
            "Start it with pg_change_stream state=started, or look at its service on the mover.",
            kind="stream_silent",
        )
    lag = lag_of(old, row.applied)
    if lag > options.max_lag_bytes:
        raise TransferError(
            f"the change stream into the {new.name} is {lag} bytes behind, at most {options.max_lag_bytes} are allowed when writes stop",
            "Wait until pg_change_stream state=status says that it has caught up, or raise max_lag_bytes and accept a longer stop.",
            kind="stream_behind",
            lag_bytes=lag,
        )


def _answers(old: Side, new: Side) -> None:
    """See something come through the whole stream. A receiver that cannot go on would otherwise be found when writes have stopped."""
    row = old.conn.execute("SELECT pg_logical_emit_message(true, 'cutover', 'nudge')::text, pg_current_wal_flush_lsn()::text").fetchone()
    sent = lsn_number(str(certain(row, "the position of a message")[0]))
    try:
        streams.wait_for(
            new.conn, new.inward, lambda found: found.applied >= sent, time.monotonic() + ANSWER_SECONDS, "a message", poll=0.02
        )
    except TransferError as error:
        if error.details.get("kind") != "deadline":
            raise
        raise TransferError(
            f"what was sent through the change stream into the {new.name} has not come out within {ANSWER_SECONDS:.0f} s",
            "Look at pg_change_stream state=status, which tells what receiver and applier are at, and run again when it goes on.",
            kind="stream_silent",
        ) from error


def lag_of(old: Side, applied: int) -> int:
    """Bytes between a position and the end of the log of a side."""
    found = old.conn.execute(
        "SELECT greatest(pg_wal_lsn_diff(pg_current_wal_lsn(), %s::pg_lsn), 0)::bigint", (lsn_text(applied),)
    ).fetchone()
    return int(certain(found, "the distance of the stream")[0])


def unstreamed(old: Side, publication: str) -> tuple[Name, ...]:
    """Tables of the selection whose writes no stream carries: not published, or not logged. As they are called on ``old``."""
    rows = old.conn.execute(
        "SELECT schemaname::text, tablename::text FROM pg_publication_tables WHERE pubname = %s", (publication,)
    ).fetchall()
    published = {(row[0], row[1]) for row in rows}
    return tuple(
        table.full_name
        for table in catalog.read_tables(old.conn, old.selection)
        if table.kind == "r" and (table.persistence == "u" or not {table.full_name, table.partition_root} & published)
    )


def completed(old: Side, new: Side, way: Way) -> Way:
    """With what has become of partitions until writes stopped."""
    return replace(way, unstreamed=tuple(dict.fromkeys((*way.unstreamed, *cutover_partitions.reshaped(old, new)))))


def drain(new: Side, fence_id: str) -> float:
    """Wait until everything up to the fence is in; the seconds that it took. Ends by the step's deadline, or when the stream stops."""
    began = time.monotonic()
    query = "SELECT fence, problem FROM cutover.stream WHERE direction = %s"
    while True:
        row = certain(new.conn.execute(query, (new.inward,)).fetchone(), "the stream's row")
        if row[0] == fence_id:
            return time.monotonic() - began
        if row[1]:
            raise TransferError(
                f"the change stream stopped before the fence: {row[1].get('message', row[1])}",
                str(row[1].get("remedy") or "Mend that and run again."),
                kind="stream_stopped",
                problem=dict(row[1]),
            )
        time.sleep(POLL_SECONDS)


def rest(old: Side, new: Side, way: Way, workers: int) -> ResyncResult | None:
    """Bring over what no stream carries: ``way.unstreamed`` and large objects. None where there is nothing of the kind."""
    objects = old.selection.large_objects and (large_objects.count(old.conn) or large_objects.count(new.conn))
    if not way.unstreamed and not objects:
        return None
    return resync(old.endpoint, new.endpoint, narrowed(old.selection, way.unstreamed), workers)


@dataclass(frozen=True)
class Proof:
    """results: verifications, the one of the touched rows first; keys: how many it looked at; mode: dirty or full; since: LSN of the proof of all rows."""

    results: tuple[VerifyResult, ...]
    keys: int
    mode: str
    since: str | None


def prove(old: Side, new: Side, way: Way, workers: int) -> Proof:
    """Compare every row that was touched since the last proof of all rows, and all of what is not streamed; all rows where there was no such proof."""
    since = turning.proven_at(new.conn, new.inward)
    if since is None:
        result = verify(old.endpoint, new.endpoint, old.selection, workers=workers)
        return Proof((result,), 0, "full", None)
    keys = _touched(old, new)
    touched = verify(old.endpoint, new.endpoint, old.selection, mode="dirty", keys=keys, counts=False, workers=workers)
    results = [touched]
    if way.unstreamed:
        results.append(verify(old.endpoint, new.endpoint, narrowed(old.selection, way.unstreamed), workers=workers))
    return Proof(tuple(results), sum(len(found) for found in keys.values()), "dirty", lsn_text(since))


def _touched(old: Side, new: Side) -> proofs.Keys:
    """{table as ``old`` calls it: keys} noted since all rows were proven equal."""
    return proofs.named(proofs.touched(new.conn), old.selection, new.inward)


def ahead(old: Side, new: Side, workers: int) -> dict[str, Any]:
    """Compare what was touched so far while writes go on, until so little is left that the proof under the freeze is short.

    Returns ``keys``, ``rounds`` and ``seconds``, and ``problem``: why it ended before that, which costs a longer proof and nothing else; and what
    :func:`.cutover_partitions.mend` returns.
    Raises TransferError of kind differs, with writes never stopped, when rows differ.
    """
    began, keys, rounds = time.monotonic(), 0, 0
    if frozen(old):
        return {"keys": 0, "rounds": 0, "seconds": 0.0, "problem": "writes were stopped already"}
    told: dict[str, Any] = {"problem": ""}
    try:
        told |= cutover_partitions.mend(old, new, workers)
    except TransferError as error:
        if error.details.get("kind") not in _NO_MOMENT:
            raise
        told["problem"] = error.message
    left = _noted(new)
    while rounds < AHEAD_ROUNDS and left > FEW_KEYS and turning.proven_at(new.conn, new.inward) is not None:
        try:
            result = proofs.catch_up(old.endpoint, new.endpoint, old.selection, new.inward, workers)
        except TransferError as error:
            if error.details.get("kind") not in _NO_MOMENT:
                raise
            told["problem"] = error.message
            break
        keys, rounds = keys + left, rounds + 1
        if not result.equal:
            differing = list(result.differing)
            raise TransferError(
                f"rows of {', '.join(differing[:5])} differ between {old.name} and {new.name}; writes were not stopped",
                "See with pg_row_verify which rows, and why they differ; pg_change_stream with these tables in mend brings them over, while writes go on.",
                kind="differs",
                differing=differing,
            )
        before, left = left, _noted(new)
        if left > 0.7 * before:
            break
    return {**told, "keys": keys, "rounds": rounds, "seconds": round(time.monotonic() - began, 4)}


def _noted(new: Side) -> int:
    return sum(len(found) for found in proofs.touched(new.conn).values())


def figures(proof: Proof, src: psycopg.Connection[Any], back: bool) -> dict[str, Any]:
    """The proof for the result and the report. Raises TransferError when a row differs."""
    told = [cutover_check.proven(result, src, back) for result in proof.results]
    found = dict(told[0])
    for other in told[1:]:
        by_name = {table["name"]: table for table in other["tables"]}
        found["tables"] = [by_name.get(table["name"], table) for table in found["tables"]]
        found["seconds"] = round(found["seconds"] + other["seconds"], 4)
    return {**found, "mode": proof.mode, "keys": proof.keys, "since": proof.since}


class Later:
    """What both sides hold in the moment before one opens, kept to be compared once it serves: the stream back then writes to the closed side, too.

    mode: none, counts or full. The snapshots hold back both sides' vacuum for as long as the comparison lasts.
    """

    def __init__(self, old: Side, new: Side, mode: str) -> None:
        self.mode = mode
        self._conns: list[psycopg.Connection[Any]] = []
        self._snapshots: list[str] = []
        try:
            for side in (old, new) if mode != "none" else ():
                self._conns.append(session.connect(side.endpoint, application_name="cutover afterwards", read_only=True))
                self._snapshots.append(hold(self._conns[-1], None))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let the snapshots go."""
        for conn in self._conns:
            conn.close()

    def compare(self, old: Side, new: Side, workers: int) -> dict[str, Any]:
        """``mode``, ``equal``, ``seconds``, ``rows``, the names of ``differing`` tables, and ``counts`` by the migration source's names of tables."""
        if not self._conns:
            return {"mode": "none"}
        ours, theirs = self._snapshots
        try:
            result = verify(
                old.endpoint,
                new.endpoint,
                old.selection,
                mode=self.mode,
                workers=workers,
                source_snapshot=ours,
                target_snapshot=theirs,
            )
        finally:
            self.close()
        return {
            "mode": self.mode,
            "equal": result.equal,
            "seconds": round(result.seconds, 4),
            "rows": sum(table.rows for table in result.tables),
            "differing": list(result.differing),
            "counts": {table.name if old.name == "source" else table.target: table.rows for table in result.tables},
        }


def counted(proof: Mapping[str, Any], counts: Mapping[str, int]) -> dict[str, Any]:
    """The proof with what was counted afterwards: ``rows`` of every table, and under ``compared`` how many of them were compared by value. Pure."""
    tables = [{**table, "compared": table["rows"], "rows": counts.get(table["name"], table["rows"])} for table in proof["tables"]]
    return {**proof, "tables": tables, "compared": proof["rows"], "rows": sum(table["rows"] for table in tables)}


def refuse_difference(found: Mapping[str, Any], new: Side, back: bool) -> None:
    """Raise TransferError of kind afterwards when the comparison after the opening found a difference."""
    if found.get("equal", True):
        return
    raise TransferError(
        f"the {new.name} is in service, but it did not hold the same rows when it opened: {', '.join(found['differing'][:5])}",
        "Look at these tables with pg_row_verify; "
        + ("the target still holds them as they were." if back else "state=rolled_back goes back without losing what was written since."),
        kind="afterwards",
        differing=list(found["differing"]),
    )


def arm(old: Side, new: Side, way: Way) -> dict[str, Any]:
    """Begin the stream from ``new`` to ``old``, under the freeze of both. Its slot exists or is made now, before the first write.

    Returns ``slot``, ``lsn`` and ``direction``. From here on everything that is committed on ``new`` goes to ``old``.
    """
    found = slots.health(new.conn, way.slot)
    if found.exists:
        slots.require(found)
        query = "SELECT pg_current_wal_insert_lsn()::text"
    else:
        query = f"SELECT lsn::text FROM pg_create_logical_replication_slot({quote_literal(way.slot)}, {quote_literal(slots.PLUGIN)})"
    lsn = str(certain(new.conn.execute(query).fetchone(), "the position of the slot")[0])
    what, source = new.outward, todo.identity(new.conn, new.endpoint)
    turning.turn(old.conn, what, source, way.slot, way.publication, lsn_number(lsn), way.routes, leaves.read(new.conn, way.publication))
    return {"slot": way.slot, "lsn": lsn, "direction": what}


def stop(new: Side) -> None:
    """Have nothing more applied to a side that is brought up to date in another way. The stream would have to begin anew for the next switch."""
    streams.hold(new.conn, new.inward)


def disarm(old: Side, new: Side) -> None:
    """Undo :func:`arm` after a switch that failed: nothing of ``new`` may go to ``old``, which serves again."""
    with session.connect(old.endpoint, application_name=CONTROL) as conn:
        turning.turn_back(conn, new.outward)


def release(new: Side, fence_id: str) -> None:
    """Let the stream into a side go on behind a fence, reached or not, after a switch that failed or was a rehearsal."""
    with session.connect(new.endpoint, application_name=CONTROL) as conn:
        streams.release(conn, new.inward, fence_id)


def expected(old: Side, new: Side) -> list[dict[str, Any]]:
    """Steps with expected seconds, from the lag, the rate of the stream so far and the rows touched since the last proof."""
    row = certain(streams.read(new.conn, new.inward), "the stream's row")
    lag = lag_of(old, row.applied)
    keys = min(_noted(new), 2 * FEW_KEYS)
    proof = round(0.2 + keys / KEYS_PER_SECOND, 2) if turning.proven_at(new.conn, new.inward) is not None else None
    told: Mapping[str, float | None] = {"drain": round(0.05 + lag / BYTES_PER_SECOND, 2), "proof": proof}
    names = ("freeze", "drain", "rest", "sequences", "proof", "reverse", "open")
    return [{"name": name, "expected_seconds": told.get(name), "bytes": lag if name == "drain" else 0} for name in names]
