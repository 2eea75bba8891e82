"""Values that comparisons take for each other: each arrives as it is, and each single one that was spoiled is named by row and column."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pgservers
import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.copy import copy
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Selection
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.verify import verify
from integration.cases.independent import assert_same_rows
from integration.conftest import Pair, Server, own
from pgservers import PASSWORD

ALL = Selection.from_args()


@dataclass(frozen=True)
class Kind:
    """A type with values in SQL. spoiled: (number of a value from 0, what takes its place), one after the other and each alone in its table."""

    type: str
    values: tuple[str, ...]
    spoiled: tuple[tuple[int, str], ...]


TYPES = (
    "CREATE TYPE mood AS ENUM ('calm', 'it''s', 'Ünruhig')",
    "CREATE TYPE part AS (a int, b text)",
    "CREATE TYPE nested AS (p part, list part[], m mood)",
    "CREATE DOMAIN positive AS numeric CHECK (value > 0)",
    "CREATE DOMAIN moods AS mood[]",
    "CREATE TYPE float_range AS RANGE (subtype = float8)",
    'CREATE TYPE text_range AS RANGE (subtype = text, collation = "C")',
)
KINDS = (
    Kind("float8", ("'-0'", "0", "'NaN'", "'Infinity'", "'-Infinity'", "1e-310", "0.1::float8 + 0.2::float8", "5e-324", "1.7976931348623157e308"),
         ((0, "0"), (1, "'-0'"), (6, "0.3"), (6, "0.30000000000000010"), (5, "1.00000000000005e-310"), (2, "'Infinity'"), (8, "'Infinity'"))),
    Kind("float4", ("'-0'", "0", "'NaN'", "1e-45", "1.1", "16777216", "3.4028235e38"),
         ((0, "0"), (4, "1.1000001"), (5, "16777217::int8 + 1"), (3, "0"))),
    Kind("numeric", ("1.0", "1.00", "'NaN'", "1234567890123456789012345678901234567890", "0.0000000000000000000000000000000000000001", "-0.00", "1e400",
                     "12345678901234", "'Infinity'"),
         ((0, "1.00"), (1, "1"), (3, "1234567890123456789012345678901234567891"), (4, "0"), (5, "0"), (7, "12345678901235"), (2, "NULL"), (8, "'-Infinity'"))),
    Kind("numeric(12,4)", ("1", "-99999999.9999", "NULL"), ((0, "1.0001"), (2, "0"))),
    Kind("int8", ("9223372036854775807", "-9223372036854775808", "9007199254740993", "0"), ((0, "9223372036854775806"), (2, "9007199254740992"), (3, "NULL"))),
    Kind("int2", ("-32768", "32767"), ((0, "-32767"),)),
    Kind("bool", ("true", "false", "NULL"), ((1, "NULL"), (0, "false"))),
    Kind("text", ("'a|b'", "'<null>'", "''", "NULL", "'NULL'", "E'quote '' \" end'", r"E'back\\slash \\N'", r"E'\\.'", r"E'cr\rlf\r\nlf\n tab\t'", "'x '",
                  "U&'\\00e9'", "U&'e\\0301'", "'😀'", "repeat('long ', 40000)"),
         ((0, "'a' || 'b'"), (1, "NULL"), (2, "NULL"), (3, "''"), (4, "NULL"), (6, r"E'backslash \\N'"), (7, "''"), (8, r"E'cr\nlf\r\nlf\n tab\t'"), (9, "'x'"),
          (10, "U&'e\\0301'"), (12, "'😁'"), (13, "repeat('long ', 39999) || 'lung '"))),
    Kind("varchar(20)", ("'x'", "'x  '", "''"), ((0, "'x '"), (1, "'x   '"), (2, "' '"))),
    Kind("char(6)", ("'ab'", "''", "NULL"), ((0, "'aB'"), (1, "NULL"), (2, "''"))),
    Kind('"char"', ("'a'", "''", "'\\377'"), ((0, "'b'"), (1, "'0'"))),
    Kind("name", ("'plain'", "'Ünï'"), ((0, "'Plain'"),)),
    Kind("bytea", ("''", "'\\x00'", "'\\x005c00ff'", "NULL", "decode(repeat('00', 100000), 'hex')"),
         ((0, "NULL"), (1, "'\\x0000'"), (2, "'\\x005c00fe'"), (3, "''"), (4, "decode(repeat('00', 99999) || '01', 'hex')"))),
    Kind("uuid", ("'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'"), ((0, "'00000000-0000-0000-0000-000000000001'"),)),
    Kind("date", ("'infinity'", "'-infinity'", "'4713-01-01 BC'", "'5874897-12-31'", "'2024-02-29'"),
         ((0, "'-infinity'"), (2, "'4713-01-01'"), (4, "'2024-03-01'"))),
    Kind("time", ("'24:00'", "'00:00'", "'23:59:59.999999'"), ((0, "'00:00'"), (2, "'23:59:59.999998'"))),
    Kind("timetz", ("'12:00+00'", "'13:00+01'", "'00:00-15:59'"), ((0, "'13:00+01'"), (2, "'00:00-15:58'"))),
    Kind("timestamp", ("'infinity'", "'294276-12-31 23:59:59.999999'", "'4713-01-01 BC'", "'2024-03-31 02:30'"),
         ((0, "'-infinity'"), (1, "'294276-12-31 23:59:59.999998'"), (3, "'2024-03-31 03:30'"))),
    Kind("timestamptz", ("'infinity'", "'-infinity'", "'294276-12-31 23:59:59.999999+00'", "'0044-03-15 BC'", "'1900-01-01 00:00:00.000001+00'",
                         "'2024-10-27 02:30+02'"),
         ((1, "'infinity'"), (3, "'0044-03-15'"), (4, "'1900-01-01 00:00:00.000002+00'"), (5, "'2024-10-27 02:30+01'"))),
    Kind("interval", ("'1 mon'", "'30 days'", "'1 day'", "'-1 mon +2 days -03:04:05.600001'", "'178000000 years'", "'0'"),
         ((0, "'30 days'"), (1, "'1 mon'"), (2, "'24:00'"), (3, "'-1 mon +2 days -03:04:05.6'"), (5, "'1 us'"))),
    Kind("money", ("'-92233720368547758.08'", "'0.10'"), ((0, "'-92233720368547758.07'"), (1, "'0.11'"))),
    Kind("bit(5)", ("B'00000'", "B'10101'"), ((0, "B'00001'"),)),
    Kind("bit varying", ("B''", "B'0'", "B'00'", "B'101'"), ((0, "NULL"), (1, "B'00'"), (2, "B'000'"), (3, "B'1010'"))),
    Kind("inet", ("'10.0.0.1'", "'10.0.0.1/8'", "'::1'", "'::ffff:10.0.0.1'"), ((0, "'10.0.0.1/31'"), (1, "'10.0.0.1/9'"), (3, "'10.0.0.1'"))),
    Kind("cidr", ("'10.0.0.0/8'", "'::/0'"), ((0, "'10.0.0.0/9'"),)),
    Kind("macaddr", ("'00:11:22:33:44:55'",), ((0, "'00:11:22:33:44:54'"),)),
    Kind("macaddr8", ("'00:11:22:33:44:55:66:77'",), ((0, "'00:11:22:ff:fe:33:44:55'"),)),
    Kind("json", ("'{\"a\": 1,  \"a\":2}'", "'{\"b\":1,\"a\":2}'", "'\"\\u0000\"'", "'[ ]'", "'1.0'", "'null'", "NULL"),
         ((0, "'{\"a\": 1, \"a\":2}'"), (1, "'{\"a\":2,\"b\":1}'"), (2, "'\"\"'"), (3, "'[]'"), (4, "'1.00'"), (5, "NULL"), (6, "'null'"))),
    Kind("jsonb", ("'{\"b\": 1, \"a\": [1.0, 1.00]}'", "'null'", "NULL", "'\"\\u00e9\"'", "'{}'"),
         ((0, "'{\"b\": 1, \"a\": [1.00, 1.00]}'"), (1, "NULL"), (2, "'null'"), (3, "'\"e\\u0301\"'"), (4, "'[]'"))),
    Kind("jsonpath", ("'$.a[*] ? (@ > 1)'",), ((0, "'$.a[*] ? (@ >= 1)'"),)),
    Kind("xml", ("'<a b=\"1\"/>'", "'<a>  </a>'", "''", "'text &amp; <b/>'"), ((0, "'<a b=\"1\"></a>'"), (1, "'<a> </a>'"), (2, "NULL"))),
    Kind("tsvector", ("'a:1A fat:2'", "''"), ((0, "'a:1B fat:2'"), (0, "'a:1A fat:3'"), (1, "NULL"))),
    Kind("tsquery", ("'a & b'", "'a:*'"), ((0, "'b & a'"), (1, "'a'"))),
    Kind("point", ("'(-0,1e-310)'", "'(0.30000000000000004,0)'"), ((0, "'(0,1e-310)'"), (1, "'(0.3,0)'"))),
    Kind("box", ("'(1,1),(0,0)'",), ((0, "'(1,1),(-0,0)'"),)),
    Kind("lseg", ("'[(0,0),(1,1)]'",), ((0, "'[(1,1),(0,0)]'"),)),
    Kind("path", ("'[(0,0),(1,1)]'", "'((0,0),(1,1))'"), ((0, "'((0,0),(1,1))'"), (1, "'[(0,0),(1,1)]'"))),
    Kind("polygon", ("'((0,0),(1,1),(1,0))'",), ((0, "'((1,1),(1,0),(0,0))'"),)),
    Kind("circle", ("'<(0,0),1>'",), ((0, "'<(0,0),1.0000000000000002>'"),)),
    Kind("line", ("'{1,2,3}'",), ((0, "'{2,4,6}'"),)),
    Kind("int4range", ("'[1,5)'", "'empty'", "'(,5)'", "'(,)'"), ((0, "'[1,5]'"), (1, "'[9,10)'"), (2, "'(,6)'"), (3, "'empty'"))),
    Kind("numrange", ("'[1.0,2]'", "'[1.00,2)'"), ((0, "'[1.00,2]'"), (1, "'[1.00,2]'"))),
    Kind("tstzrange", ("'[2024-01-01 00:00+00,infinity)'", "'[2024-01-01 00:00+00,)'"), ((0, "'[2024-01-01 00:00+00,)'"), (1, "'(2024-01-01 00:00+00,)'"))),
    Kind("int4multirange", ("'{[1,2),[5,6)}'", "'{}'"), ((0, "'{[1,2),[5,7)}'"), (1, "'{[1,2)}'"))),
    Kind("nummultirange", ("'{[1.0,2)}'",), ((0, "'{[1,2)}'"),)),
    Kind("float_range", ("'[-0,1)'", "'[0.1,0.3]'"), ((0, "'[0,1)'"), (1, "'[0.1,0.30000000000000004]'"))),
    Kind("text_range", ("'[\"\",b)'", "'(,b)'"), ((0, "'(,b)'"), (1, "'[\"\",b)'"))),
    Kind("pg_lsn", ("'0/0'", "'FFFFFFFF/FFFFFFFF'"), ((0, "'0/1'"),)),
    Kind("xid8", ("'18446744073709551615'",), ((0, "'1'"),)),
    Kind("txid_snapshot", ("'10:20:10,14,15'",), ((0, "'10:20:10,14'"),)),
    Kind("oid", ("4294967295", "0"), ((0, "4294967294"),)),
    Kind("regclass", ("'pg_class'", "NULL"), ((0, "'pg_type'"),)),
    Kind("regtype[]", ("'{int4,text}'",), ((0, "'{int8,text}'"),)),
    Kind("mood", ("'calm'", "'it''s'", "'Ünruhig'", "NULL"), ((0, "'it''s'"), (2, "NULL"))),
    Kind("mood[]", ("'{calm,NULL}'", "'{}'", "NULL", "'{{calm},{it''s}}'"), ((0, "'{calm}'"), (1, "NULL"), (2, "'{}'"), (3, "'{{it''s},{calm}}'"))),
    Kind("int[]", ("'{1,2}'", "'[0:1]={1,2}'", "'{}'", "'{{1,2},{3,4}}'", "'{NULL}'"),
         ((0, "'[0:1]={1,2}'"), (1, "'{1,2}'"), (2, "'{NULL}'"), (3, "'{1,2,3,4}'"), (4, "'{}'"))),
    Kind("text[]", ("'{\"\",NULL,\"NULL\"}'", "'{\"a,b\",\"c\"}'", "'{\"{}\"}'"),
         ((0, "'{\"\",NULL,NULL}'"), (0, "'{NULL,NULL,\"NULL\"}'"), (1, "'{a,\"b,c\"}'"), (2, "'{}'"))),
    Kind("numeric[]", ("'{1.0,1.00,NaN}'",), ((0, "'{1.00,1.0,NaN}'"),)),
    Kind("float8[]", ("'{-0,0.30000000000000004}'",), ((0, "'{0,0.30000000000000004}'"), (0, "'{-0,0.3}'"))),
    Kind("interval[]", ("'{1 mon,30 days}'",), ((0, "'{30 days,1 mon}'"),)),
    Kind("part", ("'(,)'", "'(,\"\")'", "'(1,\"q\"\"(\")'", "NULL", "ROW(1, '1,2')"),
         ((0, "'(,\"\")'"), (1, "'(,)'"), (2, "'(1,\"q(\")'"), (0, "NULL"), (3, "'(,)'"))),
    Kind("nested", ("ROW(ROW(1, 'x'), ARRAY[ROW(2, 'y')::part], 'calm')", "ROW(NULL, '{}', NULL)"),
         ((0, "ROW(ROW(1, 'x'), ARRAY[ROW(2, 'Y')::part], 'calm')"), (1, "ROW(ROW(NULL, NULL), '{}', NULL)"), (1, "ROW(NULL, NULL, NULL)"))),
    Kind("positive", ("1.0", "NULL"), ((0, "1.00"), (1, "1"))),
    Kind("moods", ("'{calm}'", "NULL"), ((0, "'{calm,calm}'"),)),
)  # fmt: skip
# Of extensions, which Debian's packages bring.
EXTENSIONS = ("hstore", "ltree", "citext", "cube", "seg", "isn", "intarray", "postgis")
EXTENSION_KINDS = (
    Kind("ext.hstore", ("'a=>1, b=>NULL'", "'a=>\"NULL\"'", "''", "'\"\"=>\"\"'"),
         ((0, "'a=>1, b=>\"NULL\"'"), (1, "'a=>NULL'"), (2, "NULL"), (3, "''"), (0, "'a=>1'"))),
    Kind("ext.ltree", ("'Top.Science'", "''"), ((0, "'Top.science'"), (1, "NULL"))),
    Kind("ext.lquery", ("'*.a|b'",), ((0, "'*.b|a'"),)),
    Kind("ext.citext", ("'Straße'", "'STRASSE'", "''"), ((0, "'straße'"), (1, "'STRASSe'"), (2, "NULL"))),
    Kind("ext.cube", ("'(0.30000000000000004, -0)'", "'(1),(2)'"), ((0, "'(0.3, -0)'"), (0, "'(0.30000000000000004, 0)'"), (1, "'(2),(1)'"))),
    Kind("ext.seg", ("'6.50'", "'~5'", "'1..2'"), ((0, "'6.5'"), (1, "'5'"), (2, "'1..2.0'"))),
    Kind("ext.ean13", ("'978-0-393-04002-9'",), ((0, "'978-0-393-04003-6'"),)),
    Kind("ext.geometry", ("'POINT(0.30000000000000004 -0)'", "'SRID=4326;POINT(1 2)'", "'POINT EMPTY'", "'LINESTRING(0 0,1 1)'", "'POINT Z (1 2 NaN)'",
                          "'POLYGON((0 0,0 1,1 1,0 0))'", "NULL"),
         ((0, "'POINT(0.3 -0)'"), (0, "'POINT(0.30000000000000004 0)'"), (1, "'SRID=3857;POINT(1 2)'"), (1, "'POINT(1 2)'"), (2, "NULL"),
          (3, "'LINESTRING(1 1,0 0)'"), (5, "'POLYGON((0 0,1 1,0 1,0 0))'"), (2, "'LINESTRING EMPTY'"))),
    Kind("ext.geometry(Point,4326)", ("'SRID=4326;POINT(1 2)'",), ((0, "'SRID=4326;POINT(1 2.0000000000000004)'"),)),
    Kind("ext.geography", ("'POINT(13.4 52.5)'",), ((0, "'POINT(13.4 52.500000000000007)'"),)),
    # PostGIS prints a box with 15 digits, so no tool that copies text sees more of it.
    Kind("ext.box3d", ("'BOX3D(0 0 0,1 1 1)'",), ((0, "'BOX3D(0 0 0,1 1 1.00000000000001)'"),)),
    Kind("ext.ltree[]", ("'{a.b,NULL}'",), ((0, "'{a.b}'"),)),
)  # fmt: skip
VECTOR_KINDS = (
    Kind("ext.vector", ("'[1,-0,1e-45]'", "'[1.1,2,3]'"), ((0, "'[1,0,1e-45]'"), (0, "'[1,-0,0]'"), (1, "'[1.1000001,2,3]'"))),
    Kind("ext.vector(3)", ("'[1,2,3]'", "NULL"), ((0, "'[1,2,3.0000002]'"), (1, "'[0,0,0]'"))),
    Kind("ext.halfvec", ("'[1,2.5]'",), ((0, "'[1,2.502]'"),)),
    Kind("ext.sparsevec", ("'{1:1,3:2}/5'",), ((0, "'{1:1,3:2}/6'"),)),
    Kind("ext.vector[]", ("ARRAY['[1,2]'::ext.vector]",), ((0, "ARRAY['[1,2]'::ext.vector, NULL]"),)),
)


def made(pair: Pair, kinds: tuple[Kind, ...]) -> None:
    """A table t0, t1 ... for each kind: in it each value has a row, and some rows hold NULL."""
    for number, kind in enumerate(kinds):
        pair.on_both(f"CREATE TABLE t{number} (id int PRIMARY KEY, note text, v {kind.type})")
        rows = ", ".join(f"({place}, 'n', CAST({value} AS {kind.type}))" for place, value in enumerate(kind.values))
        pair.on_source(f"INSERT INTO t{number} VALUES {rows}", f"INSERT INTO t{number} SELECT g FROM generate_series(100, 120) g")


def set_value(number: int, kind: Kind, row: int, value: str) -> str:
    return f"UPDATE t{number} SET v = CAST({value} AS {kind.type}) WHERE id = {row}"


def spoil_each(pair: Pair, kinds: tuple[Kind, ...], hashes: tuple[str | None, ...] = (None, "text", "md5", "sha256")) -> None:
    """Round by round, spoil one value of each table: the proof names its row and column, nothing else, under one hash after the other."""
    rounds = max(len(kind.spoiled) for kind in kinds)
    for step in range(rounds):
        here = {number: kind for number, kind in enumerate(kinds) if step < len(kind.spoiled)}
        pair.on_target(*(set_value(number, kind, *kind.spoiled[step]) for number, kind in here.items()))
        touched = Selection.from_args(include=[f"public.t{number}" for number in here])
        result = verify(pair.source, pair.target, touched, hash=hashes[step % len(hashes)])
        found = {table.name: [(hit.key, hit.columns) for hit in table.changed] for table in result.tables if not table.equal}
        wanted = {f"public.t{number}": [({"id": str(kind.spoiled[step][0])}, ("v",))] for number, kind in here.items()}
        unlike = {name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)}
        assert not unlike, {
            (kinds[int(name.removeprefix("public.t"))].type, str(found.get(name)), str(wanted.get(name))) for name in unlike
        }
        assert all((table.missing_count, table.extra_count) == (0, 0) for table in result.tables)
        back = {number: kind.spoiled[step][0] for number, kind in here.items()}
        pair.on_target(*(set_value(number, kind, back[number], kind.values[back[number]]) for number, kind in here.items()))
    assert verify(pair.source, pair.target, ALL).equal


def test_case_14_values_arrive_as_they_are_and_each_spoiled_one_is_named(pair: Pair) -> None:
    pair.on_both(*TYPES)
    made(pair, KINDS)
    assert copy(pair.source, pair.target, ALL, workers=2).changed
    held = assert_same_rows(pair)
    assert len(held) == len(KINDS) and held["public.t0"][0] == len(KINDS[0].values) + 21
    spoil_each(pair, KINDS)


def test_case_14_values_of_extensions_arrive_as_they_are_and_each_spoiled_one_is_named(pair: Pair) -> None:
    pair.on_both("CREATE SCHEMA ext", *(f"CREATE EXTENSION {name} SCHEMA ext" for name in EXTENSIONS))
    made(pair, EXTENSION_KINDS)
    assert copy(pair.source, pair.target, ALL, workers=2).changed
    assert_same_rows(pair)
    spoil_each(pair, EXTENSION_KINDS)


@pytest.fixture(scope="module")
def vector_servers() -> Iterator[tuple[Server, Server]]:
    """Two servers of major 18 that have pgvector, which Debian's packages lack."""
    with pgservers.Fleet({"shared_buffers": "64MB"}) as fleet:
        source, target = fleet.start(source=pgservers.client_programs(), target=pgservers.client_programs())
        yield own(source), own(target)


def test_case_14_vectors_arrive_as_they_are_and_each_spoiled_one_is_named(vector_servers: tuple[Server, Server]) -> None:
    pair = Pair(*vector_servers, "postgres")
    pair.on_both("CREATE SCHEMA ext", "CREATE EXTENSION vector SCHEMA ext", "CREATE EXTENSION hstore SCHEMA ext")
    made(pair, VECTOR_KINDS)
    assert copy(pair.source, pair.target, ALL, workers=2).changed
    assert_same_rows(pair)
    spoil_each(pair, VECTOR_KINDS)


def test_case_15_json_keeps_every_character_and_jsonb_its_meaning(pair: Pair) -> None:
    pair.on_both(
        "CREATE TABLE documents (id int PRIMARY KEY, j json, list json[], jb jsonb)",
        "CREATE TABLE loose (j json, jb jsonb)",  # json has no equality: without a key only its text tells rows apart
    )
    odd = '{ "a" : 1,\t"a":2,\n\r "b":[ ],"z":"\\u0000", "e":"\\u00e9\\ud83d\\ude00", "n":1.00E+2, "s":"\\/" }'
    with pair.source_server.connect(pair.dbname) as conn:
        conn.execute(
            'INSERT INTO documents VALUES (1, %(j)s, ARRAY[%(j)s, NULL, \'null\']::json[], \'{"b":1, "a":1.00, "b":2}\')', {"j": odd}
        )
        conn.execute(
            "INSERT INTO documents SELECT g, %s, NULL, jsonb_build_object('g', g) FROM generate_series(2, 50) g", (odd.replace(" ", "  "),)
        )
        conn.execute("INSERT INTO documents SELECT 51, ('[' || repeat('1, ', 200000) || '1]')::json")
        conn.execute("INSERT INTO loose SELECT %s, '[]' FROM generate_series(1, 3)", (odd,))
        conn.execute("INSERT INTO loose VALUES ('1', NULL), (' 1', NULL), (NULL, 'null')")
    assert copy(pair.source, pair.target, ALL, workers=2).changed
    assert_same_rows(pair)
    assert pair.on_target("SELECT j::text, list[1]::text, list[3]::text FROM documents WHERE id = 1") == [(odd, odd, "null")]
    for strategy in (None, "text", "md5"):
        assert verify(pair.source, pair.target, ALL, hash=strategy).equal

    pair.on_target(
        "UPDATE documents SET j = replace(j::text, ', 1]', ',1]')::json WHERE id = 51",
        "UPDATE documents SET j = replace(j::text, '\\u0000', '')::json WHERE id = 7",
        "UPDATE documents SET list = ARRAY[list[1], 'null', 'null']::json[] WHERE id = 1",
        'UPDATE documents SET jb = \'{"a":1.0, "b":2}\' WHERE id = 1',
        "UPDATE loose SET j = '1 ' WHERE j::text = ' 1'",
        "UPDATE loose SET jb = NULL WHERE j IS NULL",
    )
    found = {table.name: table for table in verify(pair.source, pair.target, ALL).tables}
    named = {hit.key["id"]: hit.columns for hit in found["public.documents"].changed if hit.key}
    assert named == {"1": ("list", "jb"), "7": ("j",), "51": ("j",)} and found["public.documents"].changed_count == 3
    loose = found["public.loose"]
    assert (loose.missing_count, loose.extra_count) == (2, 2) and {hit.copies for hit in loose.missing} == {(1, 0)}


# Everything in which a session's settings can change what a value looks like, how it is read, or how statements run.
SETTINGS = {
    "timezone": ("'Asia/Kathmandu'", "'America/St_Johns'"),
    "datestyle": ("'German'", "'SQL, DMY'"),
    "extra_float_digits": ("-5", "0"),
    "bytea_output": ("'escape'", "'escape'"),
    "intervalstyle": ("'iso_8601'", "'sql_standard'"),
    "xmloption": ("'document'", "'document'"),
    "array_nulls": ("off", "off"),
    "quote_all_identifiers": ("on", "off"),
    "standard_conforming_strings": ("off", "off"),
    "client_encoding": ("'LATIN1'", "'LATIN1'"),
    "search_path": ("'nowhere'", "'public'"),
    "default_transaction_isolation": ("'serializable'", "'serializable'"),
    "statement_timeout": ("'300ms'", "'300ms'"),
}


def test_case_16_settings_of_roles_and_databases_change_neither_rows_nor_hashes(pair: Pair) -> None:
    pair.on_both(
        "CREATE TABLE told (id int PRIMARY KEY, at timestamptz, d date, f float8, f4 float4, b bytea, iv interval, x xml, names text[], c regclass, t text,"
        " m money, r tstzrange)",
        "CREATE TABLE plain (id int PRIMARY KEY, at timestamptz, d date, f float8, b bytea, iv interval, t text)",  # goes over in binary
    )
    pair.on_source(
        """INSERT INTO told SELECT g, '2024-01-02 03:04:05+00'::timestamptz + g * '1 day 1 us'::interval, '2024-03-02'::date + g,
           0.1::float8 + g * 0.2::float8, g / 7.0, decode(md5(g::text), 'hex'), g * '-1 mon 2 days 3.4 s'::interval, 'text <b/>',
           ARRAY[NULL, 'NULL', 'ü', ''], 'public.told', 'back\\slash ''ü😀', g, tstzrange('2024-01-02'::timestamptz + g * '1 day'::interval, NULL)
           FROM generate_series(1, 500) g""",
        "INSERT INTO plain SELECT id, at, d, f, b, iv, t FROM told",
    )
    role = "cutover_case_16"
    try:
        for server, side in ((pair.source_server, 0), (pair.target_server, 1)):
            server.execute(pair.dbname, f"CREATE ROLE {role} SUPERUSER LOGIN PASSWORD '{PASSWORD}'")
            server.execute(
                pair.dbname,
                *(f"ALTER ROLE {role} IN DATABASE {pair.dbname} SET {name} = {value[side]}" for name, value in SETTINGS.items()),
            )
        source, target = (server.endpoint(pair.dbname, user=role) for server in (pair.source_server, pair.target_server))
        assert copy(source, target, ALL, workers=2).changed
        assert_same_rows(pair)
        pair.on_target("UPDATE told SET f = 0.7 WHERE id = 3", 'UPDATE told SET names = \'{"NULL","NULL",ü,""}\' WHERE id = 4')
        for strategy in (None, "text", "md5", "sha256"):
            (told,) = (table for table in verify(source, target, ALL, hash=strategy).tables if not table.equal)
            assert {hit.key["id"]: hit.columns for hit in told.changed if hit.key} == {
                "3": ("f",),
                "4": ("names",),
            } and told.changed_count == 2
    finally:
        for server in (pair.source_server, pair.target_server):
            server.execute(pair.dbname, f"DROP OWNED BY {role} CASCADE", f"DROP ROLE {role}")
