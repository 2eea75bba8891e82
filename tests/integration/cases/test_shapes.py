"""Shapes of tables that copies lose rows of: each is copied exactly, proved equal, and a planted difference in it is named."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import preflight, sequences, session
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.copy import copy
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Selection
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.verify import VerifiedTable, verify
from integration.cases.independent import assert_same_rows
from integration.conftest import Pair, Server

ALL = Selection.from_args()
SMALL = 256 * 1024


def differing(pair: Pair) -> dict[str, VerifiedTable]:
    """{table: what the proof says} of the tables that it finds different."""
    return {table.name.removeprefix("public."): table for table in verify(pair.source, pair.target, ALL).tables if not table.equal}


def counts(table: VerifiedTable) -> tuple[int, int, int]:
    return table.missing_count, table.extra_count, table.changed_count


def moved(pair: Pair, chunk_bytes: int = SMALL) -> dict[str, tuple[int, int]]:
    """Copy with two workers in small pieces and compare independently; {table: (rows, digest)}."""
    assert copy(pair.source, pair.target, ALL, workers=2, chunk_bytes=chunk_bytes).changed
    held = assert_same_rows(pair)
    assert differing(pair) == {}
    return held


@pytest.mark.parametrize("analyzed", [True, False], ids=["key_ranges", "blocks"])
def test_case_01_the_table_with_most_bytes_is_split_evenly_and_keeps_all_workers_busy(pair: Pair, analyzed: bool) -> None:
    small = [f"CREATE TABLE small_{number} (id int PRIMARY KEY, note text)" for number in range(119)]
    fill = [f"INSERT INTO small_{number} SELECT g, 'note ' || g FROM generate_series(1, 60) g" for number in range(119)]
    pair.on_both("; ".join(small), "CREATE TABLE big (id bigint PRIMARY KEY, filler text)")
    # Three islands of keys with nothing between them, far apart: halves of the key's range would give one worker everything.
    islands = " UNION ALL ".join(
        f"SELECT {start} + g AS k FROM generate_series(1, {rows}) g"
        for start, rows in ((0, 60000), (4 * 10**9, 3000), (9223372036854 * 10**6, 37000))
    )
    pair.on_source("; ".join(fill), f"INSERT INTO big SELECT k, repeat('f', 150) FROM ({islands}) i ORDER BY k")
    if analyzed:
        pair.on_source("ANALYZE big")
    assert copy(pair.source, pair.target, ALL, workers=2, chunk_bytes=2 * 1024 * 1024).changed
    held = assert_same_rows(pair)
    assert held["public.big"][0] == 100000 and len(held) == 120 and differing(pair) == {}
    pieces = pair.on_target(
        "SELECT rows, kind, seconds, extract(epoch FROM finished)::float8 FROM cutover.chunk WHERE source_table = 'big'"
    )
    rows = [piece[0] for piece in pieces]
    assert {piece[1] for piece in pieces} == {"key" if analyzed else "blocks"}
    assert len(rows) >= 8 and sum(rows) == 100000 and max(rows) < 2 * sum(rows) / len(rows), rows
    # Two pieces were on their way nearly all the time: added up, they took much longer than the table did.
    span = max(piece[3] for piece in pieces) - min(piece[3] - piece[2] for piece in pieces)
    assert sum(piece[2] for piece in pieces) > 1.4 * span


@pytest.fixture
def icu_pair(servers: tuple[Server, Server]) -> Iterator[Pair]:
    """A source that sorts and compares by ICU, a target that does by bytes."""
    name = "case_icu"
    locales = ("LOCALE_PROVIDER icu ICU_LOCALE 'de-DE'", "LOCALE 'C'")
    for server, locale in zip(servers, locales, strict=True):
        server.execute("postgres", f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' {locale}")
    try:
        yield Pair(*servers, name)
    finally:
        for server in servers:
            server.execute("postgres", f"DROP DATABASE {name} WITH (FORCE)")


def test_case_02_text_and_uuid_keys_under_different_collations_lose_no_row(icu_pair: Pair) -> None:
    pair = icu_pair
    pair.on_both(
        "CREATE TABLE words (word text PRIMARY KEY, note text)",
        "CREATE TABLE ids (id uuid PRIMARY KEY, note text)",
        "CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
        "CREATE TABLE tags (tag varchar(40), lang char(2), note text, PRIMARY KEY (tag, lang))",
    )
    pair.on_source(
        """INSERT INTO words SELECT w || g, 'n' || g FROM unnest(ARRAY['strasse', 'Strasse', 'STRASSE', 'straße', 'Ärger', 'ärger', 'arger',
           E'a\\u0308rger', 'éa', 'ea', 'Ea', '😀', '😀😀', ' x', 'x', 'x ', '_x', '-x', '', 'ǆ', 'Ǆ']) w, generate_series(1, 120) g""",
        "INSERT INTO ids SELECT md5(g::text)::uuid, g FROM generate_series(1, 3000) g",
        "INSERT INTO tags SELECT w || g, l, w FROM unnest(ARRAY['Tag', 'tag', 'Tág', 'täg']) w, unnest(ARRAY['DE', 'de', 'd']) l, generate_series(1, 50) g",
        "ANALYZE",
    )
    order = "SELECT string_agg(word, ',' ORDER BY word) FROM words WHERE word ~ '1$'"
    assert pair.on_source(order) != pair.on_target(order)
    held = moved(pair, chunk_bytes=32 * 1024)
    assert pair.on_source(order) != pair.on_target(order)
    assert held["public.words"][0] == 21 * 120 and pair.on_target("SELECT count(*) FROM cutover.chunk WHERE source_table = 'words'") > [
        (1,)
    ]

    pair.on_target("DELETE FROM words WHERE word = 'Strasse7'", "UPDATE words SET word = E'a\\u0308rger7000' WHERE word = 'ärger7'")
    found = differing(pair)
    assert found.keys() == {"words"} and counts(found["words"]) == (2, 1, 0)
    assert {hit.key["word"] for hit in found["words"].missing if hit.key} == {"Strasse7", "ärger7"}
    assert [hit.key for hit in found["words"].extra] == [{"word": "a\u0308rger7000"}]


def test_case_05_a_table_without_key_is_reported_beforehand_and_stays_writable_for_the_application(pair: Pair) -> None:
    pair.on_both("CREATE TABLE nopk (a int, b text)", "CREATE TABLE keyed (id int PRIMARY KEY)")
    pair.on_source("INSERT INTO nopk SELECT g % 5, 'same' FROM generate_series(1, 15) g")
    findings = preflight.preflight(pair.source, pair.target, ALL, preflight.Wish()).findings
    told = [f"{one.problem}: {one.fix}" for one in findings if one.object == "public.nopk"]
    assert any("has no key" in text and "ADD PRIMARY KEY" in text for text in told)
    assert any("updates and deletes" in text and "REPLICA IDENTITY FULL" in text for text in told), told

    identity = "SELECT relname::text, relreplident::text FROM pg_class WHERE relname IN ('nopk', 'keyed') ORDER BY 1"
    before = pair.on_source(identity)
    moved(pair)
    # The copy leaves neither a publication nor another replica identity behind, so the application's writes go on working.
    assert pair.on_source("SELECT count(*) FROM pg_publication") == [(0,)] and pair.on_source(identity) == before
    one = "ctid = (SELECT min(ctid) FROM nopk WHERE a = 3)"
    pair.on_source(f"UPDATE nopk SET b = 'other' WHERE {one}", "DELETE FROM nopk WHERE ctid = (SELECT min(ctid) FROM nopk WHERE a = 4)")
    assert pair.on_source("SELECT a, b, count(*) FROM nopk WHERE a >= 3 GROUP BY 1, 2 ORDER BY 1, 2") == [
        (3, "other", 1),
        (3, "same", 2),
        (4, "same", 2),
    ]
    found = differing(pair)
    assert found.keys() == {"nopk"} and counts(found["nopk"]) == (1, 2, 0)
    assert {hit.copies for hit in found["nopk"].extra} == {(2, 3)} and [hit.copies for hit in found["nopk"].missing] == [(1, 0)]


def test_case_06_tables_without_columns_without_rows_and_with_dropped_columns(pair: Pair) -> None:
    pair.on_both(
        "CREATE TABLE nothing ()",
        "CREATE TABLE bare ()",
        "CREATE TABLE empty (id int PRIMARY KEY, note text)",
        "CREATE TABLE emptied (a int, b text)",
        "CREATE TABLE holes (a int, id int PRIMARY KEY, b text, c bytea, d text)",
    )
    pair.on_source(*["INSERT INTO bare DEFAULT VALUES"] * 5, "INSERT INTO emptied SELECT g, g FROM generate_series(1, 40) g")
    pair.on_source("INSERT INTO holes SELECT g, g, 'b' || g, '\\x00', 'd' || g FROM generate_series(1, 500) g")
    pair.on_both("ALTER TABLE emptied DROP a, DROP b", "ALTER TABLE holes DROP c")
    # Dropped in another order and with another number of holes: columns go by name, not by place.
    pair.on_source("ALTER TABLE holes DROP a")
    pair.on_target("ALTER TABLE holes DROP a, DROP b, ADD b text")
    held = moved(pair)
    assert {name: rows for name, (rows, _digest) in held.items()} == {
        "public.nothing": 0, "public.bare": 5, "public.empty": 0, "public.emptied": 40, "public.holes": 500
    }  # fmt: skip

    pair.on_target("INSERT INTO nothing DEFAULT VALUES", "DELETE FROM bare WHERE ctid = '(0,1)'", "INSERT INTO empty VALUES (1, NULL)")
    pair.on_target("DELETE FROM emptied WHERE ctid < '(0,3)'", "UPDATE holes SET b = d, d = b WHERE id = 77")
    found = differing(pair)
    assert {name: counts(table) for name, table in found.items()} == {
        "nothing": (0, 1, 0), "bare": (1, 0, 0), "empty": (0, 1, 0), "emptied": (2, 0, 0), "holes": (0, 0, 1)
    }  # fmt: skip
    assert found["holes"].changed[0].columns == ("b", "d")


def test_case_07_tables_of_130_and_of_1600_columns(pair: Pair) -> None:
    kinds = ("int", "smallint", "bool", "text", '"char"')
    for name, width in (("wide_130", 130), ("wide_1600", 1600)):
        columns = ", ".join(f"c{number} {kinds[number % 5]}" for number in range(1, width))
        values = ", ".join(
            ("g", "(g % 999)", "g % 2 = 0", "CASE WHEN g % 2 = 0 THEN 'x' END", "'y'")[number % 5] for number in range(1, width)
        )
        pair.on_both(f"CREATE TABLE {name} (id int PRIMARY KEY, {columns})")
        pair.on_source(f"INSERT INTO {name} SELECT g, {values} FROM generate_series(1, 40) g")
    pair.on_both(f"CREATE TABLE keyless_1600 ({', '.join(f'c{number} smallint' for number in range(1600))})")
    pair.on_source(f"INSERT INTO keyless_1600 SELECT {', '.join(['g'] * 1600)} FROM generate_series(1, 10) g")
    moved(pair)

    pair.on_target("UPDATE wide_1600 SET c1599 = '', c3 = NULL WHERE id = 5", "UPDATE wide_130 SET c128 = NULL WHERE id = 6")
    pair.on_target("UPDATE wide_1600 SET c1597 = NOT c1597 WHERE id = 6", "UPDATE keyless_1600 SET c1599 = 99 WHERE c0 = 3")
    found = differing(pair)
    assert {name: counts(table) for name, table in found.items()} == {
        "wide_130": (0, 0, 1), "wide_1600": (0, 0, 2), "keyless_1600": (1, 1, 0)
    }  # fmt: skip
    assert found["wide_130"].changed[0].key == {"id": "6"} and found["wide_130"].changed[0].columns == ("c128",)
    assert {hit.key["id"]: hit.columns for hit in found["wide_1600"].changed if hit.key} == {"5": ("c1599",), "6": ("c1597",)}


def test_case_08_generated_and_identity_columns_are_taken_as_they_are(pair: Pair) -> None:
    pair.on_both(
        """CREATE TABLE priced (
             id bigint GENERATED ALWAYS AS IDENTITY (START 100 INCREMENT 7) PRIMARY KEY,
             other int GENERATED BY DEFAULT AS IDENTITY,
             net numeric(12, 4), gross numeric GENERATED ALWAYS AS (net * 1.19) STORED, name text,
             shout text GENERATED ALWAYS AS (upper(name)) STORED)""",
        "CREATE TABLE by_generated (raw text NOT NULL, code text GENERATED ALWAYS AS (lower(raw)) STORED PRIMARY KEY)",
        "CREATE TABLE only_generated (g int GENERATED ALWAYS AS (1 + 1) STORED)",
    )
    pair.on_source(
        "INSERT INTO priced (net, name) SELECT g / 7.0, 'straße ' || g FROM generate_series(1, 2000) g",
        "INSERT INTO priced (id, other, net) OVERRIDING SYSTEM VALUE VALUES (-5, 70000, 1.00), (3, -1, NULL)",
        "DELETE FROM priced WHERE id BETWEEN 500 AND 900",
        "INSERT INTO by_generated SELECT 'Key ' || g FROM generate_series(1, 300) g",
        *["INSERT INTO only_generated DEFAULT VALUES"] * 3,
    )
    moved(pair)
    with (
        session.connect(pair.source, application_name="test", read_only=True) as here,
        session.connect(pair.target, application_name="test") as there,
    ):
        assert len(sequences.move(here, there, ALL).changed) == 2
    insert = "INSERT INTO priced (net, name) VALUES (2, 'after') RETURNING id, other, gross, shout"
    assert pair.on_source(insert) == pair.on_target(insert)
    with pytest.raises(session.psycopg.errors.GeneratedAlways):
        pair.on_target("INSERT INTO priced (id) VALUES (1)")
    assert differing(pair) == {}

    # A generated column that says something else on the target is a difference of its own.
    pair.on_target("ALTER TABLE priced DROP gross", "ALTER TABLE priced ADD gross numeric GENERATED ALWAYS AS (net * 1.190) STORED")
    found = differing(pair)
    assert found.keys() == {"priced"} and {hit.columns for hit in found["priced"].changed} == {("gross",)}
    assert found["priced"].changed_count == pair.on_source("SELECT count(*) FROM priced WHERE net IS NOT NULL")[0][0]


PARTITIONED = (
    "CREATE TYPE colour AS ENUM ('red', 'green', 'blue')",
    "CREATE TABLE events (id bigint, at date, kind text, colour colour, note text, PRIMARY KEY (id, at, kind)) PARTITION BY RANGE (at)",
    "CREATE TABLE listed (id int, region text, n int) PARTITION BY LIST (region)",
    "CREATE TABLE hashed (colour colour, id int, note text) PARTITION BY HASH (colour)",
    "CREATE TABLE same (id int PRIMARY KEY, note text) PARTITION BY RANGE (id)",
    "CREATE TABLE same_a PARTITION OF same FOR VALUES FROM (0) TO (100)",
    "CREATE TABLE same_b PARTITION OF same DEFAULT",
    "CREATE TABLE leafless (id int) PARTITION BY RANGE (id)",
)
SOURCE_LAYOUT = (
    "CREATE TABLE events_24 PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01') PARTITION BY LIST (kind)",
    "CREATE TABLE events_24_a PARTITION OF events_24 FOR VALUES IN ('a', 'b')",
    "CREATE TABLE events_24_rest PARTITION OF events_24 DEFAULT",
    "CREATE TABLE events_25 PARTITION OF events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')",
    "CREATE TABLE listed_eu PARTITION OF listed FOR VALUES IN ('de', 'fr', NULL)",
    "CREATE TABLE listed_rest PARTITION OF listed DEFAULT",
    *(f"CREATE TABLE hashed_{n} PARTITION OF hashed FOR VALUES WITH (MODULUS 3, REMAINDER {n})" for n in range(3)),
)
TARGET_LAYOUT = (
    "CREATE TABLE events_all PARTITION OF events DEFAULT PARTITION BY HASH (id)",
    *(f"CREATE TABLE events_h{n} PARTITION OF events_all FOR VALUES WITH (MODULUS 4, REMAINDER {n})" for n in range(4)),
    "CREATE TABLE listed_de PARTITION OF listed FOR VALUES IN ('de')",
    "CREATE TABLE listed_other PARTITION OF listed DEFAULT",
    *(f"CREATE TABLE hashed_{n} PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER {n})" for n in range(2)),
)


@pytest.mark.parametrize("target_layout", [SOURCE_LAYOUT, TARGET_LAYOUT], ids=["same_layout", "other_layout"])
def test_case_09_partitions_of_every_kind_arrive_once_whatever_the_layout(pair: Pair, target_layout: tuple[str, ...]) -> None:
    pair.on_source(*PARTITIONED, *SOURCE_LAYOUT)
    # Other OIDs of the enum's labels: hash partitions of the same name hold other rows on the target.
    pair.on_target("CREATE TYPE earlier AS ENUM ('x', 'y')", *PARTITIONED, *target_layout)
    pair.on_source(
        """INSERT INTO events SELECT g, '2024-01-01'::date + g % 700, chr(97 + g % 4), (enum_range(NULL::colour))[1 + g % 3], 'n' || g
           FROM generate_series(1, 4000) g""",
        "INSERT INTO listed SELECT g, (ARRAY['de', 'fr', 'us', NULL])[1 + g % 4], g FROM generate_series(1, 1000) g",
        "INSERT INTO hashed SELECT (enum_range(NULL::colour))[1 + g % 3], g, 'h' || g FROM generate_series(1, 900) g",
        "INSERT INTO hashed VALUES (NULL, 0, 'null')",
        "INSERT INTO same SELECT g, 's' || g FROM generate_series(-50, 250) g",
    )
    held = moved(pair, chunk_bytes=64 * 1024)
    assert {name: rows for name, (rows, _digest) in held.items()} == {
        "public.events": 4000, "public.listed": 1000, "public.hashed": 901, "public.same": 301, "public.leafless": 0
    }  # fmt: skip
    assert not copy(pair.source, pair.target, ALL, workers=1).changed

    pair.on_target(
        "UPDATE events SET note = 'N5' WHERE id = 5",
        "DELETE FROM listed WHERE id = 4",
        "INSERT INTO hashed VALUES ('red', 1000000, NULL)",
        "DELETE FROM same WHERE id = -50",
    )
    found = differing(pair)
    same = target_layout is SOURCE_LAYOUT
    assert {name: counts(table) for name, table in found.items()} == {
        "events_24_a" if same else "events": (0, 0, 1),
        "listed_eu" if same else "listed": (1, 0, 0),
        "hashed": (0, 1, 0),
        "same_b": (1, 0, 0),
    }


def test_case_10_inheritance_counts_no_row_twice(pair: Pair) -> None:
    pair.on_both(
        "CREATE TABLE cities (id int PRIMARY KEY, name text)",
        "CREATE TABLE towers (height int)",
        "CREATE TABLE capitals (state text) INHERITS (cities)",
        "CREATE TABLE landmarks (PRIMARY KEY (id)) INHERITS (cities, towers)",
        "CREATE TABLE seats (seat text) INHERITS (capitals)",
    )
    pair.on_source(
        "INSERT INTO cities SELECT g, 'city ' || g FROM generate_series(1, 500) g",
        "INSERT INTO towers SELECT g FROM generate_series(1, 20) g",
        "INSERT INTO capitals SELECT g, 'capital ' || g, 'st' FROM generate_series(1, 200) g",
        "INSERT INTO landmarks SELECT g, 'landmark ' || g, g FROM generate_series(1, 100) g",
        "INSERT INTO seats SELECT g, 'seat ' || g, 'st', 's' FROM generate_series(1, 50) g",
    )
    held = moved(pair, chunk_bytes=8192)
    assert {name: rows for name, (rows, _digest) in held.items()} == {
        "public.cities": 500, "public.towers": 20, "public.capitals": 200, "public.landmarks": 100, "public.seats": 50
    }  # fmt: skip
    assert pair.on_target("SELECT count(*) FROM cities") == [(850,)]

    # The same row in the wrong member of the family: the parent's totals would be equal.
    pair.on_target("DELETE FROM ONLY capitals WHERE id = 9", "INSERT INTO cities VALUES (1009, 'capital 9')")
    found = differing(pair)
    assert {name: counts(table) for name, table in found.items()} == {"capitals": (1, 0, 0), "cities": (0, 1, 0)}
