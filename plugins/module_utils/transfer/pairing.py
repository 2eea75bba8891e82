# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which relation of the source belongs to which relation of the target, column by column. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .catalog import Column, Table, quote_ident
from .errors import certain
from .selection import Name, Selection


@dataclass(frozen=True)
class Pair:
    """A relation of the source and what it becomes.

    source: compared as a whole, a table, a leaf partition or a partitioned table
    leaves: relations of the source that hold its rows, each read with ONLY
    columns: (column of the source, column of the target) in the source's order
    """

    source: Table
    target: Table
    leaves: tuple[Table, ...]
    columns: tuple[tuple[Column, Column], ...]

    @property
    def name(self) -> str:
        """``schema.table`` of the source."""
        return self.source.dotted

    @property
    def written(self) -> tuple[tuple[Column, Column], ...]:
        """Columns that a copy writes: those that the target does not compute itself."""
        return tuple((left, right) for left, right in self.columns if not right.generated)

    @property
    def key(self) -> tuple[tuple[Column, Column], ...]:
        """Columns that identify a row, () when none do."""
        by_name = {left.name: (left, right) for left, right in self.columns}
        return tuple(by_name[name] for name in self.source.key) if all(name in by_name for name in self.source.key) else ()

    def source_list(self, columns: Iterable[tuple[Column, Column]]) -> str:
        """Quoted names of these columns on the source, for a statement."""
        return ", ".join(quote_ident(left.name) for left, _right in columns)

    def target_list(self, columns: Iterable[tuple[Column, Column]]) -> str:
        """Quoted names of these columns on the target, for a statement."""
        return ", ".join(quote_ident(right.name) for _left, right in columns)


@dataclass(frozen=True)
class Pairing:
    """pairs by name; problems: one sentence each, nothing may be moved while there is one; skipped: objects that have no counterpart."""

    pairs: tuple[Pair, ...]
    problems: tuple[str, ...]
    skipped: tuple[str, ...]


def relation(table: Table) -> str:
    """FROM item of a relation compared as a whole: children of plain inheritance never count twice, partitions always count."""
    return table.sql if table.kind == "p" else f"ONLY {table.sql}"


def pair_tables(
    sources: Iterable[Table], targets: Iterable[Table], selection: Selection, empty: Callable[[Table, Column], bool] | None = None
) -> Pairing:
    """Pair the tables of both sides.

    empty: whether a source's column that the target lacks holds no data; such a column is skipped and reported. Without it each is a problem.

    Partitions are paired leaf by leaf when the target has the same leaves with the same bounds and no other, else through the partitioned table on top.
    On the way back (an inverted selection) a table or column that the old side never had is skipped and reported, not a problem.
    """
    by_name = {table.full_name: table for table in targets}
    theirs = {root: {leaf.full_name for leaf in leaves} for root, leaves in _trees(tuple(by_name.values())).items()}
    source_tables = tuple(sources)
    pairs: list[Pair] = []
    problems: list[str] = []
    skipped: list[str] = []
    missing = skipped if selection.forward is not None else problems

    def add(source: Table, target: Table | None, leaves: tuple[Table, ...]) -> None:
        if target is None:
            missing.append(f"table {'.'.join(selection.target_name(*source.full_name))} for {source.dotted} does not exist on the target")
            return
        columns, wrong, left_out = _pair_columns(source, target, selection, empty)
        problems.extend(wrong)
        skipped.extend(left_out)
        pairs.append(Pair(source, target, leaves, columns))

    for root, leaves in _trees(source_tables).items():
        top = next((table for table in source_tables if table.full_name == root), None)
        if top is None or _same_leaves(leaves, by_name, theirs.get(selection.target_name(*root)), selection):
            for leaf in leaves:
                add(leaf, by_name.get(selection.target_name(*leaf.full_name)), (leaf,))
        else:
            add(top, by_name.get(selection.target_name(*root)), leaves)
    for table in source_tables:
        if table.kind == "r" and not table.is_partition:
            add(table, by_name.get(selection.target_name(*table.full_name)), (table,))
    return Pairing(tuple(sorted(pairs, key=lambda pair: pair.name)), tuple(problems), tuple(skipped))


def _trees(tables: tuple[Table, ...]) -> dict[Name, tuple[Table, ...]]:
    """{partitioned table on top: its leaves that hold rows}, also for one without any."""
    trees: dict[Name, list[Table]] = {table.full_name: [] for table in tables if table.kind == "p" and not table.is_partition}
    for table in tables:
        if table.kind == "r" and table.partition_root is not None:
            trees.setdefault(table.partition_root, []).append(table)
    return {root: tuple(leaves) for root, leaves in trees.items()}


def _same_leaves(leaves: tuple[Table, ...], targets: dict[Name, Table], theirs: set[Name] | None, selection: Selection) -> bool:
    # Rows of a partition that only the target has would be looked at by nobody.
    if theirs != {selection.target_name(*leaf.full_name) for leaf in leaves}:
        return False
    for leaf in leaves:
        other = targets.get(selection.target_name(*leaf.full_name))
        root = certain(leaf.partition_root, "the root of a partition")
        same = (
            other is not None
            and other.kind == "r"
            and other.partition_root == selection.target_name(*root)
            and other.partition_bound == leaf.partition_bound
        )
        # Where a row lands in a hash partition depends on collation versions and, for enums, on OIDs of one cluster.
        if not same or "modulus" in leaf.partition_bound:
            return False
    return bool(leaves)


def _target_column(source: Table, column: str, selection: Selection) -> str:
    """Its name on the other side. A rename is given for the table on top and reaches every table below it."""
    above = [source.partition_root] if source.partition_root else list(source.inherits)
    names = (selection.target_column(*table, column) for table in (source.full_name, *above))
    return next((name for name in names if name != column), column)


def _pair_columns(
    source: Table, target: Table, selection: Selection, empty: Callable[[Table, Column], bool] | None
) -> tuple[tuple[tuple[Column, Column], ...], list[str], list[str]]:
    by_name = {column.name: column for column in target.columns}
    pairs: list[tuple[Column, Column]] = []
    problems: list[str] = []
    skipped: list[str] = []
    for column in source.columns:
        name = _target_column(source, column.name, selection)
        other = by_name.pop(name, None)
        if other is None:
            gone = f"column {target.dotted}.{name} for {source.dotted}.{column.name} does not exist on the target"
            if empty is not None and empty(source, column):
                gone += " and holds no data"
                skipped.append(gone)
            else:
                (skipped if selection.forward is not None else problems).append(gone)
        else:
            pairs.append((column, other))
            if other.generated and not column.generated:
                problems.append(f"column {target.dotted}.{name} is generated on the target but holds data in {source.dotted}.{column.name}")
    for name, column in by_name.items():
        if column.not_null and not column.has_default and not column.identity:
            problems.append(f"column {target.dotted}.{name} is NOT NULL without a default and {source.dotted} has nothing for it")
        else:
            skipped.append(f"column {target.dotted}.{name} has no counterpart in {source.dotted}")
    return tuple(pairs), problems, skipped
