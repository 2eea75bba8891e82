# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What must act on one side only, switched on once the target serves, and off again before the source does.

What there is to switch is read when the target has opened, so that what was switched off or made on the source since the schema transfer
counts, and is written down once for each cutover in ``cutover.deferred`` of the target. Each is switched in a transaction that notes it: a
killed run goes on with the rest, and what a person has switched afterwards stays. Nothing here fails a switch: the database that serves, serves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import cutover_state as state
from . import schema_catalog, schema_deferred, session, toc
from .cutover_sides import CONTROL, Side, text
from .errors import TransferError
from .session import connect

if TYPE_CHECKING:
    import psycopg

    Conn = psycopg.Connection[Any]

# Whoever waits behind us for a lock waits as long.
LOCK_MS, ATTEMPTS, PAUSE_SECONDS = 1000, 5, 1.0
# Event triggers last: they would fire at what is switched on after them.
_ORDER = ("cron_job", "publication", "trigger", "webhook", "event_trigger")
_DDL = """
CREATE TABLE IF NOT EXISTS cutover.deferred (
  fence text NOT NULL, number integer NOT NULL, kind text NOT NULL, object text NOT NULL,
  statements text[] NOT NULL, undo text[] NOT NULL, source text[] NOT NULL, source_undo text[] NOT NULL,
  state text NOT NULL CHECK (state IN ('listed', 'todo', 'on', 'off', 'found', 'needs')), stopped boolean NOT NULL DEFAULT false,
  problem text NOT NULL DEFAULT '', source_problem text NOT NULL DEFAULT '', at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  PRIMARY KEY (fence, number))
"""
_ROWS = """SELECT fence, number, kind, object, statements, undo, source, source_undo, state, stopped, problem, source_problem
FROM cutover.deferred WHERE number > 0"""


@dataclass(frozen=True)
class Item:
    """A row of the list. state: todo, on (by us), off (by us, on the way back), found (on before the cutover), needs (something by hand, see problem).

    stopped: it acted on the source too, and was stopped there
    """

    fence: str
    number: int
    kind: str
    object: str
    statements: tuple[str, ...]
    undo: tuple[str, ...]
    source: tuple[str, ...]
    source_undo: tuple[str, ...]
    state: str
    stopped: bool
    problem: str
    source_problem: str


def switched_on(src: Side, dst: Side, result: Mapping[str, Any]) -> dict[str, Any]:
    """A cutover's result with ``deferred``, after switching on what waited for it. Of another result, such as a rehearsal's, nothing is done."""
    if result.get("state") != state.CUT_OVER:
        return dict(result)
    fence = str(result["fence"]["id"])
    try:
        with connect(src.endpoint, application_name=CONTROL) as source, connect(dst.endpoint, application_name=CONTROL) as target:
            if not _listed(target, fence):
                _write(target, fence, _read(source, target, src))
            ours = [item for item in _items(target) if item.fence == fence]
            switched = [_switch_on(source, target, item) for item in ours if item.state in ("todo", "found")]
            deferred = [_told(item) for item in _items(target) if item.fence == fence]
            _complete(target, result, deferred)
    except Exception as error:
        switched, deferred = [], [_unknown(error, "cut_over")]
    return {**result, "deferred": deferred, "changed": result.get("changed", False) or any(switched)}


def switched_off(dst: Side) -> None:
    """Switch off on the target what a cutover has switched on there, before the source takes writes. Never raises: switched_back tries again, and tells."""
    with suppress(Exception):
        for item in reversed(_items(dst.conn)):
            if item.state == "on":
                _try(dst.conn, item, item.undo, "state = 'off'", attempts=1)


def switched_back(src: Side, dst: Side, result: Mapping[str, Any]) -> dict[str, Any]:
    """A way back's result with ``deferred``, after starting on the source again what the cutover had stopped there."""
    if result.get("state") != state.ROLLED_BACK:
        return dict(result)
    try:
        with connect(src.endpoint, application_name=CONTROL) as source, connect(dst.endpoint, application_name=CONTROL) as target:
            for item in reversed(_items(target)):
                if item.state == "on":
                    _try(target, item, item.undo, "state = 'off'")
                if item.stopped:
                    _start(source, target, item)
            items = _items(target)
            last = items[-1].fence if items else ""
            deferred = [_told_back(item) for item in items if item.fence == last]
            _complete(target, result, deferred)
    except Exception as error:
        deferred = [_unknown(error, "rolled_back")]
    return {**result, "deferred": deferred}


def warnings(result: Mapping[str, Any]) -> list[str]:
    """One sentence for each thing that a person has to switch, with the statements. Pure."""
    lines = []
    for item in result.get("deferred") or ():
        if item["state"] == "unknown":
            lines.append(item["problem"])
        parts = [f"on the target run {_joined(item['statements'])}"] if item["statements"] else []
        parts += [f"on the source run {_joined(item['source_statements'])}"] if item["source_statements"] else []
        if parts:
            lines.append(
                f"{item['kind'].replace('_', ' ')} {item['object']}: {item['problem'] or 'it is not switched'}. By hand {' and '.join(parts)}"
            )
    return lines


def _joined(statements: Iterable[str]) -> str:
    return " ".join(f"{statement};" for statement in statements)


def _read(source: Conn, target: Conn, src: Side) -> list[schema_deferred.Deferred]:
    left_out = toc.left_out_schemas(schema_catalog.schema_names(source), src.selection)
    hooks = schema_deferred.hooks(source, src.selection, left_out)
    found = schema_deferred.read(source, target, src.selection, left_out, hooks)
    return sorted(found, key=lambda item: (_ORDER.index(item.kind), item.object))


def _listed(target: Conn, fence: str) -> bool:
    target.execute(_DDL)
    return bool(target.execute("SELECT FROM cutover.deferred WHERE fence = %s", (fence,)).rowcount)


def _write(target: Conn, fence: str, found: Sequence[schema_deferred.Deferred]) -> None:
    """Write the list down, for once. Its row of number 0 says that it is complete, also when it is empty."""
    insert = (
        "INSERT INTO cutover.deferred (fence, number, kind, object, statements, undo, source, source_undo, state, problem)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
    )
    with target.transaction():
        target.execute(insert, (fence, 0, "", "", [], [], [], [], "listed", ""))
        for number, item in enumerate(found, 1):
            standing = "found" if item.active else "needs" if item.needs or not item.statements else "todo"
            problem = f"needs {item.needs}" if standing == "needs" else ""
            lists = [list(part) for part in (item.statements, item.undo, item.source, item.source_undo)]
            target.execute(insert, (fence, number, item.kind, item.object, *lists, standing, problem))


def _items(target: Conn) -> list[Item]:
    """The list of all cutovers of this target, the latest at the end."""
    there = target.execute("SELECT to_regclass('cutover.deferred') IS NOT NULL").fetchone()
    if not there or not there[0]:
        return []
    order = "ORDER BY (SELECT min(f.at) FROM cutover.deferred f WHERE f.fence = deferred.fence AND f.number = 0), number"
    rows = target.execute(f"{_ROWS} {order}").fetchall()
    return [Item(*row[:4], *(tuple(part) for part in row[4:8]), *row[8:]) for row in rows]


def _switch_on(source: Conn, target: Conn, item: Item) -> bool:
    """Stop it on the source where it would go on there, then let it act on the target; back on the source when that fails. Whether anything changed."""
    stopped = bool(item.source) and not item.stopped and not _problem(lambda: _run(source, item.source), target, item, "source_problem")
    if stopped:
        target.execute("UPDATE cutover.deferred SET stopped = true WHERE fence = %s AND number = %s", (item.fence, item.number))
    if item.state == "found":
        return stopped
    if _try(target, item, item.statements, "state = 'on'"):
        return True
    if stopped:
        _start(source, target, item)
    return False


def _start(source: Conn, target: Conn, item: Item) -> None:
    if not _problem(lambda: _run(source, item.source_undo), target, item, "source_problem"):
        target.execute("UPDATE cutover.deferred SET stopped = false WHERE fence = %s AND number = %s", (item.fence, item.number))


def _try(target: Conn, item: Item, statements: Sequence[str], becomes: str, attempts: int = ATTEMPTS) -> bool:
    """Run statements and note it, in one transaction. A lock that is not free is asked for again."""

    def act() -> None:
        for attempt in range(1, attempts + 1):
            try:
                with target.transaction():
                    target.execute(f"SET LOCAL lock_timeout = '{LOCK_MS}ms'")
                    _run(target, statements)
                    target.execute(
                        f"UPDATE cutover.deferred SET {becomes}, at = clock_timestamp() WHERE fence = %s AND number = %s",
                        (item.fence, item.number),
                    )
                return
            except session.psycopg.errors.LockNotAvailable:
                if attempt == attempts:
                    raise
                time.sleep(PAUSE_SECONDS)

    return not _problem(act, target, item, "problem")


def _run(conn: Conn, statements: Sequence[str]) -> None:
    for statement in statements:
        cursor = conn.execute(statement)
        if cursor.description is not None and not cursor.rowcount:
            raise TransferError("it is not there, or our role may not see it")


def _problem(act: Callable[[], object], target: Conn, item: Item, column: str) -> str:
    """What went wrong, '' when all is well; noted with the item."""
    problem = ""
    try:
        act()
    except (session.psycopg.Error, TransferError) as error:
        if session.is_lost(error):
            raise
        problem = (text(error).splitlines() or [""])[0] or type(error).__name__
    target.execute(f"UPDATE cutover.deferred SET {column} = %s WHERE fence = %s AND number = %s", (problem, item.fence, item.number))
    return problem


def _complete(target: Conn, result: Mapping[str, Any], deferred: list[dict[str, Any]]) -> None:
    kept = {name: value for name, value in result.items() if name != "changed"}
    state.complete(target, str(result["fence"]["id"]), str(result["state"]), {**kept, "deferred": deferred})


def _told(item: Item) -> dict[str, Any]:
    """A row after the cutover. Pure."""
    acts = item.state in ("on", "found")
    both = bool(acts and item.source and not item.stopped)
    problems = [item.problem, f"on the source: {item.source_problem}" if both and item.source_problem else ""]
    return _entry(item, "on" if acts else "waiting", () if acts else item.statements, item.source if both else (), problems)


def _told_back(item: Item) -> dict[str, Any]:
    """A row after the way back. Pure."""
    acts = item.state in ("on", "found")
    problems = [
        "it was on before the cutover, and still is" if item.state == "found" else item.problem if acts else "",
        f"on the source: {item.source_problem or 'it is still stopped'}" if item.stopped else "",
    ]
    return _entry(item, "on" if acts else "off", item.undo if acts else (), item.source_undo if item.stopped else (), problems)


def _entry(item: Item, what: str, statements: Sequence[str], source: Sequence[str], problems: Iterable[str]) -> dict[str, Any]:
    return {
        "kind": item.kind,
        "object": item.object,
        "state": what,
        "statements": list(statements),
        "source_statements": list(source),
        "problem": "; ".join(part for part in problems if part),
    }


def _unknown(error: Exception, goal: str) -> dict[str, Any]:
    problem = f"what waits could not be switched: {text(error)}. Run state={goal} again, which only does what is left"
    return {"kind": "all", "object": "", "state": "unknown", "statements": [], "source_statements": [], "problem": problem}
