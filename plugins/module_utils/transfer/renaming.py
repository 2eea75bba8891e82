# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Renames by the catalogue: the server itself carries a new name through keys, views, policies and triggers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .catalog import qualified, quote_ident
from .errors import TransferError
from .selection import Rename

if TYPE_CHECKING:
    import psycopg


@dataclass(frozen=True)
class Step:
    """One rename. kind: column, table or schema; path: schema, table and column of the old name as far as the kind has them; new: last part."""

    kind: str
    path: tuple[str, ...]
    new: str

    @property
    def target(self) -> tuple[str, ...]:
        """Path after the rename."""
        return (*self.path[:-1], self.new)


def steps(rename: Rename) -> list[Step]:
    """Renames in the order in which they apply: columns, tables, schemas. Each path is that of the source. Pure."""
    found = []
    for old, new in rename.columns.items():
        owner, _unused, column = old.rpartition(".")
        schema, _unused, table = owner.partition(".")
        found.append(Step("column", (schema, table, column), new))
    for old, new in rename.tables.items():
        schema, _unused, table = old.partition(".")
        found.append(Step("table", (schema, table), new))
    return found + [Step("schema", (old,), new) for old, new in rename.schemas.items()]


def refuse_circles(rename: Rename) -> None:
    """Raise TransferError for names that change places: afterwards nobody could tell whether it has been done. Pure."""
    todo = {step.path: step.target for step in steps(rename)}
    for start in todo:
        seen, at = [start], todo[start]
        while at in todo and at not in seen:
            seen.append(at)
            at = todo[at]
        if at == start:
            names = " to ".join(".".join(path) for path in (*seen, start))
            raise TransferError(
                f"rename changes names in a circle: {names}", "Give each of them a name that is free, and swap them after the cutover."
            )


def check(conn: psycopg.Connection[Any], rename: Rename) -> None:
    """Judge the renames against the source. Raises TransferError for a circle, and for a column whose name its parent table decides."""
    refuse_circles(rename)
    for step in steps(rename):
        if step.kind != "column":
            continue
        schema, table, column = step.path
        parent = conn.execute(
            "SELECT pn.nspname::text, p.relname::text FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid"
            " JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_inherits i ON i.inhrelid = c.oid JOIN pg_class p ON p.oid = i.inhparent"
            " JOIN pg_namespace pn ON pn.oid = p.relnamespace JOIN pg_attribute o ON o.attrelid = p.oid AND o.attname = a.attname"
            " WHERE n.nspname = %s AND c.relname = %s AND a.attname = %s AND a.attinhcount > 0 AND NOT o.attisdropped ORDER BY i.inhseqno",
            (schema, table, column),
        ).fetchone()
        if parent is not None:
            above = ".".join(parent)
            raise TransferError(
                f"rename.columns has {schema}.{table}.{column}, which {schema}.{table} inherits from {above}",
                f"Rename {above}.{column} instead; all tables below follow.",
            )


def forward(conn: psycopg.Connection[Any], rename: Rename) -> list[str]:
    """Give everything its new name, inside the caller's transaction. What has it already is left alone. Returns the statements run.

    Raises TransferError when a new name is taken by something else.
    """
    done, blocked = _ordered(conn, steps(rename), _give)
    taken = [
        step for step in blocked if step.target not in {other.path for other in steps(rename)} and not _renamed_before(conn, step, rename)
    ]
    if taken:
        step = taken[0]
        raise TransferError(
            f"the target has {'.'.join(step.target)} already, so {step.kind} {'.'.join(step.path)} cannot get this name",
            "Correct rename, or move what has the name on the target.",
            kind="rename_collision",
        )
    return done


def back(conn: psycopg.Connection[Any], rename: Rename) -> list[str]:
    """Undo :func:`forward`, inside the caller's transaction. Returns the statements run."""
    done, _blocked = _ordered(conn, list(reversed(steps(rename))), _take_back)
    return done


def _ordered(
    conn: psycopg.Connection[Any], todo: Sequence[Step], act: Callable[[psycopg.Connection[Any], Step], str | None]
) -> tuple[list[str], list[Step]]:
    """Act on each kind until nothing moves any more, so that ``b to c`` makes room for ``a to b``. Returns statements and what is in the way."""
    done: list[str] = []
    blocked: list[Step] = []
    for kind in dict.fromkeys(step.kind for step in todo):
        left = [step for step in todo if step.kind == kind]
        moved = True
        while moved:
            moved = False
            for step in list(left):
                statement = act(conn, step)
                if statement is not None:
                    conn.execute(statement)
                    done.append(statement)
                    left.remove(step)
                    moved = True
        blocked += [step for step in left if _there(conn, step.path) and _there(conn, step.target)]
    return done, blocked


def _give(conn: psycopg.Connection[Any], step: Step) -> str | None:
    if not _there(conn, step.path) or _there(conn, step.target):
        return None
    return _statement(step.path, step.new)


def _take_back(conn: psycopg.Connection[Any], step: Step) -> str | None:
    if not _there(conn, step.target) or _there(conn, step.path):
        return None
    return _statement(step.target, step.path[-1])


def _statement(path: tuple[str, ...], new: str) -> str:
    if len(path) == 1:
        return f"ALTER SCHEMA {quote_ident(path[0])} RENAME TO {quote_ident(new)}"
    table = f"ALTER TABLE {qualified(path[0], path[1])}"
    if len(path) == 2:
        return f"{table} RENAME TO {quote_ident(new)}"
    return f"{table} RENAME COLUMN {quote_ident(path[2])} TO {quote_ident(new)}"


def _renamed_before(conn: psycopg.Connection[Any], step: Step, rename: Rename) -> bool:
    """Whether the old name is there because another rename gave it: ``a to b`` was done, so ``b`` of ``b to c`` is the former ``a``."""
    return any(other.target == step.path and not _there(conn, other.path) for other in steps(rename))


def _there(conn: psycopg.Connection[Any], path: tuple[str, ...]) -> bool:
    if len(path) == 1:
        query = "SELECT 1 FROM pg_namespace WHERE nspname = %s"
    elif len(path) == 2:
        query = "SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE nspname = %s AND relname = %s"
    else:
        query = (
            "SELECT 1 FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE nspname = %s AND relname = %s AND attname = %s AND NOT attisdropped"
        )
    return conn.execute(query, path).fetchone() is not None


def mentions(conn: psycopg.Connection[Any], rename: Rename) -> list[dict[str, str]]:
    """Functions whose body holds an old name as text, which the server cannot rename: {function, mentions}."""
    names = {name.rpartition(".")[2] for name in (*rename.schemas, *rename.tables, *rename.columns)}
    if not names:
        return []
    rows = conn.execute(
        "SELECT p.oid::regprocedure::text, w.name FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace"
        " CROSS JOIN unnest(%s::text[]) w(name) WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'cutover')"
        r" AND p.prosrc ~ ('(^|[^\w])' || regexp_replace(w.name, '(\W)', '\\\1', 'g') || '($|[^\w])')"
        " AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_proc'::regclass AND e.objid = p.oid AND e.deptype = 'e') ORDER BY 1, 2",
        (sorted(names),),
    ).fetchall()
    return [{"function": function, "mentions": name} for function, name in rows]
