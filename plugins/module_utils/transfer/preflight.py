# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Everything that could break a move and can be seen beforehand, each with the statement that mends it. Touches nothing on either side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from . import (
    catalog,
    preflight_pair,
    preflight_platform,
    preflight_reach,
    preflight_rights,
    preflight_shapes,
    preflight_source,
    preflight_target,
    renaming,
    schema_catalog,
)
from .endpoint import Endpoint
from .errors import TransferError, certain
from .findings import ERROR, Finding, finding, ordered
from .selection import Selection

if TYPE_CHECKING:
    import psycopg


@dataclass(frozen=True)
class Wish:
    """What the move intends. workers: parallel sessions; max_connections: what the source's pooler allows us, None without a limit.

    extension_map, extension_skip, bin_dir: as in the schema transfer; target_free_bytes: room on the target, which SQL does not show
    """

    workers: int = 4
    max_connections: int | None = None
    extension_map: dict[str, str] = field(default_factory=dict)
    extension_skip: tuple[str, ...] = ()
    bin_dir: str | None = None
    target_free_bytes: int | None = None


@dataclass(frozen=True)
class Report:
    """findings, worst first; facts: of each side, plain data."""

    findings: tuple[Finding, ...]
    facts: dict[str, Any]

    @property
    def ok(self) -> bool:
        """Whether nothing stands in the way."""
        return not any(finding.severity == ERROR for finding in self.findings)

    def plain(self) -> dict[str, Any]:
        """For a module's result."""
        return {"findings": [asdict(finding) for finding in self.findings], "ok": self.ok, "facts": self.facts}


def preflight(source: Endpoint, target: Endpoint | None, selection: Selection, wish: Wish) -> Report:
    """Look at both sides, or at the source alone. Never raises for what it can report."""
    facts: dict[str, Any] = {}
    found: list[Finding] = []
    if source.rest is None:
        found += preflight_reach.declared(source, wish.workers, wish.max_connections)
    src, refused = preflight_reach.enter(source, "source")
    dst, refused_too = preflight_reach.enter(target, "target") if target is not None else (None, [])
    found += refused + refused_too
    try:
        tables: tuple[catalog.Table, ...] = ()
        if src is not None:
            tables = catalog.read_tables(src, selection)
            facts["source"] = _facts(src, tables, selection)
            found += preflight_reach.way(src, source, "source") + _source(src, tables, selection, wish)
        if dst is not None and target is not None:
            facts["target"] = _facts(dst, catalog.read_tables(dst, selection.inverted()), selection.inverted())
            found += preflight_reach.way(dst, target, "target") + preflight_target.look(dst)
        # What may not be read cannot be compared; its grants come first.
        if src is not None and dst is not None and tables:
            found += preflight_pair.compare(src, dst, tables, selection, schema_catalog.extensions(src), wish)
    finally:
        for conn in (src, dst):
            if conn is not None:
                conn.close()
    return Report(ordered(found), facts)


def _source(src: psycopg.Connection[Any], tables: Sequence[catalog.Table], selection: Selection, wish: Wish) -> list[Finding]:
    found = _declaration(src, selection)
    if not tables:
        return [*found, finding("selection", "selection", "no table is selected", "Check include, exclude and dbname of the source.")]
    found += preflight_source.look(src, wish.workers)
    found += preflight_rights.look(src, tables, selection)
    found += preflight_shapes.look(src, tables, selection) + preflight_shapes.large_object_count(src, selection)
    found += preflight_platform.look(src, tables, selection)
    if not any(one.rule in ("sequence-select", "schema-usage") for one in found):
        found += preflight_shapes.sequences(src, tables, selection)
    return found


def _declaration(src: psycopg.Connection[Any], selection: Selection) -> list[Finding]:
    try:
        unmatched = selection.check(catalog.read_names(src))
    except TransferError as error:
        return [finding("rename", "rename", error.message, error.remedy)]
    found = [finding("selection", "selection", text, "Correct the name, or remove it from the declaration.") for text in unmatched]
    try:
        renaming.refuse_circles(selection.rename)
    except TransferError as error:
        found.append(finding("rename", "rename", error.message, error.remedy))
    for mention in renaming.mentions(src, selection.rename):
        text = f"its body names {mention['mentions']}, which is renamed; a body is text and moves unchanged"
        fix = "Write it anew on the target after the schema transfer: CREATE OR REPLACE FUNCTION ..."
        found.append(finding("rename-text", mention["function"], text, fix))
    return found


def _facts(conn: psycopg.Connection[Any], tables: Sequence[catalog.Table], selection: Selection) -> dict[str, Any]:
    query = (
        "SELECT current_setting('server_version'), pg_database_size(current_database()), pg_encoding_to_char(encoding), datcollate, datctype,"
        " current_setting('wal_level'), current_user::text, (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),"
        " (SELECT count(*) FROM pg_largeobject_metadata), current_setting('max_connections')::int, pg_is_in_recovery()"
        " FROM pg_database WHERE datname = current_database()"
    )
    row = certain(conn.execute(query).fetchone(), "the row in pg_database")
    names = (
        "version", "database_bytes", "encoding", "collation", "ctype", "wal_level", "role", "superuser", "large_objects", "max_connections", "in_recovery",
    )  # fmt: skip
    leaves = [table for table in tables if table.kind == "r"]
    free_sequences = conn.execute("SELECT count(*) FROM pg_sequences WHERE schemaname !~ '^pg_' AND schemaname <> 'cutover'").fetchone()
    return dict(zip(names, row, strict=True)) | {
        "tables": len(leaves),
        "bytes": sum(table.size_bytes for table in leaves),
        "rows_estimate": int(sum(max(table.reltuples, 0) for table in leaves)),
        "without_key": sorted(table.dotted for table in leaves if not table.key),
        "sequences": int(free_sequences[0]) if free_sequences else 0,
        "extensions": {one.name: one.version for one in schema_catalog.extensions(conn)},
        "flavour": selection.flavour,
    }
