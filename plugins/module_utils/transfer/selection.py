# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which tables move and what they are called afterwards. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from .errors import TransferError

Name = tuple[str, str]
"""(schema, table)"""

# Large objects belong to no table: they come along whatever is included, unless an exclude pattern matches this name.
LARGE_OBJECTS = "pg_catalog.pg_largeobject"
_NOTHING = "pg_catalog.pg_class"
SYSTEM_SCHEMAS = ("pg_catalog", "information_schema", "pg_toast*", "pg_temp*", "cutover")
# Run by the platform itself and rebuilt by it on the other side. auth and storage hold users' data and are taken.
SUPABASE_SCHEMAS = (
    "_analytics",
    "_realtime",
    "_supabase",
    "_supavisor",
    "cron",
    "dbdev",
    "etl",
    "extensions",
    "graphql",
    "graphql_public",
    "net",
    "pgbouncer",
    "pgmq",
    "pgsodium",
    "pgsodium_masks",
    "pgtle",
    "realtime",
    "repack",
    "supabase_functions",
    "supabase_migrations",
    "tiger",
    "tiger_data",
    "timescaledb_*",
    "_timescaledb_*",
    "topology",
    "vault",
)
# Versions of the platform's own migrations: true for one installation only.
SUPABASE_TABLES = ("auth.schema_migrations", "storage.migrations", "supabase_functions.migrations")


@dataclass(frozen=True)
class Rename:
    """schemas: old to new; tables: ``schema.table`` to a new table name; columns: ``schema.table.column`` to a new column name."""

    schemas: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_args(cls, args: Mapping[str, Any] | None) -> Rename:
        """Rename of a module's ``rename`` argument. Raises TransferError for unknown or misshapen keys."""
        given = dict(args or {})
        unknown = sorted(set(given) - {"schemas", "tables", "columns"})
        if unknown:
            raise TransferError(f"unknown key in rename: {', '.join(unknown)}", "Use schemas, tables and columns.")
        maps: dict[str, dict[str, str]] = {}
        for what, dots in (("schemas", 0), ("tables", 1), ("columns", 2)):
            maps[what] = {str(old): str(new) for old, new in (given.get(what) or {}).items()}
            for old, new in maps[what].items():
                if old.count(".") < dots or not new or len(new.encode()) > 63:
                    shape = ("schema", "schema.table", "schema.table.column")[dots]
                    raise TransferError(
                        f"rename.{what} has {old!r}: {new!r}, expected {shape} and a new name of 1 to 63 bytes", f"Correct rename.{what}."
                    )
        return cls(**maps)

    def table(self, schema: str, table: str) -> Name:
        """New (schema, table)."""
        return self.schemas.get(schema, schema), self.tables.get(f"{schema}.{table}", table)

    def column(self, schema: str, table: str, column: str) -> str:
        """New name of a column."""
        return self.columns.get(f"{schema}.{table}.{column}", column)

    def inverted(self) -> Rename:
        """The rename that leads back: keys are new names. Schema names must not contain dots."""
        tables = {}
        for old, new in self.tables.items():
            schema, _unused, table = old.partition(".")
            tables[f"{self.schemas.get(schema, schema)}.{new}"] = table
        columns = {}
        for old, new in self.columns.items():
            owner, _unused, column = old.rpartition(".")
            schema, _unused, table = owner.partition(".")
            columns[".".join((*self.table(schema, table), new))] = column
        return Rename({new: old for old, new in self.schemas.items()}, tables, columns)


@dataclass(frozen=True)
class Selection:
    """Tables that move. include and exclude: patterns on ``schema.table`` with ``*`` and ``?``; exclude wins.

    flavour ``supabase`` leaves out the platform's own schemas, unless an include pattern names the schema without a wildcard.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    rename: Rename = field(default_factory=Rename)
    flavour: str = "postgresql"
    forward: Selection | None = None

    @classmethod
    def from_args(
        cls,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        rename: Mapping[str, Any] | None = None,
        flavour: str = "postgresql",
    ) -> Selection:
        """Selection of a module's arguments. Raises TransferError for a pattern without a dot."""
        for what, patterns in (("include", include or ()), ("exclude", exclude or ())):
            for pattern in patterns:
                if "." not in pattern:
                    raise TransferError(f"{what} has {pattern!r}, expected schema.table", f"Write {pattern}.* for a whole schema.")
        return cls(tuple(include or ()), tuple(exclude or ()), Rename.from_args(rename), flavour)

    def inverted(self) -> Selection:
        """The same tables seen from the target: matches new names and renames them back. For the way back."""
        if self.forward is not None:
            return self.forward
        return Selection(rename=self.rename.inverted(), flavour=self.flavour, forward=self)

    def matches(self, schema: str, table: str, root: Name | None = None) -> bool:
        """Whether a table moves. root: the partitioned table on top of a partition, which brings it in or keeps it out."""
        if self.forward is not None:
            old = self.rename.table(schema, table)
            old_root = self.rename.table(*root) if root else None
            return self.forward.target_name(*old) == (schema, table) and self.forward.matches(*old, old_root)
        if any(fnmatchcase(schema, pattern) for pattern in SYSTEM_SCHEMAS):
            return False
        names = [f"{schema}.{table}", *([f"{root[0]}.{root[1]}"] if root else [])]
        if any(fnmatchcase(name, pattern) for name in names for pattern in self.exclude):
            return False
        if self.flavour == "supabase" and f"{schema}.{table}" in SUPABASE_TABLES:
            return f"{schema}.{table}" in self.include
        if self.flavour == "supabase" and any(fnmatchcase(schema, pattern) for pattern in SUPABASE_SCHEMAS):
            return any(fnmatchcase(name, pattern) for name in names for pattern in self.include if pattern.startswith(f"{schema}."))
        return not self.include or any(fnmatchcase(name, pattern) for name in names for pattern in self.include)

    @property
    def large_objects(self) -> bool:
        """Whether large objects move."""
        # A pattern for all schemas means tables.
        return not any(
            pattern.startswith("pg_catalog.") and fnmatchcase(LARGE_OBJECTS, pattern) for pattern in (self.forward or self).exclude
        )

    def without_large_objects(self) -> Selection:
        """The same tables and nothing else, seen from the same side."""
        base = self.forward or self
        tables = replace(base, exclude=(*base.exclude, LARGE_OBJECTS))
        return tables.inverted() if self.forward else tables

    def target_name(self, schema: str, table: str) -> Name:
        """(schema, table) on the other side."""
        return self.rename.table(schema, table)

    def target_column(self, schema: str, table: str, column: str) -> str:
        """Name of a column on the other side; schema, table and column as on this side."""
        return self.rename.column(schema, table, column)

    def check(self, tables: Mapping[Name, Sequence[str]]) -> list[str]:
        """Judge the selection against the tables that exist: {(schema, table): column names}.

        Returns one sentence per pattern or rename that matches nothing. Raises TransferError when two objects would get one name.
        """
        taken = {name: columns for name, columns in tables.items() if self.matches(*name)}
        seen: dict[Name, Name] = {}
        for name, columns in taken.items():
            new = self.target_name(*name)
            if new in seen:
                raise TransferError(
                    f"{'.'.join(seen[new])} and {'.'.join(name)} would both be called {'.'.join(new)}",
                    "Correct rename or exclude one of them.",
                )
            seen[new] = name
            new_columns: dict[str, str] = {}
            for column in columns:
                renamed = self.target_column(*name, column)
                if renamed in new_columns:
                    raise TransferError(
                        f"columns {new_columns[renamed]} and {column} of {'.'.join(name)} would both be called {renamed}",
                        "Correct rename.columns.",
                    )
                new_columns[renamed] = column
        return self._unmatched(tables)

    def _unmatched(self, tables: Mapping[Name, Sequence[str]]) -> list[str]:
        names = {LARGE_OBJECTS, *(f"{schema}.{table}" for schema, table in tables)}
        found = []
        for what, patterns in (("include", self.include), ("exclude", self.exclude)):
            found += [f"{what} pattern {p} matches no table" for p in patterns if not any(fnmatchcase(name, p) for name in names)]
        schemas = {schema for schema, _table in tables}
        columns = {f"{schema}.{table}.{column}" for (schema, table), known in tables.items() for column in known}
        for what, keys, known in (
            ("schemas", self.rename.schemas, schemas),
            ("tables", self.rename.tables, names),
            ("columns", self.rename.columns, columns),
        ):
            found += [f"rename.{what} {key} matches nothing" for key in keys if key not in known]
        return found


def dotted(names: Iterable[Name]) -> list[str]:
    """``schema.table`` of each name, sorted, for results and messages."""
    return sorted(f"{schema}.{table}" for schema, table in names)


def narrowed(selection: Selection, names: Sequence[Name]) -> Selection:
    """The selection with these tables only, seen from the same side. names: as they are called on that side."""
    forward = selection.forward
    base = forward or selection
    wanted = [selection.target_name(*name) if forward else name for name in names]
    patterns = tuple("".join(f"[{letter}]" if letter in "*?[" else letter for letter in ".".join(name)) for name in wanted)
    chosen = Selection(patterns or (_NOTHING,), base.exclude, base.rename, base.flavour)
    return chosen.inverted() if forward else chosen
