# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One table from a REST source: its pages by key, then passes over all of it until one finds that nothing has moved."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import rest_ledger, rest_survey, session
from .catalog import quote_ident
from .endpoint import Endpoint
from .errors import TransferError, certain
from .pairing import Pair
from .rest_progress import Board
from .rest_query import RestTable
from .rest_source import Knowledge, Row, Source, named
from .rest_survey import Moved
from .rest_values import copy_text

if TYPE_CHECKING:
    import psycopg

# Passes over a table after its copy. Each brings over what moved, the last must find nothing.
PASSES = 4
# Rows brought over after one pass. A source that moves more must be stopped first.
MOST_MOVED = 100_000
_LINE = re.compile(r"line (\d+)")


@dataclass
class Work:
    """A table on its way."""

    pair: Pair
    described: RestTable
    position: rest_ledger.Position
    before: int | None = None
    after: int | None = None
    passes: int = 0
    moved: int = 0


def copy_table(source: Endpoint, target: Endpoint, work: Work, knowledge: Knowledge, board: Board) -> None:
    """The rest of one table: its pages, then passes until one finds nothing.

    Raises TransferError of kind value, moving or count_mismatch; what is in stays.
    """
    pair = work.pair
    with Source(source, knowledge) as asker, session.connect(target, application_name="cutover copy writer", replica=True) as writer:
        began = time.monotonic()
        work.position = certain(rest_ledger.position(writer, pair), "a position of the ledger")
        asker.check_unique(pair, work.described)
        work.before = asker.count(work.described) if work.before is None else work.before
        board.begin(pair.name, work.before)
        columns = [left for left, right in rest_survey.ordered_columns(pair) if not right.generated]
        number = work.position.next
        for rows in asker.pages(pair, columns, work.position.after):
            board.check()
            size = _page(writer, pair, number, rows, time.monotonic() - began)
            began = time.monotonic()
            number += 1
            board.add(pair.name, len(rows), size)
        while True:
            moved = _pass(asker, writer, work, board)
            if moved.none:
                work.after = asker.count(work.described)
                if work.after in (None, moved.held):
                    break
            if work.passes >= PASSES:
                raise _unsettled(work, moved)
        rest_ledger.finish(writer, pair, number, time.monotonic() - began)
        board.end(pair.name)


def _page(writer: psycopg.Connection[Any], pair: Pair, number: int, rows: Sequence[Row], seconds: float) -> int:
    """Bring one page and its ledger entry in one transaction; its bytes."""
    written = [right for _left, right in rest_survey.ordered_columns(pair) if not right.generated]
    data = copy_text(rows)
    last = rows[-1][: len(pair.key)]
    key = tuple(certain(text, "a value of the key") for text in last)
    try:
        with writer.transaction():
            _copy_in(writer, pair, [right.name for right in written], data, rows)
            rest_ledger.advance(writer, pair, number, key, len(rows), len(data), seconds)
    except session.psycopg.errors.UniqueViolation:
        # A row was moved while it was read and came twice, or took over a value of an earlier one. The passes set it right.
        with writer.transaction():
            full = _with_generated(pair, rows)
            taken = rest_survey.insert_unclaimed(writer, pair, full)
            rest_ledger.advance(writer, pair, number, key, taken, len(data), seconds)
    return len(data)


def _with_generated(pair: Pair, rows: Sequence[Row]) -> list[Row]:
    """Rows widened by empty values where the target computes its own."""
    kept = iter(range(len(rows[0])))
    places = [None if right.generated else next(kept) for _left, right in rest_survey.ordered_columns(pair)]
    return [tuple(None if place is None else row[place] for place in places) for row in rows]


def _copy_in(writer: psycopg.Connection[Any], pair: Pair, names: Sequence[str], data: bytes, rows: Sequence[Row]) -> None:
    listed = ", ".join(quote_ident(name) for name in names)
    try:
        with writer.cursor() as cursor, cursor.copy(f"COPY {pair.target.sql} ({listed}) FROM STDIN") as stream:
            stream.write(data)
    except (session.psycopg.errors.DataError, session.psycopg.errors.CheckViolation, session.psycopg.errors.NotNullViolation) as error:
        context = error.diag.context or ""
        line = _LINE.search(context)
        row = rows[int(line[1]) - 1] if line and int(line[1]) <= len(rows) else rows[0]
        raise TransferError(
            f"{pair.target.dotted} does not take the row {named(pair, row)} of {pair.name}: {str(error).splitlines()[0]}",
            "Give the target's column the source's type and constraints, or exclude the table; finished pages stay.",
            kind="value",
            table=pair.name,
            sqlstate=error.sqlstate,
        ) from error


def _pass(asker: Source, writer: psycopg.Connection[Any], work: Work, board: Board) -> Moved:
    """Read everything again; what has moved is brought over. What was found."""
    pair = work.pair
    work.passes += 1
    board.passing(pair.name)
    columns = [left for left, _right in rest_survey.ordered_columns(pair)]
    rest_survey.begin(writer, pair)
    for rows in asker.pages(pair, columns):
        board.check()
        rest_survey.note(writer, pair, rows)
    moved = rest_survey.compare(writer, pair)
    if moved.none or work.passes >= PASSES:
        return moved
    if moved.missing + moved.changed > MOST_MOVED:
        raise _unsettled(work, moved)
    fresh = [
        row
        for kind in ("missing", "changed")
        for keys in rest_survey.differing(writer, pair, kind)
        for row in asker.by_key(pair, columns, keys)
    ]
    try:
        with writer.transaction():
            rest_survey.remove(writer, pair)
            if fresh:
                written = [
                    (place, right.name) for place, (_left, right) in enumerate(rest_survey.ordered_columns(pair)) if not right.generated
                ]
                kept = [tuple(row[place] for place, _name in written) for row in fresh]
                _copy_in(writer, pair, [name for _place, name in written], copy_text(kept), fresh)
    except session.psycopg.errors.UniqueViolation:
        with writer.transaction():
            rest_survey.remove(writer, pair)
            rest_survey.insert_unclaimed(writer, pair, fresh)
    work.moved += moved.missing + moved.changed + moved.extra
    return moved


def _unsettled(work: Work, moved: Moved) -> TransferError:
    name = work.pair.name
    facts = {
        "table": name,
        "missing": moved.missing,
        "changed": moved.changed,
        "extra": moved.extra,
        "rows": moved.held,
        "counted": work.after,
    }
    if moved.none:
        return TransferError(
            f"{name}: {moved.held} rows were read and brought over, but the source counts {work.after}",
            "Stop writes to the source and run again. If it repeats, something hides rows: look for empty values in rest.unique, or a cache in between.",
            kind="count_mismatch",
            **facts,
        )
    return TransferError(
        f"{name} moves while it is read: after {work.passes} passes {moved.missing} rows were missing, {moved.changed} changed and {moved.extra} extra",
        "Stop writes to the source and run again; what is done stays.",
        kind="moving",
        **facts,
    )
