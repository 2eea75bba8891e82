# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Why a change could not be applied, in words: with the key of the row, and never with another value of it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import TransferError
from .batch import DELETE, INSERT, REKEY, TRUNCATE, UPDATE, Work
from .pgoutput import lsn_text, value_text
from .shapes import Shape

if TYPE_CHECKING:
    import psycopg

# Classes of SQLSTATE whose messages may quote values.
_QUOTING = ("22", "23", "P0", "2F", "38", "39")
_REASONS = {
    "23502": "the receiver refuses NULL there",
    "23503": "a foreign key of the receiver refuses it",
    "23505": "another row of the receiver holds a value that must be unique",
    "23P01": "it conflicts with another row of the receiver under an exclusion constraint",
    "23514": "a check of the receiver refuses it",
    "22P02": "a type of the receiver does not read a value of it, an enum without this label for example",
    "22001": "a value is too long for the receiver's column",
    "22003": "a number is out of the range of the receiver's column",
}
_MEND = (
    "Compare the row on both sides (pg_row_verify names every other that differs), mend it in the receiving database, then start the stream again:"
    " it goes on with this very change."
)


@dataclass(frozen=True)
class Place:
    """Where in the sender's log a change is. final: where its transaction's commit record starts."""

    final: int
    xid: int

    def __str__(self) -> str:
        return f"transaction {self.xid} of the sender, committed at {lsn_text(self.final)}"


def missed(work: Work, place: Place, count: int | None) -> TransferError:
    """A statement that did not touch the rows that it names."""
    return _error(work, place, f"it found {count} rows in the receiving database, expected {work.rows}", rows=count)


def disordered(what: str, shape: Shape | None, place: Place) -> TransferError:
    """Changes that no sender can have made."""
    name = shape.relation.dotted if shape else "a table"
    return TransferError(
        f"the stream cannot be right for {name}: {what} ({place})",
        _MEND,
        kind="conflict",
        table=name,
        xid=place.xid,
        lsn=lsn_text(place.final),
    )


def refused(work: Work, place: Place, error: psycopg.Error) -> TransferError:
    """A statement that the server refused."""
    state = error.sqlstate or ""
    diag = error.diag
    if state == "23514" and not diag.constraint_name:
        name = work.shape.relation.dotted
        return TransferError(
            f"the receiving database has no partition of {'.'.join(work.shape.target)} for a row of {name}{_named(work)} ({place})",
            f"Create the partition that the sender has got (PARTITION OF {work.shape.sql}), then start the stream again.",
            kind="definition_changed",
            **_facts(work, place, state),
        )
    reason = _REASONS.get(state, "the receiving database refuses it")
    if state[:2] not in _QUOTING and diag.message_primary:
        reason = diag.message_primary
    about = [f"constraint {diag.constraint_name}"] if diag.constraint_name else []
    about += [f"column {diag.column_name}"] if diag.column_name else []
    told = f"{reason} ({', '.join([*about, f'SQLSTATE {state}'])})"
    if state == "42501":
        return TransferError(
            f"{_what(work)} is not allowed to the stream's role: {told} ({place})",
            f"Grant it SELECT, INSERT, UPDATE, DELETE and TRUNCATE on {work.shape.sql}, then start the stream again.",
            kind="privilege",
            **_facts(work, place, state),
        )
    return _error(work, place, told, sqlstate=state)


def _error(work: Work, place: Place, why: str, **more: Any) -> TransferError:
    return TransferError(f"{_what(work)} failed: {why} ({place})", _MEND, kind="conflict", **{**_facts(work, place), **more})


def _facts(work: Work, place: Place, state: str = "") -> dict[str, Any]:
    facts: dict[str, Any] = {
        "table": work.shape.relation.dotted,
        "operation": work.kind,
        "key": key_of(work),
        "xid": place.xid,
        "lsn": lsn_text(place.final),
    }
    return {**facts, "sqlstate": state} if state else facts


def _what(work: Work) -> str:
    if work.kind == TRUNCATE:
        return f"TRUNCATE of {', '.join(shape.relation.dotted for shape in work.shapes)}"
    return f"{work.kind} of {work.shape.relation.dotted}{_named(work)}"


def _named(work: Work) -> str:
    key = key_of(work)
    if not key:
        return ""
    return " with key " + ", ".join(f"{name} = {text!r}" for name, text in key.items())


def key_of(work: Work) -> dict[str, str | None]:
    """{column of the sender: text} of the first row's key, {} where none identifies it."""
    shape = work.shape
    if not shape.key or not (work.new or work.old):
        return {}
    values: Sequence[Any]
    if work.kind in (DELETE, REKEY) and work.old:
        values = work.old[0] if len(shape.key) > 1 else (work.old[0],)
    elif work.kind in (INSERT, UPDATE):
        values = [work.new[0][place] for place in shape.key_places]
    else:
        return {}
    return {one.field.sender: value_text(value) for one, value in zip(shape.key, values, strict=True)}


def uncommitted(place: Place, error: psycopg.Error) -> TransferError:
    """A transaction whose changes went in and whose COMMIT did not, because of a deferred constraint."""
    state, name = error.sqlstate or "", error.diag.constraint_name
    about = f"constraint {name} of {error.diag.table_name}, " if name else ""
    return TransferError(
        f"a transaction could not be committed: {_REASONS.get(state, 'the receiving database refuses it')} ({about}SQLSTATE {state}; {place})",
        _MEND,
        kind="conflict",
        xid=place.xid,
        lsn=lsn_text(place.final),
        sqlstate=state,
    )
