# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is asked of PostgREST, in its grammar, and what its answers say. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from .catalog import Column, Table
from .errors import TransferError
from .selection import Name

# How PostgREST marks the columns of a primary key at the end of their description.
_KEY_MARK = re.compile(r"(?:^|\n)Note:\nThis is a Primary Key\.<pk/>")
_SCHEMAS = re.compile(r"(?:one of the following|schemas are exposed): (.+?)(?:$|;)", re.DOTALL)
_COUNT = re.compile(r"(?:\*|\d+-\d+)/(\d+)")
_MONEY = "pg_catalog.money"


@dataclass(frozen=True)
class RestTable:
    """A table or view as the API describes it. columns: (name, type as PostgreSQL prints it); key: columns of the primary key, or ()."""

    schema: str
    name: str
    columns: tuple[tuple[str, str], ...]
    key: tuple[str, ...]

    @property
    def full_name(self) -> Name:
        """(schema, table)."""
        return self.schema, self.name


def read_description(schema: str, found: object) -> tuple[RestTable, ...]:
    """Tables and views in the API's own description of a schema (OpenAPI 2). Raises TransferError when it is none."""
    definitions = found.get("definitions") if isinstance(found, dict) else None
    if not isinstance(definitions, dict):
        raise TransferError(
            f"the REST source does not describe schema {schema}",
            "Set openapi-mode of PostgREST to its default, and use a service key.",
            kind="not_rest",
        )
    tables = []
    for name, facts in sorted(definitions.items()):
        columns = facts.get("properties") or {}
        key = tuple(column for column, about in columns.items() if _KEY_MARK.search(about.get("description") or ""))
        tables.append(RestTable(schema, name, tuple((column, about.get("format") or "") for column, about in columns.items()), key))
    return tuple(tables)


def exposed_schemas(message: str) -> tuple[str, ...]:
    """Schemas named by the refusal of a schema that is not exposed; () when it names none."""
    found = _SCHEMAS.search(message)
    return tuple(name.strip() for name in found[1].split(",") if name.strip()) if found else ()


def as_table(found: RestTable, target: Table, target_columns: Mapping[str, Column], key: Sequence[str]) -> Table:
    """The source's table for pairing. What the API does not tell, such as exact types, is taken from the target's columns of the same place."""
    columns = []
    for place, (name, printed) in enumerate(found.columns, 1):
        twin = target_columns.get(name)
        base = twin.base if twin else ""
        facts = (twin.base_kind, twin.element, twin.element_kind, twin.not_null, twin.generated) if twin else ("b", "", "", False, "")
        columns.append(Column(name, printed, base, *facts, "", "", place, True))
    return Table(
        oid=0, schema=found.schema, name=found.name, kind="r", columns=tuple(columns), key=tuple(key), key_source="primary" if found.key else "unique",
        partition_root=None, is_partition=False, reltuples=-1.0, pages=target.pages, size_bytes=target.size_bytes, inherits=(), persistence="p", extension="",
    )  # fmt: skip


def name(text: str) -> str:
    """A column in a query."""
    return _quoted(text)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def select(columns: Sequence[Column]) -> str:
    """``select`` of these columns as c0, c1, …, each as text so that nothing is rounded on the way.

    money depends on a locale as text, so it comes as the number it is.
    """
    return ",".join(
        f"c{place}:{name(column.name)}::{'numeric' if column.base == _MONEY else 'text'}" for place, column in enumerate(columns)
    )


def order(key: Sequence[str], backwards: bool = False) -> str:
    """``order`` by the key."""
    return ",".join(f"{name(column)}.{'desc.nullslast' if backwards else 'asc'}" for column in key)


def after(key: Sequence[str], values: Sequence[str]) -> str:
    """Condition for rows after this key, in the order of :func:`order`."""
    places = list(zip(key, values, strict=True))
    if len(places) == 1:
        return _compare(places[0], "gt")
    steps = []
    for depth, place in enumerate(places):
        equal = [_compare(before, "eq") for before in places[:depth]]
        steps.append(f"and({','.join([*equal, _compare(place, 'gt')])})" if equal else _compare(place, "gt"))
    # The first condition lets the server begin at the right place of the key's index.
    return f"{_compare(places[0], 'gte')},or({','.join(steps)})"


def up_to(key: Sequence[str], values: Sequence[str]) -> str:
    """Condition for rows up to this key, which is among them."""
    places = list(zip(key, values, strict=True))
    if len(places) == 1:
        return _compare(places[0], "lte")
    steps = [_compare(places[0], "lt")]
    for depth, place in enumerate(places[1:], 1):
        equal = [_compare(before, "eq") for before in places[:depth]]
        steps.append(f"and({','.join([*equal, _compare(place, 'lte' if depth == len(places) - 1 else 'lt')])})")
    return f"{_compare(places[0], 'lte')},or({','.join(steps)})"


def equals(columns: Sequence[str], values: Sequence[str]) -> str:
    """Condition for rows with these values."""
    return ",".join(_compare(place, "eq") for place in zip(columns, values, strict=True))


def any_of(conditions: Sequence[str]) -> str:
    """Condition for rows that meet at least one of these."""
    return f"or({','.join(f'and({condition})' for condition in conditions)})"


def is_null(column: str) -> str:
    """Condition for rows without a value in this column."""
    return f"{name(column)}.is.null"


def _compare(place: tuple[str, str], operator: str) -> str:
    return f"{name(place[0])}.{operator}.{_quoted(place[1])}"


def query(selected: str, *, ordered: str = "", condition: str = "", limit: int | None = None) -> str:
    """Query string. A condition goes into ``and=(…)``, because a column may be called like a parameter, for example order."""
    parts = [f"select={quote(selected, safe=',:*')}"]
    if ordered:
        parts.append(f"order={quote(ordered, safe=',')}")
    if condition:
        parts.append(f"and={quote(f'({condition})', safe='(),')}")
    if limit is not None:
        parts.append(f"limit={limit}")
    return "&".join(parts)


def total(content_range: str | None) -> int | None:
    """Rows in all, of a Content-Range header; None where it does not tell."""
    found = _COUNT.fullmatch(content_range or "")
    return int(found[1]) if found else None
