# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The form in which a value is compared, the same on every server, and the hashes made of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .catalog import Column
from .typed import Form, pair_of_hashes

# Larger values enter the text of a row as their own digest: a row's text must stay below 1 GB, and a bytea doubles in it.
BIG_VALUE = 64 * 1024 * 1024
# A TOAST table smaller than this cannot hold a value of that size, however well it compresses.
BIG_TOAST = 256 * 1024

# record: typed hashes of the values, fastest; text: hashes of the row's text; md5, sha256: digests of it, for servers whose hashes differ.
STRATEGIES = ("record", "text", "md5", "sha256")

# Types whose own hash sees every bit that matters and depends on nothing but the value, with the kind of their hash.
_DIRECT = {
    f"pg_catalog.{name}": kind
    for name, kind in {
        "int2": "int2",
        "int4": "int4",
        "int8": "int8",
        "oid": "oid",
        "char": "char",
        "uuid": "uuid",
        "timestamp": "timestamp",
        "timestamptz": "timestamptz",
        "float4": "float4",
        "float8": "float8",
        "bytea": "bytea",
        "text": "text",
        "varchar": "text",
        "inet": "inet",
        "cidr": "inet",
    }.items()
}
_TEXTS = ("pg_catalog.text", "pg_catalog.varchar")


@dataclass(frozen=True)
class Agreement:
    """What two servers compute alike. name: one of STRATEGIES; as_text: types (Column.base) whose own hashes differ, so that their text is hashed."""

    name: str
    as_text: frozenset[str] = frozenset()


@dataclass(frozen=True)
class RowHash:
    """Two independent 64-bit hashes of a row.

    inner: computed once per row under the name ``x``; first, second: bigint expressions of ``x``
    columns: instead of inner, expressions computed once under the names c0, c1 ...; when none is given and inner is '', nothing needs that
    flat: first as one expression of the table's own columns
    """

    inner: str
    first: str
    second: str
    columns: tuple[str, ...] = ()
    flat: str = ""

    @property
    def whole(self) -> str:
        """The first hash as one expression of the columns, for a statement without a subquery."""
        return self.flat or self.first.replace("(x,", f"({self.inner},")

    def select(self, extra: Sequence[tuple[str, str]], tail: str) -> str:
        """SELECT of each (expression, name) of ``extra``, then h1 and h2. tail: what follows FROM."""
        once = [(self.inner, "x")] if self.inner else [(sql, f"c{place}") for place, sql in enumerate(self.columns)]
        if not once:
            listed = ", ".join([*(f"{sql} AS {name}" for sql, name in extra), f"{self.first} AS h1", f"{self.second} AS h2"])
            return f"SELECT {listed} FROM {tail}"
        inner = ", ".join(f"{sql} AS {name}" for sql, name in (*extra, *once))
        names = ", ".join([*(name for _sql, name in extra), f"{self.first} AS h1", f"{self.second} AS h2"])
        # The fence keeps the planner from computing the inner expressions once for each hash.
        return f"SELECT {names} FROM (SELECT {inner} FROM {tail} OFFSET 0) i"


def row_hash(strategy: str, values: Sequence[str]) -> RowHash:
    """Hashes of a row's text over expressions of its columns. Names take no part: renamed columns hash alike. strategy: all but record."""
    if not values:
        return RowHash("1", "0::bigint", "0::bigint", flat="0::bigint")
    row = f"ROW({', '.join(values)})"
    if strategy == "text":
        return RowHash(f'{row}::text COLLATE "C"', "hashtextextended(x, 0)", "hashtextextended(x, 7046029254386353131)")
    digest = f"md5({row}::text)" if strategy == "md5" else f"encode(sha256(convert_to({row}::text, 'UTF8')), 'hex')"
    return RowHash(digest, "('x' || substr(x, 1, 16))::bit(64)::bigint", "('x' || substr(x, 17, 16))::bit(64)::bigint")


def typed_hash(forms: Sequence[Form]) -> RowHash:
    """Hashes of a row by the types of its columns (strategy record)."""
    if not forms:
        return row_hash("text", ())
    forms = [form.once(place) for place, form in enumerate(forms, start=1)]
    plain = [form.sql for form in forms]
    flat = pair_of_hashes(forms, plain)
    if not any(form.costly for form in forms):
        return RowHash("", *flat, flat=flat[0])
    first, second = pair_of_hashes(forms, [f"c{place}" for place in range(len(forms))])
    return RowHash("", first, second, tuple(plain), flat[0])


def hashed(agreement: Agreement, columns: Iterable[tuple[str, Column, Column]], big: bool = False) -> RowHash:
    """Hashes of a row over columns given as (quoted name, what one side says about it, what the other says).

    -0 and 0, 1.0 and 1.00, '' and NULL are different; all NaN are one. big: the table may hold values too long for a row's text
    """
    given = list(columns)
    if agreement.name == "record":
        return typed_hash([typed_form(sql, left, right, agreement.as_text, big) for sql, left, right in given])
    limit = max(1, BIG_VALUE // max(1, len(given) // 4))
    return row_hash(agreement.name, [text_form(sql, left, right, limit if big else None) for sql, left, right in given])


def text_form(sql: str, left: Column, right: Column, limit: int | None = None) -> str:
    """Expression of a column inside the text of a row. limit: bytes above which a value's digest stands for it, None for never."""
    base = left.base if left.base == right.base and not left.element else ""
    if limit is not None and base in _TEXTS:
        return f"CASE WHEN octet_length({sql}) > {limit} THEN encode(sha256(convert_to({sql}, 'UTF8')), 'hex') ELSE {sql} END"
    if limit is not None and base == "pg_catalog.bytea":
        return f"CASE WHEN octet_length({sql}) > {limit} THEN sha256({sql}) ELSE {sql} END"
    return sql


def typed_form(sql: str, left: Column, right: Column, as_text: frozenset[str] = frozenset(), big: bool = False) -> Form:
    """How a column is hashed by its type, chosen from what both sides say about it. sql: quoted name."""
    nullable = not (left.not_null and right.not_null)
    base = left.base if left.base == right.base and not left.element and left.base not in as_text else ""
    kind = _DIRECT.get(base, "")
    if kind in ("text", "bytea") and big:
        # Joined to nothing a value is fetched and decompressed once, instead of once for each hash.
        text = kind == "text"
        digest = f"encode(sha256(convert_to({sql}, 'UTF8')), 'hex')" if text else f"sha256({sql})"
        once = f"CASE WHEN octet_length({sql}) > {BIG_VALUE} THEN {digest} ELSE {sql} || ''{'' if text else '::bytea'} END"
        return Form(f'{once} COLLATE "C"' if text else once, kind, nullable, costly=True)
    if kind == "text":
        return Form(f'{sql}::text COLLATE "C"', kind, nullable)
    if kind == "inet":
        return Form(f"{sql}::inet", kind, nullable)
    if kind:
        return Form(f"{sql}::{base}", kind, nullable)
    if base == "pg_catalog.bool":
        # Without the cast's call of a function.
        return Form(f"CASE WHEN {sql} THEN 1 WHEN NOT {sql} THEN 0 END", "int4", nullable)
    if base == "pg_catalog.date":
        # Days between dates, and what no date is that many days away for the infinities.
        days = f"WHEN isfinite({sql}) THEN {sql} - '2000-01-01'::date"
        return Form(
            f"CASE {days} WHEN {sql} > '2000-01-01'::date THEN 2147483647 WHEN {sql} IS NOT NULL THEN -2147483648 END", "int4", nullable
        )
    if base == "pg_catalog.bpchar":
        # As text it would lose its blanks, which a common length of the column makes certain.
        if left.type_sql == right.type_sql and left.type_sql.startswith("character("):
            return Form(f'{sql}::text COLLATE "C"', "text", nullable)
        return Form(f"bpcharsend({sql}::bpchar)", "bytea", nullable, costly=True)
    if left.base_kind == "b" and not left.element and not left.base.startswith("pg_catalog."):
        # An extension's type may have a cast to text that says less than its output function. A row is never NULL.
        return Form(f'ROW({sql})::text COLLATE "C"', "text", False, costly=True)
    return Form(f'{sql}::text COLLATE "C"', "text", nullable, costly=True)
