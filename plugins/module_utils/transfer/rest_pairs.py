# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which tables of a REST source become which tables of the target, and what cannot be moved this way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .catalog import Table, read_tables
from .endpoint import Endpoint
from .errors import TransferError
from .pairing import Pair, pair_tables
from .rest_query import RestTable, as_table
from .rest_source import Source
from .selection import Selection

if TYPE_CHECKING:
    import psycopg

# What no REST interface shows, said in every result.
UNSEEN = (
    "sequences: REST does not show them; set each to at least the highest value of its column before the target is opened",
    "users of Auth: its admin interface lists them without password hashes, so they cannot log in with their passwords after such a move",
    "files of Storage: fetch them through the Storage interface",
    "schemas that the source does not expose, and roles, grants, policies, functions, triggers and large objects everywhere",
)


@dataclass(frozen=True)
class RestPairing:
    """pairs: (tables, what the API says of the source's) by name; skipped: sentences about what stays behind; warnings: about the selection."""

    pairs: tuple[tuple[Pair, RestTable], ...]
    skipped: tuple[str, ...]
    warnings: tuple[str, ...]


def pair_up(source: Source, endpoint: Endpoint, conn: psycopg.Connection[Any], selection: Selection) -> RestPairing:
    """Pair the tables that the source exposes with those of the target, which must exist.

    Raises TransferError that names every table without a key, without a counterpart, or that REST would read wrongly.
    """
    unique = endpoint.rest.unique if endpoint.rest else {}
    found = [table for schema in source.schemas() for table in source.tables(schema)]
    warnings = list(source.client.api_key.warnings)
    warnings += selection.check({table.full_name: tuple(name for name, _type in table.columns) for table in found})
    taken = [table for table in found if selection.matches(*table.full_name)]
    targets = read_tables(conn, selection.inverted())
    by_name = {table.full_name: table for table in targets}
    tables = [table for table in taken if selection.target_name(*table.full_name) in by_name]
    views, problems = _absent(conn, [table for table in taken if table not in tables], selection)
    problems += _unknown(unique, found)
    problems += [
        f"{'.'.join(table.full_name)}: {reason}"
        for table in tables
        if (reason := _unreadable(by_name[selection.target_name(*table.full_name)], targets))
    ]
    keyless = [
        problem for table in tables if (problem := _keyless(table, by_name[selection.target_name(*table.full_name)], unique, selection))
    ]
    if keyless:
        raise TransferError(
            f"{len(keyless)} tables have no key by which every row is read exactly once: {'; '.join(keyless)}",
            "Name columns that are unique and never empty in rest.unique (schema.table: [columns]), or exclude the tables.",
            kind="no_key",
            problems=keyless,
        )
    sources = [_source_table(table, by_name[selection.target_name(*table.full_name)], unique, selection) for table in tables]
    pairing = pair_tables(sources, targets, selection)
    problems += pairing.problems
    if problems:
        raise TransferError(
            f"{len(problems)} objects do not fit the target: {problems[0]}",
            "Make the tables on the target first, or exclude or rename what does not fit.",
            kind="unpaired",
            problems=problems,
        )
    described = {table.full_name: table for table in tables}
    pairs = tuple((pair, described[pair.source.full_name]) for pair in pairing.pairs)
    return RestPairing(pairs, (*pairing.skipped, *views, *UNSEEN), tuple(warnings))


def _absent(conn: psycopg.Connection[Any], tables: Sequence[RestTable], selection: Selection) -> tuple[list[str], list[str]]:
    """(views left out, problems) of what the target has no table for. The API shows views as if they were tables."""
    views: list[str] = []
    problems: list[str] = []
    for table in tables:
        target = selection.target_name(*table.full_name)
        kind = conn.execute(
            "SELECT c.relkind::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s",
            target,
        ).fetchone()
        if kind is not None and kind[0] in ("v", "m", "f"):
            views.append(f"{'.'.join(table.full_name)} is a view or foreign table on the target and holds no rows of its own")
        else:
            problems.append(
                f"table {'.'.join(target)} for {'.'.join(table.full_name)} does not exist on the target (exclude it if it is a view)"
            )
    return views, problems


def _unreadable(target: Table, targets: Iterable[Table]) -> str:
    children = [table.dotted for table in targets if target.full_name in table.inherits]
    if children:
        return f"REST would read the rows of {', '.join(children)} twice, because they inherit from it; exclude it or move it over a direct connection"
    return ""


def _unknown(unique: Mapping[str, Sequence[str]], found: Sequence[RestTable]) -> list[str]:
    columns = {".".join(table.full_name): {name for name, _type in table.columns} for table in found}
    problems = [f"rest.unique names {table}, which the source does not expose" for table in unique if table not in columns]
    for table, names in unique.items():
        missing = sorted(set(names) - columns.get(table, set(names)))
        problems += [f"rest.unique names {table}.{name}, which does not exist" for name in missing]
    return problems


def _keyless(table: RestTable, target: Table, unique: Mapping[str, Sequence[str]], selection: Selection) -> str:
    if table.key or unique.get(".".join(table.full_name)):
        return ""
    back = {selection.target_column(*table.full_name, name): name for name, _type in table.columns}
    hint = [back[name] for name in target.key if name in back]
    return f"{'.'.join(table.full_name)}" + (f" (unique on the target: {', '.join(hint)})" if hint else "")


def _source_table(table: RestTable, target: Table, unique: Mapping[str, Sequence[str]], selection: Selection) -> Table:
    by_name = {column.name: column for column in target.columns}
    renamed = {name: selection.target_column(*table.full_name, name) for name, _type in table.columns}
    twins = {name: by_name[new] for name, new in renamed.items() if new in by_name}
    key: Sequence[str] = table.key or tuple(unique[".".join(table.full_name)])
    # In the order of the target's own key, which is that of the source's index, so that pages are read along it.
    places = {name: place for place, name in enumerate(target.key)}
    return as_table(table, target, twins, sorted(key, key=lambda name: places.get(renamed[name], len(places))))
