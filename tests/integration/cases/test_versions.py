"""Moves between servers of different majors: schema, rows, sequences and proof, and differences that are found across versions."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import pipe, schema, schema_plan, sequences, session
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.copy import copy
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Selection
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.verify import matching, verify
from integration.cases.independent import assert_same_rows, contents
from integration.conftest import MajorPair, Pair
from integration.transfer.cases import ROWS, SCHEMA

ALL = Selection.from_args()
DIRECTIONS = ((14, 18), (14, 15), (15, 17), (16, 18), (17, 18))
EXTRA = (
    "CREATE SEQUENCE free_numbers AS int INCREMENT -3 MAXVALUE 100 MINVALUE -100 START 100 CACHE 5 CYCLE",
    "SELECT nextval('free_numbers') FROM generate_series(1, 7)",
    "CREATE INDEX ON text_key USING gin (value)",
    "CREATE INDEX ON ranged (note)",
    "ALTER TABLE pair_key ADD CONSTRAINT known FOREIGN KEY (a) REFERENCES wide_binary (id) NOT VALID",
    "ALTER TABLE wide_binary ADD CONSTRAINT told CHECK (t IS DISTINCT FROM 'never')",
    "CREATE VIEW shown AS SELECT id, t, f8 FROM wide_binary WHERE id > 0",
)
# {table: (statement that spoils one row, key of that row, column)}; the values are equal to the old ones under =, or nearly so.
PLANTED = {
    "wide": ("UPDATE wide SET n = 1.000 WHERE id = 1", "1", "n"),
    "wide_binary": ("UPDATE wide_binary SET f8 = '0' WHERE id = 3", "3", "f8"),
    "uuid_key": ("UPDATE uuid_key SET note = note || ' ' WHERE id = md5('17')::uuid", "70efdf2e-c9b0-8607-9795-c442636b55fb", "note"),
}
GONE = "DELETE FROM text_key WHERE code = 'key:5'"
DOUBLED = "INSERT INTO no_key SELECT * FROM no_key LIMIT 1"


def move(pair: Pair, clients: Path) -> None:
    options = schema_plan.Options(bin_dir=str(clients))
    assert schema.transfer(pair.source, pair.target, ALL, "pre_data", options).changed
    assert copy(pair.source, pair.target, ALL, workers=2).changed
    schema.transfer(pair.source, pair.target, ALL, "post_data", options)
    with (
        session.connect(pair.source, application_name="test sequences", read_only=True) as here,
        session.connect(pair.target, application_name="test sequences") as there,
    ):
        sequences.move(here, there, ALL)


def formats(pair: Pair) -> set[bool]:
    """Whether rows go over in binary, over all tables that have columns."""
    with (
        session.connect(pair.source, application_name="test formats", read_only=True) as here,
        session.connect(pair.target, application_name="test formats", read_only=True) as there,
    ):
        return {pipe.is_binary(one.written) for one in matching(here, there, ALL).pairs if one.written}


def sequence_positions(pair: Pair) -> list[list[tuple[object, ...]]]:
    facts = "sequencename, data_type::text, start_value, min_value, max_value, increment_by, cycle, cache_size, last_value"
    query = f"SELECT {facts} FROM pg_sequences WHERE schemaname = 'public' ORDER BY 1"
    return [pair.on_source(query), pair.on_target(query)]


@pytest.mark.parametrize("direction", DIRECTIONS, ids=lambda pair: f"{pair[0]}to{pair[1]}")
def test_move_between_majors_is_exact_and_differences_are_named(major_pair: MajorPair, clients: Path, direction: tuple[int, int]) -> None:
    pair = major_pair(*direction)
    pair.on_source(*SCHEMA, *ROWS, *EXTRA)
    move(pair, clients)

    held = assert_same_rows(pair)
    assert held["public.wide"][0] == 3004 and held["public.child"][0] == 70
    assert formats(pair) == {True, False}
    ours, theirs = sequence_positions(pair)
    assert ours == theirs and len(ours) == 2
    result = verify(pair.source, pair.target, ALL)
    assert result.equal and sum(table.rows for table in result.tables) == sum(rows for rows, _digest in held.values())

    second = schema.transfer(pair.source, pair.target, ALL, "all", schema_plan.Options(bin_dir=str(clients)))
    assert not second.changed and not copy(pair.source, pair.target, ALL, workers=1).changed, second.applied

    pair.on_target(*(statement for statement, _key, _column in PLANTED.values()), GONE, DOUBLED)
    found = {table.name: table for table in verify(pair.source, pair.target, ALL).tables if not table.equal}
    assert found.keys() == {"public.wide", "public.wide_binary", "public.uuid_key", "public.text_key", "public.no_key"}
    for name, (_statement, key, column) in PLANTED.items():
        table = found[f"public.{name}"]
        assert (table.missing_count, table.extra_count, table.changed_count) == (0, 0, 1)
        assert table.changed[0].key == {"id": key} and table.changed[0].columns == (column,)
    assert found["public.text_key"].missing_count == 1 and (found["public.text_key"].missing[0].key or {})["code"] == "key:5"
    assert found["public.no_key"].extra_count == 1
    assert {name for name, digest in contents(pair.target_server, pair.dbname).items() if digest != held[name]} == found.keys()


# What only the newest major has; the rows and the catalogue must be the same on another server of it.
NEWEST = (
    "CREATE TABLE computed (id int PRIMARY KEY, a int CONSTRAINT a_given NOT NULL, doubled int GENERATED ALWAYS AS (a * 2) VIRTUAL,"
    " shown text GENERATED ALWAYS AS ('a ' || a) STORED)",
    "CREATE TABLE during (room int, at daterange, note text, CONSTRAINT one_at_a_time PRIMARY KEY (room, at WITHOUT OVERLAPS))",
    "CREATE TABLE once (a int, b text, UNIQUE NULLS NOT DISTINCT (a, b))",
    "ALTER TABLE once ADD CONSTRAINT b_given CHECK (b <> '') NOT ENFORCED",
    "CREATE TABLE sevens (id uuid PRIMARY KEY DEFAULT uuidv7(), t text COLLATE pg_c_utf8)",
    "INSERT INTO computed (id, a) SELECT g, g FROM generate_series(1, 200) g",
    "INSERT INTO during SELECT g, daterange('2024-01-01'::date + g, '2024-02-01'::date + g), 'r' FROM generate_series(1, 20) g",
    "INSERT INTO once VALUES (NULL, NULL), (NULL, ''), (1, NULL)",
    "INSERT INTO sevens (t) SELECT 'ü' || g FROM generate_series(1, 50) g",
)


def test_what_only_the_newest_major_has_moves_to_another_server_of_it(major_pair: MajorPair, clients: Path) -> None:
    pair = major_pair(18, 18)
    pair.on_source("CREATE EXTENSION btree_gist", *NEWEST)
    move(pair, clients)
    held = assert_same_rows(pair)
    assert held["public.computed"][0] == 200 and held["public.once"][0] == 3
    assert verify(pair.source, pair.target, ALL).equal
    facts = (
        "SELECT conrelid::regclass::text, conname, contype, convalidated, conenforced, conperiod, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2"
    )
    assert pair.on_source(facts) == pair.on_target(facts)
    generated = "SELECT attname, attgenerated FROM pg_attribute WHERE attrelid = 'computed'::regclass AND attgenerated <> '' ORDER BY 1"
    assert pair.on_target(generated) == [("doubled", "v"), ("shown", "s")]

    pair.on_target(
        "UPDATE computed SET a = 0 WHERE id = 3", "UPDATE during SET note = NULL WHERE room = 4", "DELETE FROM once WHERE b = ''"
    )
    found = {table.name: table for table in verify(pair.source, pair.target, ALL).tables if not table.equal}
    assert found.keys() == {"public.computed", "public.during", "public.once"}
    assert found["public.computed"].changed[0].columns == ("a", "doubled", "shown")
    assert found["public.during"].changed[0].columns == ("note",) and found["public.once"].missing_count == 1
