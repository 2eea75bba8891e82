"""Hard schemas, whole: keys in circles, odd names, renames, roles and privileges, extensions, sequences, and other major versions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import schema, schema_plan, sequences, session
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.copy import copy
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Selection
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.verify import verify
from integration.conftest import MajorPair, Pair

ALL = Selection.from_args()
OPTIONS = schema_plan.Options()


def move(pair: Pair, selection: Selection = ALL, options: schema_plan.Options = OPTIONS) -> tuple[schema.Outcome, schema.Outcome]:
    """Everything over, and a second run of it that changes nothing."""
    first = schema.transfer(pair.source, pair.target, selection, "pre_data", options)
    copy(pair.source, pair.target, selection, workers=1)
    last = schema.transfer(pair.source, pair.target, selection, "post_data", options)
    again = schema.transfer(pair.source, pair.target, selection, "all", options)
    assert not again.changed, again.applied
    return first, last


def both(pair: Pair, query: str) -> None:
    """The query has an answer, the same on both sides."""
    mine, other = pair.on_source(query), pair.on_target(query)
    assert mine and mine == other


FOREIGN_KEYS = """SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), convalidated, condeferrable, condeferred
 FROM pg_constraint WHERE contype = 'f' AND conparentid = 0 AND connamespace = 'public'::regnamespace ORDER BY 1, 2"""
CIRCLE = (
    "CREATE TABLE a (id int PRIMARY KEY, b int)",
    "CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a DEFERRABLE INITIALLY DEFERRED)",
    "ALTER TABLE a ADD CONSTRAINT to_b FOREIGN KEY (b) REFERENCES b DEFERRABLE",
    "CREATE TABLE tree (id int PRIMARY KEY, parent int REFERENCES tree ON DELETE CASCADE)",
    "CREATE TABLE part (id int, tree int REFERENCES tree, PRIMARY KEY (id)) PARTITION BY RANGE (id)",
    "CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (100)",
    "CREATE TABLE loose (id int PRIMARY KEY, tree int, part int)",
    "INSERT INTO tree VALUES (1, 1), (2, 1), (3, 2)",
    "BEGIN; INSERT INTO b VALUES (1, 1); INSERT INTO a VALUES (1, 1); COMMIT",
    "INSERT INTO part VALUES (1, 3)",
    "INSERT INTO loose VALUES (1, 3, 1), (2, 99, 1)",
    "ALTER TABLE loose ADD CONSTRAINT broken FOREIGN KEY (tree) REFERENCES tree NOT VALID",
    "ALTER TABLE loose ADD CONSTRAINT to_part FOREIGN KEY (part) REFERENCES part",
    "ALTER TABLE loose ADD CONSTRAINT small CHECK (tree < 50) NOT VALID",
)


def test_case_11_foreign_keys_in_circles_and_not_valid_ones_stay_as_they_are(pair: Pair) -> None:
    pair.on_source(*CIRCLE)
    _first, last = move(pair)
    both(pair, FOREIGN_KEYS)
    assert pair.on_target("SELECT conname FROM pg_constraint WHERE NOT convalidated ORDER BY 1") == [("broken",), ("small",)]
    told = {name for name, note in last.notes if "NOT VALID" in note}
    assert told == {"table constraint broken on public.loose", "table constraint small on public.loose"}
    with pytest.raises(Exception, match='violates foreign key constraint "broken"'):
        pair.on_target("INSERT INTO loose VALUES (3, 40, 1)")


def test_a_key_that_its_rows_break_is_named_the_others_are_proved_and_the_next_run_ends_it(pair: Pair) -> None:
    pair.on_source(*CIRCLE, "SET session_replication_role = replica; UPDATE tree SET parent = 77 WHERE id = 3")
    schema.transfer(pair.source, pair.target, ALL, "pre_data", OPTIONS)
    copy(pair.source, pair.target, ALL, workers=1)
    with pytest.raises(TransferError, match=r"tree_parent_fkey.*\(77\) is not present") as caught:
        schema.transfer(pair.source, pair.target, ALL, "post_data", OPTIONS)
    assert caught.value.details["kind"] == "constraint_violated" and len(caught.value.details["broken"]) == 1
    assert pair.on_target("SELECT conname FROM pg_constraint WHERE contype = 'f' AND NOT convalidated ORDER BY 1") == [
        ("broken",),
        ("tree_parent_fkey",),
    ]
    pair.on_both("SET session_replication_role = replica; UPDATE tree SET parent = 1 WHERE id = 3")
    done = schema.transfer(pair.source, pair.target, ALL, "post_data", OPTIONS)
    assert done.applied == ("prove ALTER TABLE public.tree VALIDATE CONSTRAINT tree_parent_fkey",)
    both(pair, FOREIGN_KEYS)


def test_keys_and_indexes_that_the_copy_has_built_are_taken_over(pair: Pair) -> None:
    pair.on_source(
        "CREATE TABLE plain (id int, code text NOT NULL, note text, CONSTRAINT plain_pkey PRIMARY KEY (id))",
        "ALTER TABLE plain ADD CONSTRAINT plain_code UNIQUE (code) DEFERRABLE INITIALLY DEFERRED",
        "CREATE INDEX plain_note ON plain (lower(note))",
        "CREATE TABLE top (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)",
        "CREATE TABLE top_1 PARTITION OF top FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')",
        "CREATE TABLE top_2 PARTITION OF top FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
        "CREATE INDEX top_at ON top (at)",
        "INSERT INTO plain SELECT g, g, 'n' || g FROM generate_series(1, 500) g",
        "INSERT INTO top SELECT g, '2025-06-01'::date + g FROM generate_series(1, 400) g",
    )
    schema.transfer(pair.source, pair.target, ALL, "pre_data", OPTIONS)
    for table in ("plain", "top"):
        rows = pair.on_source(f"SELECT * FROM {table}")
        with pair.target_server.connect(pair.dbname) as conn:
            conn.cursor().executemany(f"INSERT INTO {table} VALUES ({', '.join(['%s'] * len(rows[0]))})", rows)
    # What a copy that was stopped in the middle leaves: a key, a bare unique index, an index, leaves of a partitioned table, statistics.
    pair.on_target(
        "CREATE UNIQUE INDEX plain_pkey ON plain (id)",
        "ALTER TABLE ONLY top_1 ADD CONSTRAINT top_1_pkey PRIMARY KEY (id, at)",
        "CREATE INDEX top_1_at_idx ON top_1 (at)",
        "CREATE INDEX plain_note ON plain (lower(note))",
        "ANALYZE plain",
    )
    before = dict(pair.on_target("SELECT relname::text, relfilenode::bigint FROM pg_class WHERE relkind = 'i'"))
    done = schema.transfer(pair.source, pair.target, ALL, "post_data", OPTIONS)
    assert not any("plain_note" in one or "top_1_at_idx" in one and not one.startswith("index attach") for one in done.applied)
    after = dict(pair.on_target("SELECT relname::text, relfilenode::bigint FROM pg_class WHERE relkind = 'i'"))
    assert before.items() <= after.items()
    both(
        pair,
        "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid), indisvalid, indisprimary FROM pg_index"
        " WHERE indrelid = ANY(ARRAY['plain', 'top', 'top_1', 'top_2']::regclass[]) ORDER BY 1",
    )
    both(
        pair,
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype IN ('p', 'u') AND connamespace = 'public'::regnamespace ORDER BY 1",
    )
    both(pair, "SELECT inhrelid::regclass::text, inhparent::regclass::text FROM pg_inherits ORDER BY 1")
    assert pair.on_target("SELECT count(DISTINCT tablename) FROM pg_stats WHERE schemaname = 'public'") == [(5,)]
    (analyzed,) = pair.on_target("SELECT pg_stat_get_analyze_count('plain'::regclass)")
    assert analyzed == (1,)
    assert not schema.transfer(pair.source, pair.target, ALL, "all", OPTIONS).changed


ODD = ("Mixed Case", "select", "naïve Ünïcode 😀", 'quote " in', "a.b;c -- d", "line\nbreak", "x" * 63, "ü" * 31)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def test_case_18_odd_names_arrive_and_work(pair: Pair) -> None:
    for number, name in enumerate(ODD):
        odd = quoted(name)
        pair.on_source(
            f"CREATE SCHEMA {odd}",
            f"CREATE TABLE {odd}.{odd} ({odd} serial PRIMARY KEY, other int CONSTRAINT {odd} CHECK (other > 0), UNIQUE (other))",
            f"INSERT INTO {odd}.{odd} (other) VALUES ({number + 1}), ({number + 100})",
            f"CREATE VIEW {odd}.v AS SELECT {odd} FROM {odd}.{odd}",
            f"CREATE FUNCTION {odd}.{odd}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
            f"CREATE TRIGGER {odd} BEFORE INSERT ON {odd}.{odd} FOR EACH ROW EXECUTE FUNCTION {odd}.{odd}()",
            f"CREATE POLICY {odd} ON {odd}.{odd} USING ({odd} > 0)",
            f"CREATE INDEX ON {odd}.{odd} ({odd}, other)",
            f"COMMENT ON TABLE {odd}.{odd} IS 'says {name.replace(chr(39), '')}'",
            f"GRANT SELECT ({odd}) ON {odd}.{odd} TO PUBLIC",
        )
    move(pair)
    both(pair, "SELECT n.nspname, c.relname, c.relkind::text, obj_description(c.oid) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
         " WHERE c.oid >= 16384 AND nspname NOT IN ('cutover', 'pg_toast', 'information_schema') ORDER BY 1, 2, 3")  # fmt: skip
    both(pair, "SELECT polname, polrelid::regclass::text FROM pg_policy ORDER BY 1")
    both(pair, "SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1")
    assert verify(pair.source, pair.target, ALL).equal
    with session.connect(pair.source, application_name="test") as here, session.connect(pair.target, application_name="test") as there:
        assert sequences.move(here, there, ALL).count == len(ODD)
    odd = quoted(ODD[-1])
    assert pair.on_target(f"INSERT INTO {odd}.{odd} (other) VALUES (50) RETURNING {odd}") == [(3,)]


def test_case_18_a_name_that_is_taken_is_refused_before_anything_moves(pair: Pair) -> None:
    pair.on_source("CREATE TABLE one (id int PRIMARY KEY, a int, b int)", "CREATE TABLE two (id int PRIMARY KEY)", "CREATE ROLE app_18")
    pair.on_source("GRANT SELECT ON one TO app_18")
    state = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    for rename, said in (
        ({"tables": {"public.one": "two"}}, "would both be called public.two"),
        ({"columns": {"public.one.a": "b"}}, "columns a and b of public.one would both be called b"),
        ({"tables": {"public.one": "two", "public.two": "one"}}, "circle"),
    ):
        with pytest.raises(TransferError, match=said):
            schema.transfer(pair.source, pair.target, Selection.from_args(rename=rename), "all", OPTIONS)
        assert pair.on_target(state) == [(0,)]
    pair.on_target("CREATE TABLE busy (was text)")
    with pytest.raises(TransferError, match="table public.one is defined differently|has public.busy already"):
        schema.transfer(pair.source, pair.target, Selection.from_args(rename={"tables": {"public.one": "busy"}}), "all", OPTIONS)
    assert pair.on_target(state) == [(1,)] and pair.on_target("SELECT count(*) FROM pg_roles WHERE rolname = 'app_18'") == [(0,)]
    pair.on_source("DROP OWNED BY app_18", "DROP ROLE app_18")


RENAMED = (
    "CREATE SCHEMA shop",
    "CREATE TABLE shop.customer (id int PRIMARY KEY, name text NOT NULL)",
    "CREATE TABLE shop.sale (id int, at date, customer int REFERENCES shop.customer, total numeric, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)",
    "CREATE TABLE shop.sale_2025 PARTITION OF shop.sale FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')",
    "CREATE TABLE shop.sale_2026 PARTITION OF shop.sale FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
    "CREATE VIEW shop.by_customer AS SELECT c.name, sum(s.total) AS total FROM shop.customer c JOIN shop.sale s ON s.customer = c.id GROUP BY 1",
    "CREATE POLICY rich ON shop.sale USING (total > 0)",
    "CREATE FUNCTION shop.count_sales() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM shop.sale); END'",
    "CREATE FUNCTION shop.followed() RETURNS numeric LANGUAGE sql BEGIN ATOMIC SELECT sum(total) FROM shop.sale; END",
    "CREATE FUNCTION shop.other() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "INSERT INTO shop.customer SELECT g, 'c' || g FROM generate_series(1, 5) g",
    "INSERT INTO shop.sale SELECT g, '2025-10-01'::date + g, 1 + g % 5, g FROM generate_series(1, 200) g",
    "CREATE TABLE shop.a (v int)", "CREATE TABLE shop.b (v text)", "INSERT INTO shop.a VALUES (1)", "INSERT INTO shop.b VALUES ('two')",
    "CREATE TABLE shop.base (id int)", "CREATE TABLE shop.derived (extra int) INHERITS (shop.base)", "INSERT INTO shop.derived VALUES (7, 8)",
)  # fmt: skip
RENAMES = {
    "schemas": {"shop": "trade"},
    "tables": {"shop.sale": "orders", "shop.sale_2025": "orders_old", "shop.a": "b", "shop.b": "c"},
    "columns": {"shop.sale.total": "amount", "shop.customer.name": "title", "shop.base.id": "number"},
}


def test_case_19_renames_reach_keys_policies_views_partitions_and_the_rest_is_listed(pair: Pair) -> None:
    pair.on_source(*RENAMED)
    selection = Selection.from_args(rename=RENAMES)
    _first, last = move(pair, selection)
    assert {(one["function"], one["mentions"]) for one in last.mentions} == {
        ("trade.count_sales()", "sale"),
        ("trade.count_sales()", "shop"),
    }
    assert pair.on_target(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'f' AND conparentid = 0 AND connamespace = 'trade'::regnamespace"
    ) == [("FOREIGN KEY (customer) REFERENCES trade.customer(id)",)]
    assert pair.on_target("SELECT pg_get_expr(polqual, polrelid), polrelid::regclass::text FROM pg_policy") == [
        ("(amount > (0)::numeric)", "trade.orders")
    ]
    assert pair.on_target("SELECT count(*), sum(amount) FROM trade.orders_old") == pair.on_source(
        "SELECT count(*), sum(total) FROM shop.sale_2025"
    )
    assert pair.on_target("SELECT sum(amount) FROM trade.sale_2026") == pair.on_source("SELECT sum(total) FROM shop.sale_2026")
    assert pair.on_target("SELECT name, total FROM trade.by_customer ORDER BY 1") == pair.on_source(
        "SELECT name, total FROM shop.by_customer ORDER BY 1"
    )
    assert pair.on_target("SELECT trade.followed()") == pair.on_source("SELECT shop.followed()")
    assert pair.on_target("SELECT v FROM trade.b") == [(1,)] and pair.on_target("SELECT v FROM trade.c") == [("two",)]
    assert pair.on_target("SELECT number, extra FROM trade.derived") == [(7, 8)]
    assert verify(pair.source, pair.target, selection).equal
    # The way back sees the same pairs.
    assert verify(pair.target, pair.source, selection.inverted()).equal
    pair.on_target("UPDATE trade.orders SET amount = amount + 1 WHERE id = 7")
    (changed,) = [table for table in verify(pair.source, pair.target, selection).tables if not table.equal]
    assert changed.name == "shop.sale_2025" and changed.changed[0].columns == ("total",)


def test_a_renamed_column_that_a_partition_inherits_is_refused_with_the_table_to_name(pair: Pair) -> None:
    pair.on_source(*RENAMED)
    selection = Selection.from_args(rename={"columns": {"shop.sale_2025.total": "amount"}})
    with pytest.raises(TransferError, match=r"inherits from shop\.sale") as caught:
        schema.transfer(pair.source, pair.target, selection, "all", OPTIONS)
    assert "Rename shop.sale.total instead" in caught.value.remedy


ROLES_23 = ("r23_owner", "r23_login", "r23_reader", "r23_second")
SHAPE_23 = (
    "CREATE ROLE r23_owner NOLOGIN CREATEDB; CREATE ROLE r23_reader NOLOGIN; CREATE ROLE r23_second NOLOGIN BYPASSRLS",
    "CREATE ROLE r23_login LOGIN NOINHERIT CONNECTION LIMIT 3 VALID UNTIL '2030-01-01'",
    "GRANT r23_owner TO r23_login; GRANT r23_reader TO r23_second WITH ADMIN OPTION; GRANT pg_monitor TO r23_login",
    "ALTER ROLE r23_login SET work_mem = '7MB'",
    "CREATE SCHEMA own AUTHORIZATION r23_owner; GRANT USAGE ON SCHEMA own TO r23_reader, r23_second WITH GRANT OPTION",
    "SET ROLE r23_owner; CREATE TABLE own.t (id int PRIMARY KEY, secret text, shown text); CREATE SEQUENCE own.s; CREATE TYPE own.e AS ENUM ('x');"
    " CREATE FUNCTION own.f(int) RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE VIEW own.v AS SELECT shown FROM own.t; RESET ROLE",
    "SET ROLE r23_owner; GRANT SELECT (shown), UPDATE (shown) ON own.t TO r23_reader; GRANT INSERT, REFERENCES ON own.t TO r23_second WITH GRANT OPTION;"
    " GRANT USAGE ON SEQUENCE own.s TO r23_reader; REVOKE EXECUTE ON FUNCTION own.f FROM PUBLIC; REVOKE USAGE ON TYPE own.e FROM PUBLIC; RESET ROLE",
    "SET ROLE r23_second; GRANT INSERT ON own.t TO r23_reader; RESET ROLE",
    "ALTER DEFAULT PRIVILEGES FOR ROLE r23_owner IN SCHEMA own GRANT SELECT ON TABLES TO r23_reader",
    "ALTER DEFAULT PRIVILEGES FOR ROLE r23_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC",
    "CREATE POLICY p ON own.t FOR SELECT TO r23_reader USING (shown <> 'no'); ALTER TABLE own.t ENABLE ROW LEVEL SECURITY",
)  # fmt: skip
# Names and privileges as the owner, PUBLIC and every role really have them, whatever the catalogue's spelling.
POWERS = """
SELECT r, o.kind, o.name, p, has_any FROM unnest(%s::text[]) r
CROSS JOIN LATERAL (
  SELECT 'table' AS kind, c.oid::regclass::text AS name, p, has_table_privilege(r, c.oid, p) AS has_any FROM pg_class c, unnest(%s::text[]) p
   WHERE c.relnamespace = 'own'::regnamespace AND c.relkind IN ('r', 'v')
  UNION ALL SELECT 'column', attrelid::regclass::text || attname, p, has_column_privilege(r, attrelid, attname, p) FROM pg_attribute, unnest(%s::text[]) p
   WHERE attrelid = 'own.t'::regclass AND attnum > 0
  UNION ALL SELECT 'sequence', 'own.s', p, has_sequence_privilege(r, 'own.s', p) FROM unnest(ARRAY['USAGE', 'SELECT', 'UPDATE']) p
  UNION ALL SELECT 'function', 'own.f', 'EXECUTE', has_function_privilege(r, 'own.f(int)', 'EXECUTE')
  UNION ALL SELECT 'type', 'own.e', 'USAGE', has_type_privilege(r, 'own.e', 'USAGE')
  UNION ALL SELECT 'schema', n, p, has_schema_privilege(r, n, p) FROM unnest(ARRAY['own', 'public']) n,
   unnest(ARRAY['USAGE', 'CREATE', 'USAGE WITH GRANT OPTION']) p) o ORDER BY 1, 2, 3, 4
"""
TABLE_WORDS = [
    f"{word}{option}"
    for word in ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")
    for option in ("", " WITH GRANT OPTION")
]
COLUMN_WORDS = ["SELECT", "INSERT", "UPDATE", "REFERENCES"]
ROLE_STATE = """SELECT rolname, rolinherit, rolcreatedb, rolcanlogin, rolbypassrls, rolconnlimit, rolvaliduntil::text, rolconfig,
 (SELECT string_agg(r.rolname || m.admin_option, ',' ORDER BY r.rolname) FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid WHERE m.member = a.oid)
 FROM pg_roles a WHERE rolname LIKE 'r23%' ORDER BY 1"""
DEFAULTS = "SELECT defaclrole::regrole::text, defaclnamespace::regnamespace::text, defaclobjtype::text, defaclacl::text FROM pg_default_acl ORDER BY 1, 2, 3"
POLICIES = "SELECT polname, polcmd::text, polroles::regrole[]::text, pg_get_expr(polqual, polrelid) FROM pg_policy ORDER BY 1"


def powers(server: Any, dbname: str) -> list[tuple[Any, ...]]:
    with server.connect(dbname) as conn:
        return conn.execute(POWERS, ([*ROLES_23, "public"], TABLE_WORDS, COLUMN_WORDS)).fetchall()


def forget_roles(pair: Pair) -> None:
    for server in (pair.source_server, pair.target_server):
        for role in ROLES_23:
            if server.execute(pair.dbname, f"SELECT 1 FROM pg_roles WHERE rolname = '{role}'"):
                server.execute(pair.dbname, f"DROP OWNED BY {role} CASCADE", f"DROP ROLE {role}")


@pytest.fixture
def with_roles(pair: Pair) -> Iterator[Pair]:
    try:
        yield pair
    finally:
        forget_roles(pair)


def test_case_23_roles_and_privileges_are_equal_and_never_wider(with_roles: Pair) -> None:
    pair = with_roles
    pair.on_source(*SHAPE_23)
    # A target that grants by default what the source never granted.
    pair.on_target(
        "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC", "GRANT CREATE ON SCHEMA public TO PUBLIC", "CREATE ROLE r23_reader"
    )
    pair.on_source("CREATE TABLE public.x (id int)")
    done = schema.transfer(pair.source, pair.target, ALL, "all", OPTIONS)
    assert powers(pair.source_server, pair.dbname) == powers(pair.target_server, pair.dbname)
    for query in (ROLE_STATE, POLICIES):
        both(pair, query)
    mine, other = pair.on_source(DEFAULTS), pair.on_target(DEFAULTS)
    assert set(mine) <= set(other) and len(mine) == 2
    assert pair.on_target("SELECT relacl::text FROM pg_class WHERE relname = 'x'") == [("{postgres=arwdDxt/postgres}",)]
    assert any(name.startswith("default acl") and "on the target only" in note for name, note in done.notes)
    pair.on_target("GRANT SELECT ON own.t TO PUBLIC", "GRANT UPDATE (secret) ON own.t TO r23_reader")
    repaired = schema.transfer(pair.source, pair.target, ALL, "pre_data", OPTIONS)
    assert repaired.changed and powers(pair.source_server, pair.dbname) == powers(pair.target_server, pair.dbname)
    assert not schema.transfer(pair.source, pair.target, ALL, "all", OPTIONS).changed


SEQUENCES = (
    "CREATE TABLE owned (id serial PRIMARY KEY)",
    "INSERT INTO owned SELECT FROM generate_series(1, 9)",
    "CREATE TABLE identity (id bigint GENERATED ALWAYS AS IDENTITY (INCREMENT 5) PRIMARY KEY)",
    "INSERT INTO identity SELECT FROM generate_series(1, 4)",
    "CREATE SEQUENCE free START 7",
    "CREATE SEQUENCE shared; SELECT setval('shared', 40)",
    "CREATE TABLE first (id int DEFAULT nextval('shared')); CREATE TABLE second (id int DEFAULT nextval('shared'))",
    "CREATE SEQUENCE down INCREMENT -2 MAXVALUE 100 START 100; SELECT nextval('down') FROM generate_series(1, 5)",
    "CREATE SEQUENCE around MAXVALUE 5 CYCLE; SELECT nextval('around') FROM generate_series(1, 7)",
    "CREATE SEQUENCE cached CACHE 20; SELECT nextval('cached')",
    "CREATE SEQUENCE fresh; SELECT setval('fresh', 30, false)",
    "CREATE TABLE behind (id serial PRIMARY KEY); INSERT INTO behind VALUES (1), (2); SELECT setval('behind_id_seq', 500)",
    "CREATE SEQUENCE edge; SELECT setval('edge', 9223372036854775806)",
    "CREATE SEQUENCE tiny AS smallint START -5 MINVALUE -10; SELECT nextval('tiny')",
)
NAMES = ("owned_id_seq", "identity_id_seq", "free", "shared", "down", "around", "cached", "fresh", "behind_id_seq", "edge", "tiny")


def test_case_17_every_sequence_goes_on_where_it_stands(pair: Pair) -> None:
    pair.on_source(*SEQUENCES)
    # A value taken before the move counts as used, whatever the tables hold.
    last = {name: pair.on_source(f"SELECT last_value, is_called FROM {name}")[0] for name in NAMES}
    move(pair)
    both(
        pair,
        "SELECT sequencename, data_type::text, start_value, min_value, max_value, increment_by, cycle, cache_size FROM pg_sequences"
        " WHERE schemaname = 'public' ORDER BY 1",
    )
    both(pair, "SELECT objid::regclass::text, refobjid::regclass::text, refobjsubid FROM pg_depend WHERE classid = 'pg_class'::regclass"
         " AND refclassid = 'pg_class'::regclass AND objid::regclass::text = ANY(string_to_array('owned_id_seq identity_id_seq behind_id_seq', ' '))"
         " ORDER BY 1")  # fmt: skip
    with session.connect(pair.source, application_name="test") as here, session.connect(pair.target, application_name="test") as there:
        assert sequences.move(here, there, ALL).count == len(NAMES)
        assert sequences.move(here, there, ALL).changed == ()
    for name in NAMES:
        (value,) = pair.on_target(f"SELECT nextval('{name}')")[0]
        was, called = last[name]
        step = {"identity_id_seq": 5, "down": -2}.get(name, 1)
        expected = was if not called else was + step
        assert value == expected, name
    assert pair.on_target("INSERT INTO identity DEFAULT VALUES RETURNING id") == [(26,)]
    with pytest.raises(Exception, match="reached maximum value of sequence"):
        pair.on_target("SELECT nextval('edge')")


def test_case_24_extensions_are_refused_by_name_mapped_or_shown_with_their_versions(pair: Pair) -> None:
    pair.on_source(
        "CREATE SCHEMA extensions",
        "CREATE EXTENSION citext WITH SCHEMA extensions VERSION '1.4'",
        "CREATE EXTENSION hstore WITH SCHEMA extensions",
        "CREATE EXTENSION ltree",
        "CREATE EXTENSION pg_trgm WITH SCHEMA extensions",
        "CREATE TABLE tagged (id int PRIMARY KEY, tag extensions.citext, more extensions.hstore, tags extensions.citext[])",
        "CREATE TABLE plain (id int PRIMARY KEY, name text)",
        "CREATE INDEX plain_like ON plain USING gin (name extensions.gin_trgm_ops)",
        "CREATE FUNCTION low(extensions.citext) RETURNS text LANGUAGE sql AS 'SELECT lower($1::text)'",
        "INSERT INTO tagged VALUES (1, 'Ä', 'a=>1', '{b,B}')",
    )
    skip = schema_plan.Options(extension_skip=("citext", "pg_trgm"))
    with pytest.raises(TransferError, match=r"table public\.tagged: it uses extension citext \(column tag, tags\)"):
        schema.transfer(pair.source, pair.target, ALL, "all", skip)
    assert pair.on_target("SELECT count(*) FROM pg_extension WHERE extname <> 'plpgsql'") == [(0,)]
    done = schema.transfer(pair.source, pair.target, Selection(exclude=("public.tagged",)), "all", skip)
    skipped = dict(done.skipped)
    assert skipped["extension citext"] == skipped["extension pg_trgm"] == "extensions.skip names it"
    assert skipped["function public.low(extensions.citext)"].startswith("it uses extension citext")
    assert skipped["index public.plain_like"].startswith("it uses extension pg_trgm")
    versions = {row["name"]: (row["version"], row["target_version"], row["left_behind"]) for row in done.extensions}
    assert versions["citext"][0] == "1.4" and versions["citext"][1] > "1.4" and versions["hstore"][2] == ""
    _first, last = move(pair)
    note = dict(last.notes)["extension citext"]
    assert note == f"version 1.4 on the source, {versions['citext'][1]} on the target"
    rows = ("SET search_path = public, extensions", "SELECT tag = 'ä', more -> 'a', tags FROM tagged")
    assert pair.on_target(*rows) == pair.on_source(*rows) == [(True, "1", "{b,B}")]
    with pytest.raises(TransferError, match="extensions.map gives ltree the extension none_such, which the target does not offer"):
        schema.transfer(pair.source, pair.target, ALL, "all", schema_plan.Options(extension_map={"ltree": "none_such"}))


MATRIX = ((14, 18), (15, 17), (16, 18))
ACROSS = (
    *SHAPE_23,
    *CIRCLE,
    "CREATE VIEW heads AS SELECT t.id, (SELECT count(*) FROM tree k WHERE k.parent = t.id) AS below FROM tree t",
    "CREATE VIEW late AS SELECT id FROM tree GROUP BY tree.id",
    "CREATE VIEW round_a AS SELECT id, parent FROM tree; CREATE VIEW round_b AS SELECT id FROM tree GROUP BY id, tree.parent",
    "CREATE POLICY sub ON loose USING (EXISTS (SELECT FROM tree WHERE tree.id = loose.tree)); ALTER TABLE loose FORCE ROW LEVEL SECURITY",
    "CREATE FUNCTION body(p int) RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM tree WHERE tree.parent = p; END",
    "CREATE TABLE made (a int, b int GENERATED ALWAYS AS (a + 1) STORED, c text COLLATE \"C\" DEFAULT lower('X'), CHECK (a IS NULL OR b > a))",
    "CREATE MATERIALIZED VIEW m AS SELECT count(*) AS n FROM tree",
    "CREATE RULE quiet AS ON INSERT TO made WHERE NEW.a = 0 DO INSTEAD NOTHING",
)


@pytest.mark.parametrize(("source", "target"), MATRIX)
def test_schema_across_major_versions_is_equal_and_a_second_run_changes_nothing(
    major_pair: MajorPair, clients: Path, source: int, target: int
) -> None:
    pair = major_pair(source, target)
    options = schema_plan.Options(bin_dir=str(clients))
    try:
        pair.on_source(*ACROSS)
        if source >= 15:
            pair.on_source("CREATE TABLE nulls (a int, UNIQUE NULLS NOT DISTINCT (a))", "GRANT SET ON PARAMETER log_statement TO r23_owner")
        if source >= 16:
            pair.on_source("GRANT r23_owner TO r23_reader WITH INHERIT FALSE, SET FALSE, ADMIN TRUE")
        move(pair, options=options)
        assert powers(pair.source_server, pair.dbname) == powers(pair.target_server, pair.dbname)
        for query in (FOREIGN_KEYS, ROLE_STATE, "SELECT polname, polcmd::text, polroles::regrole[]::text FROM pg_policy ORDER BY 1"):
            both(pair, query)
        both(pair, "SELECT relname, relkind::text, pg_get_userbyid(relowner), relrowsecurity, relforcerowsecurity FROM pg_class"
             " WHERE relnamespace = ANY(ARRAY['public', 'own']::regnamespace[]) ORDER BY 1")  # fmt: skip
        assert pair.on_target("SELECT body(1), (SELECT n FROM m)") == [(2, 3)]
        both(pair, "SELECT id, below FROM heads ORDER BY 1")
        if source >= 16:
            both(pair, "SELECT roleid::regrole::text, member::regrole::text, admin_option, inherit_option, set_option FROM pg_auth_members"
                 " WHERE member::regrole::text LIKE 'r23%' ORDER BY 1, 2")  # fmt: skip
        # What the source does not grant in words of its own version, nobody has: MAINTAIN came with 17.
        if target >= 17:
            assert pair.on_target("SELECT has_table_privilege('r23_reader', 'own.t', 'MAINTAIN')") == [(False,)]
            assert pair.on_target("SELECT has_table_privilege('r23_owner', 'own.t', 'MAINTAIN')") == [(True,)]
        pair.on_target("ALTER TABLE made ALTER c SET DEFAULT 'y'")
        with pytest.raises(TransferError, match=r"table public\.made is defined differently"):
            schema.transfer(pair.source, pair.target, ALL, "all", options)
    finally:
        forget_roles(pair)


def test_18_keeps_named_not_null_virtual_columns_and_unproved_constraints(major_pair: MajorPair, clients: Path) -> None:
    one, other = major_pair(17, 18), major_pair(16, 18)
    source, target = one.target, other.target
    one.on_target(
        "CREATE TABLE v (a int CONSTRAINT a_there NOT NULL, b int GENERATED ALWAYS AS (a * 2) VIRTUAL, c int)",
        "INSERT INTO v (a) VALUES (1), (2)",
        "ALTER TABLE v ADD CONSTRAINT c_there NOT NULL c NOT VALID",
        "CREATE TABLE w (id int PRIMARY KEY, v int)",
        "INSERT INTO w VALUES (1, 9)",
        "ALTER TABLE w ADD CONSTRAINT unenforced FOREIGN KEY (v) REFERENCES w NOT ENFORCED",
    )
    options = schema_plan.Options(bin_dir=str(clients))
    schema.transfer(source, target, ALL, "pre_data", options)
    copy(source, target, ALL, workers=1)
    schema.transfer(source, target, ALL, "post_data", options)
    assert not schema.transfer(source, target, ALL, "all", options).changed
    for query in (
        "SELECT conname, contype::text, convalidated, conenforced, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE connamespace = 'public'::regnamespace ORDER BY 1",
        "SELECT attname, attgenerated::text, attnotnull FROM pg_attribute WHERE attrelid = 'v'::regclass AND attnum > 0 ORDER BY 1",
        "SELECT a, b FROM v ORDER BY 1",
    ):
        found = one.on_target(query)
        assert found and found == other.on_target(query)
