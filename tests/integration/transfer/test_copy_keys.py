"""Foreign keys that a copy makes and proves: those of the source, once, never in anybody's way, and told when the rows break them."""

from __future__ import annotations

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import ledger, pipe, session
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.builds import ANALYZE, INDEX, LINK, PROVE, Build
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.chunks import Chunk
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.copy import copy
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.schema import transfer
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.schema_plan import Options
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Selection
from integration.conftest import Pair

ALL = Selection.from_args()
SCHEMA = (
    "CREATE TABLE top (id int PRIMARY KEY, code text NOT NULL UNIQUE)",
    "CREATE TABLE middle (id int PRIMARY KEY, top int REFERENCES top ON DELETE CASCADE, code text REFERENCES top (code) DEFERRABLE INITIALLY DEFERRED)",
    'CREATE TABLE "Low.er" (id int PRIMARY KEY, middle int CONSTRAINT "to ""middle""" REFERENCES middle, self int REFERENCES "Low.er")',
    "CREATE TABLE events (id int, at date, middle int REFERENCES middle, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)",
    "CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')",
    "CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
    "CREATE TABLE loose (id int PRIMARY KEY, top int, event int, at date, FOREIGN KEY (event, at) REFERENCES events (id, at))",
)
ROWS = (
    "INSERT INTO top SELECT g, 'c' || g FROM generate_series(1, 50) g",
    "INSERT INTO middle SELECT g, g % 50 + 1, 'c' || g % 50 + 1 FROM generate_series(1, 500) g",
    'INSERT INTO "Low.er" SELECT g, g % 500 + 1, nullif(g % 7, 0) FROM generate_series(1, 900) g',
    "INSERT INTO events SELECT g, '2025-12-01'::date + g % 60, g % 500 + 1 FROM generate_series(1, 900) g",
    "INSERT INTO loose VALUES (1, 999, 1, '2025-12-02')",
    "ALTER TABLE loose ADD CONSTRAINT broken FOREIGN KEY (top) REFERENCES top NOT VALID",
)
KEYS = """SELECT conrelid::regclass::text, conname::text, pg_get_constraintdef(oid), convalidated, condeferrable, condeferred, conparentid <> 0
 FROM pg_constraint WHERE contype = 'f' AND connamespace = 'public'::regnamespace ORDER BY 1, 2, 3, 7"""
OIDS = "SELECT conrelid::regclass::text || conname, oid::bigint FROM pg_constraint WHERE contype = 'f' AND connamespace = 'public'::regnamespace"


def prepared(pair: Pair, selection: Selection = ALL) -> None:
    """Tables on both sides, rows on the source."""
    pair.on_source(*SCHEMA, *ROWS)
    transfer(pair.source, pair.target, selection, "pre_data", Options())


def test_keys_are_those_of_the_source_and_nothing_of_them_is_left_to_do(pair: Pair) -> None:
    prepared(pair)
    result = copy(pair.source, pair.target, ALL, workers=3, chunk_bytes=8192)
    assert not result.warnings
    made = dict(pair.on_target(OIDS))
    assert set(made) == {
        "middlemiddle_top_fkey", "middlemiddle_code_fkey", '"Low.er"to "middle"', '"Low.er"Low.er_self_fkey', "events_1events_middle_fkey",
        "events_2events_middle_fkey", "loosebroken",
    }  # fmt: skip
    assert not copy(pair.source, pair.target, ALL, workers=2).changed
    done = transfer(pair.source, pair.target, ALL, "post_data", Options())
    assert not [what for what in done.applied if what.startswith("prove")], done.applied
    assert pair.on_target(KEYS) == pair.on_source(KEYS)
    # The partitions' own are taken as they are.
    after = dict(pair.on_target(OIDS))
    assert {name: after[name] for name in made} == made
    assert not copy(pair.source, pair.target, ALL, workers=2).changed
    assert not transfer(pair.source, pair.target, ALL, "post_data", Options()).changed


def test_what_the_rename_map_touches_and_what_stays_behind_is_left_out(pair: Pair) -> None:
    selection = Selection.from_args([], ["public.loose"], {"tables": {"public.middle": "centre"}})
    prepared(pair, selection)
    copy(pair.source, pair.target, selection, workers=2)
    assert pair.on_target("SELECT conname::text FROM pg_constraint WHERE contype = 'f' AND connamespace = 'public'::regnamespace") == [
        ("Low.er_self_fkey",)
    ]
    transfer(pair.source, pair.target, selection, "post_data", Options())
    assert pair.on_target("SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND confrelid = 'centre'::regclass AND convalidated") == [
        (4,)
    ]
    assert not copy(pair.source, pair.target, selection, workers=2).changed


@pytest.mark.parametrize(("table", "name"), [("middle", "middle_top_fkey"), ("events_2", "events_middle_fkey")])
def test_rows_that_break_a_key_are_told_by_the_copy_and_refused_by_the_schema(pair: Pair, table: str, name: str) -> None:
    prepared(pair)
    column = {"middle": "top", "events_2": "middle"}[table]
    rows = {"middle": "id = 7", "events_2": "id = 45"}[table]
    pair.on_source(f"SET session_replication_role = replica; UPDATE {table} SET {column} = 7777 WHERE {rows}")
    result = copy(pair.source, pair.target, ALL, workers=2)
    assert len(result.warnings) == 1 and f"public.{table}" in result.warnings[0] and "(7777) is not present" in result.warnings[0]
    with pytest.raises(TransferError, match=rf"{name}.*\(7777\) is not present") as caught:
        transfer(pair.source, pair.target, ALL, "post_data", Options())
    assert caught.value.details["kind"] == "constraint_violated"
    pair.on_both(f"SET session_replication_role = replica; UPDATE {table} SET {column} = 1 WHERE {rows}")
    transfer(pair.source, pair.target, ALL, "post_data", Options())
    assert pair.on_target(KEYS) == pair.on_source(KEYS)


def test_a_key_that_was_made_and_not_proved_is_proved_by_the_next_run(pair: Pair) -> None:
    prepared(pair)
    copy(pair.source, pair.target, ALL, workers=2)
    pair.on_target(
        "ALTER TABLE events_1 DROP CONSTRAINT events_middle_fkey",
        "ALTER TABLE events_1 ADD CONSTRAINT events_middle_fkey FOREIGN KEY (middle) REFERENCES middle NOT VALID",
    )
    assert copy(pair.source, pair.target, ALL, workers=2).changed
    assert pair.on_target("SELECT count(*) FROM pg_constraint WHERE conname = 'events_middle_fkey' AND convalidated") == [(2,)]


def test_a_key_waits_for_both_tables_and_its_proof_for_the_keys_that_refer_to_its_table(pair: Pair) -> None:
    """Claims against a real ledger, one after another, as a worker makes them."""
    with session.connect(pair.target, application_name="test") as conn:
        ledger.create(conn)
        with conn.transaction():
            run = ledger.open_run(conn, "source", "snapshot", "1:1:", None)
            chunk = Chunk("public", "parent", 0, 1, "whole", "", None, None, 1)
            ledger.plan(conn, run, [(9, chunk, ("public", "parent"), 1)])
            steps = [
                Build("public", "child", LINK, "", "", "link child", 1, needs=("public.parent",)),
                Build("public", "child", PROVE, "", "", "prove child", 1, needs=("public.parent",)),
                Build("public", "parent", INDEX, "i", "btree", "index", 1),
                Build("public", "parent", ANALYZE, "", "", "analyze", 1),
                Build("public", "parent", LINK, "", "", "link parent", 1, needs=("public.top",)),
                Build("public", "parent", PROVE, "", "", "prove parent", 1, needs=("public.top",)),
            ]
            ledger.plan_builds(conn, run, enumerate(steps))
        bare = pipe.bare(conn)

        def claimed() -> str | None:
            pipe.rows(bare, ledger.LOOK.format(run=run))
            found = pipe.rows(bare, ledger.CLAIM_BUILD.format(run=run, before=100))
            pipe.run(bare, "ROLLBACK")
            return found[0][5] if found else None

        def done(table: str, rank: int, name: str = "") -> None:
            names = {"schema": "'public'", "table": f"'{table}'", "rank": rank, "name": f"'{name}'"}
            pipe.run(bare, ledger.FINISH_BUILD.format(seconds=0, **names))

        assert claimed() is None
        pipe.run(bare, ledger.FINISH.format(rows=1, bytes=1, seconds=0, schema="'public'", table="'parent'", number=0))
        assert claimed() == "index"
        done("parent", INDEX, "i")
        assert claimed() == "analyze"
        done("parent", ANALYZE)
        assert claimed() == "link child"
        # The parent's own proof would lock the parent for as long as it takes: not before the child's key is made.
        done("parent", LINK)
        assert claimed() == "link child"
        done("child", LINK)
        assert claimed() == "prove child"
        done("child", PROVE)
        assert claimed() == "prove parent"
