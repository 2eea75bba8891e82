"""Schemas and values that nobody thought of: equal after a copy, and every planted change found and named."""

from __future__ import annotations

import datetime
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.catalog import quote_ident, quote_literal
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.copy import copy
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Selection
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.verify import VerifiedTable, verify
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from integration.conftest import Server

_numbers = itertools.count(1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12) | st.sampled_from(
    ["", " ", "NULL", "a|b", "\\N", "\\.", "(,)", '"']
)
MOMENTS = st.datetimes(datetime.datetime(1, 1, 1), datetime.datetime(9999, 12, 31, 23, 59, 59)).map(str) | st.sampled_from(
    ["infinity", "-infinity", "0044-03-15 BC"]
)
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "a", "ü", "😀"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
# {type: strategy of values as the text that the server reads}
TYPES: dict[str, st.SearchStrategy[str]] = {
    "int2": st.integers(-(2**15), 2**15 - 1).map(str),
    "int4": st.integers(-(2**31), 2**31 - 1).map(str),
    "int8": (st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 1, -1, 2**32, -(2**32), 2**32 + 1])).map(str),
    "bool": st.sampled_from(["true", "false"]),
    "float4": st.floats(width=32).map(repr),
    "float8": (st.floats() | st.sampled_from([0.0, -0.0, 5e-324])).map(repr),
    "numeric": st.decimals(allow_nan=True, allow_infinity=False, places=3, min_value=-(10**20), max_value=10**20).map(str)
    | st.sampled_from(["1.0", "1.00", "0", "0.000"]),
    "numeric(10,2)": st.decimals(allow_nan=False, places=2, min_value=-(10**7), max_value=10**7).map(str),
    "text": TEXTS,
    "varchar(20)": TEXTS,
    "char(14)": TEXTS.map(lambda text: text[:12]),
    "bytea": st.binary(max_size=12).map(lambda data: "\\x" + data.hex()),
    "uuid": st.uuids().map(str),
    "date": st.dates().map(str) | st.sampled_from(["infinity", "-infinity", "5874897-12-31", "4713-01-01 BC"]),
    "time": st.times().map(str) | st.just("24:00:00"),
    "timestamp": MOMENTS,
    "timestamptz": MOMENTS.map(lambda text: text if "inf" in text or "BC" in text else text + "+00"),
    "interval": st.tuples(st.integers(-99, 99), st.integers(-99, 99), st.integers(-(10**9), 10**9)).map(
        lambda one: f"{one[0]} mons {one[1]} days {one[2]} us"
    ),
    "json": JSONS.map(json.dumps) | st.sampled_from(['{"a":1}', '{"a": 1}', "[1.0]", "[1.00]"]),
    "jsonb": JSONS.map(json.dumps),
    "int4[]": st.lists(st.integers(-3, 3) | st.none(), max_size=4).map(
        lambda row: "{" + ",".join("NULL" if one is None else str(one) for one in row) + "}"
    ),
    "inet": st.ip_addresses().map(str),
    "varbit": st.text("01", max_size=9),
    "int8range": st.tuples(st.integers(-9, 0), st.integers(1, 9)).map(lambda one: f"[{one[0]},{one[1]})") | st.just("empty"),
    "mood": st.sampled_from(["calm", "it's", "Ünruhig"]),
}
NAMES = st.sampled_from(
    ["a", "B", "select", "Ümläut", 'quo"te', "with blank", "per%cent", "back\\slash", "x'y", "c0", "pos", "h1", "t", "i"]
)


@dataclass(frozen=True)
class Made:
    """columns: name, type, never NULL; rows: a text or NULL for each column; keyed: a column ``id`` before them all is the key, of this type."""

    columns: tuple[tuple[str, str, bool], ...]
    rows: tuple[tuple[str | None, ...], ...]
    keyed: str


@st.composite
def tables(draw: st.DrawFn) -> Made:
    names = draw(st.lists(NAMES, min_size=1, max_size=6, unique=True))
    columns = tuple((name, draw(st.sampled_from(sorted(TYPES))), draw(st.booleans())) for name in names)
    row = st.tuples(*(TYPES[kind] if sure else TYPES[kind] | st.none() for _name, kind, sure in columns))
    rows = draw(st.lists(row, min_size=1, max_size=12))
    return Made(columns, tuple(rows), draw(st.sampled_from(["", "int8", "text", "uuid"])))


@pytest.fixture(scope="module")
def prepared(servers: tuple[Server, Server]) -> Iterator[tuple[tuple[Server, Server], str]]:
    """Both servers and a database that all examples share."""
    dbname = "properties"
    for server in servers:
        server.execute("postgres", f"CREATE DATABASE {dbname} TEMPLATE template0")
        server.execute(dbname, "CREATE TYPE mood AS ENUM ('calm', 'it''s', 'Ünruhig')")
    yield servers, dbname
    for server in servers:
        server.execute("postgres", f"DROP DATABASE {dbname} WITH (FORCE)")


def key_of(made: Made, number: int) -> str:
    """The key of a row as the server prints it."""
    return {"int8": str((number - 5) * 2**31), "text": f"kéy {number}", "uuid": f"00000000-0000-0000-0000-{number:012}"}[made.keyed]


def create(made: Made, table: str) -> list[str]:
    key = [f"id {made.keyed} PRIMARY KEY"] if made.keyed else []
    listed = [f"{quote_ident(name)} {kind}{' NOT NULL' if sure else ''}" for name, kind, sure in made.columns]
    return [f"CREATE TABLE {table} ({', '.join([*key, *listed])})"]


def insert(made: Made, table: str, rows: list[tuple[str, tuple[str | None, ...]]]) -> list[str]:
    def literal(value: str | None) -> str:
        return "NULL" if value is None else quote_literal(value)

    return [f"INSERT INTO {table} VALUES ({', '.join(literal(one) for one in ([key, *row] if made.keyed else row))})" for key, row in rows]


def compare(servers: tuple[Server, Server], dbname: str, table: str, strategy: str | None) -> VerifiedTable:
    source, target = (server.endpoint(dbname) for server in servers)
    (found,) = verify(source, target, Selection.from_args([f"public.{table}"]), hash=strategy, workers=1, max_reported=50).tables
    return found


@settings(max_examples=30, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_property_equal_after_a_copy_and_every_planted_change_is_named(
    prepared: tuple[tuple[Server, Server], str], data: st.DataObject
) -> None:
    servers, dbname = prepared
    made = data.draw(tables())
    strategy = data.draw(st.sampled_from([None, None, None, "text", "md5", "sha256"]))
    table = f"t{next(_numbers)}"
    rows = [(key_of(made, number) if made.keyed else "", row) for number, row in enumerate(made.rows)]
    servers[0].execute(dbname, *create(made, table), *insert(made, table, rows))
    servers[1].execute(dbname, *create(made, table))
    source, target = (server.endpoint(dbname) for server in servers)
    copy(source, target, Selection.from_args([f"public.{table}"]), workers=1)
    assert compare(servers, dbname, table, strategy).equal

    # What the server makes of the values decides whether a change is one: it is asked for the output of both.
    place = data.draw(st.integers(0, len(rows) - 1))
    column = data.draw(st.integers(0, len(made.columns) - 1))
    name, kind, sure = made.columns[column]
    value = data.draw(TYPES[kind] if sure else TYPES[kind] | st.none())
    old = rows[place][1][column]
    assume(printed(servers[0], dbname, kind, old) != printed(servers[0], dbname, kind, value))
    changed = (*rows[place][1][:column], value, *rows[place][1][column + 1 :])
    moved = [*rows[:place], (rows[place][0], changed), *rows[place + 1 :]]
    what = data.draw(st.sampled_from(["changed", "missing", "extra"]))
    if what == "missing":
        moved = [*rows[:place], *rows[place + 1 :]]
    elif what == "extra":
        moved = [*rows, (key_of(made, 99) if made.keyed else "", changed)]
    servers[1].execute(dbname, f"TRUNCATE {table}", *insert(made, table, moved))
    found = compare(servers, dbname, table, strategy)
    counts = Counter(missing=found.missing_count, extra=found.extra_count, changed=found.changed_count)
    if made.keyed:
        assert not found.equal and +counts == {what: 1}
        (one,) = (*found.missing, *found.extra, *found.changed)
        assert one.key == {"id": key_of(made, 99) if what == "extra" else rows[place][0]}
        assert one.columns == ((name,) if what == "changed" else ())
    else:
        assert not found.equal and +counts == ({"missing": 1, "extra": 1} if what == "changed" else {what: 1})
    servers[0].execute(dbname, f"DROP TABLE {table}")
    servers[1].execute(dbname, f"DROP TABLE {table}")


def printed(server: Server, dbname: str, kind: str, value: str | None) -> Any:
    """What a value looks like inside a row once the server has read it."""
    literal = "NULL" if value is None else quote_literal(value)
    ((text,),) = server.execute(dbname, "SET extra_float_digits = 3", "SET timezone = 'UTC'", f"SELECT ROW({literal}::{kind})::text")
    return text
