"""Preflight: every planted trap is found by its rule, on PostgreSQL 14 and 18 too; its statements mend it; nothing is touched. Cases 21 and 29."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pgservers
import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import preflight, session
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.copy import copy
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.findings import Finding
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Selection
from integration.cases.untouched import mark
from integration.conftest import Pair, Server
from integration.transfer.cases import wait_until

ALL = Selection.from_args()
WISH = preflight.Wish(workers=2)
ODD = {
    "max_prepared_transactions": "5", "max_replication_slots": "2", "max_wal_senders": "2", "max_slot_wal_keep_size": "4GB",
    "wal_sender_timeout": "5s", "extra_float_digits": "0", "statement_timeout": "2min", "synchronous_commit": "on",
}  # fmt: skip
SOURCE_TRAPS = (
    "CREATE TABLE fine (id int PRIMARY KEY, b text)",
    "INSERT INTO fine SELECT g, 'x' FROM generate_series(1, 10) g",
    "CREATE TABLE keyless (a int, doc json)",
    "CREATE TABLE almost (a int UNIQUE, b text)",
    'CREATE TABLE texts (name text COLLATE "en-x-icu" PRIMARY KEY)',
    "CREATE UNLOGGED TABLE volatile (id int PRIMARY KEY)",
    "CREATE TABLE child (extra int) INHERITS (fine)",
    "CREATE TYPE mood AS ENUM ('calm', 'busy')",
    "CREATE TABLE hashed (m mood, id int) PARTITION BY HASH (m)",
    "CREATE TABLE hashed_0 PARTITION OF hashed FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
    "CREATE TABLE computed (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED)",
    "CREATE TABLE numbered (id int PRIMARY KEY, what regclass, which oid)",
    "CREATE TABLE priced (id int PRIMARY KEY, price money)",
    f"CREATE TABLE broad ({', '.join(f'c{n} int' for n in range(1100))}, PRIMARY KEY (c0))",
    "CREATE TABLE broken (id int PRIMARY KEY, fine_id int, other_id int)",
    "INSERT INTO broken VALUES (1, 1, 99), (2, 2, 2)",
    "ALTER TABLE broken ADD CONSTRAINT kept FOREIGN KEY (fine_id) REFERENCES fine NOT VALID",
    "ALTER TABLE broken ADD CONSTRAINT violated FOREIGN KEY (other_id) REFERENCES fine NOT VALID",
    "ALTER TABLE broken ADD CONSTRAINT told CHECK (id < 2) NOT VALID",
    "CREATE TABLE dodged (id int PRIMARY KEY, fine_id int REFERENCES fine)",
    "ALTER TABLE dodged DISABLE TRIGGER ALL",
    "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    "CREATE TRIGGER always BEFORE INSERT ON fine FOR EACH ROW EXECUTE FUNCTION touch()",
    "ALTER TABLE fine ENABLE ALWAYS TRIGGER always",
    "CREATE SCHEMA supabase_functions",
    "CREATE FUNCTION supabase_functions.http_request() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    "CREATE TRIGGER hook AFTER INSERT ON fine FOR EACH ROW EXECUTE FUNCTION supabase_functions.http_request()",
    "CREATE FUNCTION watch() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN PERFORM 1; END'",
    "CREATE EVENT TRIGGER log_ddl ON ddl_command_end EXECUTE FUNCTION watch()",
    "CREATE PUBLICATION everything FOR ALL TABLES",
    "CREATE MATERIALIZED VIEW summed AS SELECT count(*) FROM fine",
    "CREATE FOREIGN DATA WRAPPER nothing",
    "CREATE SERVER elsewhere FOREIGN DATA WRAPPER nothing",
    "CREATE FOREIGN TABLE far (id int) SERVER elsewhere",
    "CREATE SEQUENCE ending AS smallint",
    "SELECT setval('ending', 32000)",
    "SELECT lo_create(0)",
    "CREATE SCHEMA cron",
    "CREATE TABLE cron.job (jobid int PRIMARY KEY, jobname text, active boolean)",
    "INSERT INTO cron.job VALUES (1, 'nightly', true), (2, 'off', false)",
    "CREATE SCHEMA vault",
    "CREATE TABLE vault.secrets (id int PRIMARY KEY)",
    "INSERT INTO vault.secrets VALUES (1)",
    "CREATE FUNCTION counts() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM priced'",
    "CREATE TABLE huge (id int PRIMARY KEY, b bytea)",
    "ALTER TABLE huge ALTER b SET STORAGE EXTERNAL",
    "INSERT INTO huge SELECT 1, convert_to(repeat('x', 70 * 1024 * 1024), 'UTF8')",
    "CREATE TABLE grown (id int PRIMARY KEY, kept text, empty text, gone text)",
    "INSERT INTO grown VALUES (1, 'x', NULL, NULL)",
    "CREATE TABLE taken (id int PRIMARY KEY)",
    "CREATE TABLE guarded (id int PRIMARY KEY)",
    "CREATE ROLE trap_owner",
    "ALTER TABLE taken OWNER TO trap_owner",
    "SELECT pg_create_logical_replication_slot('forgotten', 'pgoutput')",
)
TARGET_TRAPS = (
    "CREATE TABLE fine (id int PRIMARY KEY, b text)",
    "INSERT INTO fine VALUES (1, 'stranger')",
    "CREATE TABLE grown (id int PRIMARY KEY, needed int NOT NULL)",
    "CREATE VIEW taken AS SELECT 1",
    "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    "CREATE TRIGGER always BEFORE INSERT ON fine FOR EACH ROW EXECUTE FUNCTION touch()",
    "ALTER TABLE fine ENABLE REPLICA TRIGGER always",
    "CREATE FUNCTION watch() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN PERFORM 1; END'",
    "CREATE EVENT TRIGGER log_ddl ON ddl_command_end EXECUTE FUNCTION watch()",
    "SELECT lo_create(0)",
)
# (rule, part of the object, severity, part of the problem, part of the fix)
EXPECTED = (
    ("key-missing", "public.keyless", "warning", "multiset", 'ALTER TABLE "public"."keyless" ADD PRIMARY KEY'),
    ("key-json", "json", "info", "public.keyless", ""),
    ("key-nullable", "public.almost", "warning", "NULL", "SET NOT NULL"),
    ("key-text", "keys of text", "info", "public.texts", ""),
    ("unlogged", "public.volatile", "warning", "unlogged", "SET LOGGED"),
    ("inheritance", "inheritance", "info", "public.child", ""),
    ("partition-hash", "public.hashed", "info", "hash", ""),
    ("generated", "generated", "info", "public.computed", ""),
    ("type-oid", "public.numbered", "warning", "what regclass, which oid", ""),
    ("type-money", "money", "info", "public.priced", "lc_monetary"),
    ("columns-many", "wide", "info", "public.broad (1100)", ""),
    ("not-valid", "public.broken", "info", "kept is NOT VALID, and stays so on the target; no row", 'VALIDATE CONSTRAINT "kept"'),
    ("not-valid", "public.broken", "warning", "violated is NOT VALID, and stays so on the target; rows", 'VALIDATE CONSTRAINT "violated"'),
    ("not-valid", "public.broken", "warning", "check told", 'VALIDATE CONSTRAINT "told"'),
    ("fk-switched-off", "public.dodged", "warning", "dodged_fine_id_fkey", "ENABLE TRIGGER ALL"),
    ("triggers-fire", "public.fine", "warning", "ENABLE ALWAYS", 'ENABLE TRIGGER "always"'),
    ("webhooks", "public.fine", "warning", "supabase_functions.http_request", 'DISABLE TRIGGER "hook"'),
    ("event-trigger", "source", "info", "log_ddl", ""),
    ("event-trigger", "target", "warning", "log_ddl", 'ALTER EVENT TRIGGER "log_ddl" DISABLE;'),
    ("publication", "everything", "info", "all tables", ""),
    ("published-without-identity", "public.keyless", "warning", "everything", "REPLICA IDENTITY FULL"),
    ("replica-identity", "public.almost", "warning", "updates and deletes", "REPLICA IDENTITY FULL"),
    ("matview", "materialized", "info", "public.summed", ""),
    ("foreign-table", "public.far", "warning", "elsewhere", ""),
    ("sequence-end", "public.ending", "warning", "32000 of 32767", "bigint"),
    ("large-objects", "large objects", "warning", "1 are moved", "Stop the applications"),
    ("target-large-objects", "large objects", "error", "1 that no copy", "lo_unlink"),
    ("cron-jobs", "source", "warning", "nightly: they", "cron.alter_job"),
    ("vault", "vault.secrets", "warning", "1 secrets", "vault.create_secret"),
    ("value-large", "public.huge", "info", "70 MiB", ""),
    ("target-rows", "public.fine", "error", "did not bring", 'TRUNCATE "public"."fine";'),
    ("target-triggers", "public.fine", "warning", "always of the target", "DISABLE TRIGGER"),
    ("column-missing", "public.grown", "error", "column kept", 'ADD COLUMN "kept" text;'),
    ("column-missing", "public.grown", "info", "column empty", ""),
    ("column-required", "public.grown", "error", "column needed", "SET DEFAULT"),
    ("name-taken", "public.taken", "error", "is a view", 'DROP VIEW "public"."taken"'),
    ("role-missing", "roles", "info", "trap_owner", 'CREATE ROLE "trap_owner"'),
    ("rename-text", "public.counts()", "warning", "priced", "CREATE OR REPLACE"),
    ("prepared-transaction", "left", "error", "prepared", "ROLLBACK PREPARED 'left';"),
    ("slots-free", "max_replication_slots", "warning", "1 of 2", "max_replication_slots = 4"),
    ("slot-existing", "forgotten", "info", "not read by anyone", "pg_drop_replication_slot('forgotten')"),
    ("slot-keep-size", "max_slot_wal_keep_size", "warning", "4096 MiB", "max_slot_wal_keep_size = '100 GB'"),
    ("sender-timeout", "wal_sender_timeout", "warning", "5000 ms", "SET wal_sender_timeout"),
    ("settings-render", "source", "info", "extra_float_digits is 0", ""),
    ("settings-timeout", "source", "info", "statement_timeout is 120000", ""),
    ("settings-timeout", "role postgres", "info", "lock_timeout is 7s", ""),
    ("settings-render", "database", "info", "DateStyle is German", ""),
    ("disk", "disk", "error", "1 MiB are free", "Enlarge"),
    ("synchronous", "synchronous_standby_names", "error", "hangs", "synchronous_standby_names = ''"),
    ("load-settings", "target", "info", "max_wal_size", "ALTER SYSTEM SET max_wal_size = '20GB'"),
    ("idle-in-transaction", "pid", "warning", "does nothing", "pg_terminate_backend"),
)  # fmt: skip


@pytest.fixture(scope="module")
def odd() -> Iterator[Pair]:
    """Servers of PostgreSQL 14 and 18 with settings that ask for findings, and a database of traps on each."""
    with pgservers.Fleet({**pgservers.SETTINGS, "shared_buffers": "32MB", **ODD}) as fleet:
        started = fleet.start(source=pgservers.server_programs(14), target=pgservers.server_programs(18))
        source, target = (Server(one.name, one.bin, one.home, one.port) for one in started)
        for server in (source, target):
            server.execute("postgres", "CREATE DATABASE traps TEMPLATE template0")
        yield Pair(source, target, "traps")


def rules(report: preflight.Report, severity: str | None = None) -> list[str]:
    return [one.rule for one in report.findings if severity in (None, one.severity)]


def named(report: preflight.Report, rule: str) -> list[Finding]:
    return [one for one in report.findings if one.rule == rule]


def test_each_planted_trap_is_found_by_its_rule_and_nothing_is_touched(odd: Pair, clients: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    odd.on_source(*SOURCE_TRAPS)
    odd.on_target(*TARGET_TRAPS)
    odd.on_source("ALTER ROLE postgres SET lock_timeout = '7s'", "ALTER DATABASE traps SET DateStyle = 'German'")
    odd.on_source("BEGIN; INSERT INTO fine VALUES (1000, 'y'); PREPARE TRANSACTION 'left'")
    odd.on_target("ALTER SYSTEM SET synchronous_standby_names = 'nobody'", "SELECT pg_reload_conf()")
    monkeypatch.setattr("ansible_collections.cutover.hetzner.plugins.module_utils.transfer.preflight_source.LONG_TRANSACTION_SECONDS", 1)
    selection = Selection.from_args(exclude=["supabase_functions.*"], rename={"tables": {"public.priced": "paid"}})
    wish = preflight.Wish(workers=2, bin_dir=str(clients), target_free_bytes=1024 * 1024)
    with odd.source_server.connect("traps") as idle, idle.transaction():
        idle.execute("SELECT 1")
        time.sleep(1.2)
        before = mark(odd)
        report = preflight.preflight(odd.source, odd.target, selection, wish)
        assert mark(odd) == before
        alone = preflight.preflight(odd.source, None, selection, wish)
        assert mark(odd) == before
    missing = [
        want
        for want in EXPECTED
        if not any(
            one.severity == want[2] and want[1] in one.object and want[3] in one.problem and want[4] in one.fix
            for one in named(report, want[0])
        )
    ]
    assert missing == [], [
        (one.rule, one.object, one.problem, one.fix) for one in report.findings if one.rule in {want[0] for want in missing}
    ]
    assert not set(rules(report)) & {"encoding", "version-older", "client-programs", "rls", "table-select", "connection", "standby"}
    assert not report.ok and "disk" not in rules(alone) and {"key-missing", "vault", "value-large"} <= set(rules(alone))
    odd.on_target("ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")
    odd.on_source("ROLLBACK PREPARED 'left'")


def test_what_the_servers_lack_is_an_error(odd: Pair, clients: Any) -> None:
    odd.source_server.execute("postgres", "CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    odd.source_server.execute("latin", "CREATE TABLE a (id int PRIMARY KEY)")
    backwards = preflight.preflight(
        odd.target, odd.source_server.endpoint("latin"), ALL, preflight.Wish(bin_dir=str(odd.source_server.bin))
    )
    assert {"version-older", "encoding", "collation"} <= set(rules(backwards)), backwards.findings
    old = pgservers.debian_programs()
    behind = preflight.preflight(odd.source, odd.target, ALL, preflight.Wish(bin_dir=str(old)))
    assert "the servers need 18" in named(behind, "client-programs")[0].problem
    odd.on_target("ALTER DATABASE traps SET default_transaction_read_only = on")
    try:
        closed = preflight.preflight(odd.source, odd.target, ALL, preflight.Wish(bin_dir=str(clients)))
        assert [one.object for one in named(closed, "read-only")] == ["target"]
    finally:
        with odd.target_server.connect("postgres") as conn:
            conn.execute("ALTER DATABASE traps RESET default_transaction_read_only")


def test_a_renamed_column_of_a_partitioned_table_is_not_missing(pair: Pair) -> None:
    for server, name in ((pair.source_server, "old"), (pair.target_server, "new")):
        server.execute(
            pair.dbname,
            f"CREATE TABLE top (id int PRIMARY KEY, {name} text, extra int) PARTITION BY RANGE (id)",
            "CREATE TABLE part PARTITION OF top FOR VALUES FROM (0) TO (100)",
        )
    pair.on_source("INSERT INTO top VALUES (1, 'x', 2)")
    pair.on_target("ALTER TABLE top DROP COLUMN extra")
    selection = Selection.from_args(rename={"columns": {"public.top.old": "new"}})
    missing = named(preflight.preflight(pair.source, pair.target, selection, WISH), "column-missing")
    assert [(one.object, one.severity, one.problem.split()[1]) for one in missing] == [("public.top", "error", "extra")]


def test_more_tables_need_no_more_statements(pair: Pair) -> None:
    def make(first: int, last: int) -> str:
        body = "EXECUTE format('CREATE TABLE t%s (id int PRIMARY KEY, b text)', n); EXECUTE format('INSERT INTO t%s VALUES (1)', n);"
        return f"DO $$ BEGIN FOR n IN {first}..{last} LOOP {body} END LOOP; END $$"

    def statements() -> tuple[int, int]:
        """Transactions that one look takes on source and target: each statement is one."""
        count = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"

        def now() -> tuple[int, int]:
            for server in (pair.source_server, pair.target_server):
                quiet = f"SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = '{pair.dbname}'"
                wait_until(lambda server=server, quiet=quiet: server.execute("postgres", quiet) == [(True,)], "the end of sessions")  # type: ignore[misc]
            one, other = (
                server.execute("postgres", count.replace("current_database()", f"'{pair.dbname}'"))[0][0]
                for server in (pair.source_server, pair.target_server)
            )
            return one, other

        before = now()
        report = preflight.preflight(pair.source, pair.target, ALL, WISH)
        assert len(named(report, "target-rows")) == report.facts["source"]["tables"]
        after = now()
        return after[0] - before[0], after[1] - before[1]

    pair.on_both(make(1, 10))
    few = statements()
    pair.on_both(make(11, 190))
    many = statements()
    # A session's count may arrive after its end: one or two of those that made the tables.
    assert max(many) < 60 and all(abs(one - other) <= 3 for one, other in zip(few, many, strict=True)), (few, many)


def test_case_21_forced_rls_fails_with_its_statement_and_every_statement_mends(pair: Pair) -> None:
    pair.on_source(
        "CREATE SCHEMA apart",
        "CREATE TABLE apart.secret (id bigserial PRIMARY KEY, b text)",
        "CREATE TABLE plain (id int PRIMARY KEY)",
        "INSERT INTO apart.secret (b) SELECT 'x' FROM generate_series(1, 50)",
        "ALTER TABLE apart.secret ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE apart.secret FORCE ROW LEVEL SECURITY",
        "CREATE SEQUENCE free_numbers",
        "SELECT lo_create(0)",
        "DROP ROLE IF EXISTS weak_mover",
        "CREATE ROLE weak_mover LOGIN PASSWORD 'throw-away'",
    )
    weak = pair.source_server.endpoint(pair.dbname, user="weak_mover")
    try:
        seen: set[str] = set()
        for _round in range(4):
            before = mark(pair)
            report = preflight.preflight(weak, None, ALL, WISH)
            assert mark(pair) == before
            errors = [one for one in report.findings if one.severity == "error"]
            seen |= {one.rule for one in errors}
            if report.ok:
                break
            for one in errors:
                pair.on_source(one.fix.split(" or: ")[0])
        wanted = {
            "rls",
            "schema-usage",
            "table-select",
            "table-trigger",
            "table-lock",
            "database-create",
            "sequence-select",
            "large-object-select",
        }
        assert wanted <= seen and report.ok, report.findings
        pair.on_source("ALTER ROLE weak_mover NOBYPASSRLS")
        again = preflight.preflight(weak, None, ALL, WISH)
        assert [(one.object, one.fix) for one in again.findings if one.severity == "error"] == [
            ("apart.secret", 'ALTER ROLE "weak_mover" BYPASSRLS;')
        ]
        pair.on_target("CREATE SCHEMA apart", "CREATE TABLE apart.secret (id bigint PRIMARY KEY, b text)")
        with pytest.raises(TransferError) as refused:
            copy(weak, pair.target, Selection.from_args(include=["apart.*"], exclude=["pg_catalog.pg_largeobject"]), workers=1)
        assert "row" in refused.value.message.lower()
        assert pair.on_target("SELECT count(*) FROM apart.secret") == [(0,)]
    finally:
        pair.on_source("DROP OWNED BY weak_mover", "DROP ROLE weak_mover")


def test_case_29_time_limits_of_role_and_database_do_not_end_a_long_copy(pair: Pair) -> None:
    """3 s for the role, 2 minutes for the database; a COPY of more than 3 s on both sides, since the target takes its rows slowly."""
    pair.on_both("CREATE TABLE slow (id int PRIMARY KEY, b text)")
    pair.on_source("INSERT INTO slow SELECT g, repeat(md5(g::text), 800) FROM generate_series(1, 1300) g")
    pair.on_target(
        "CREATE FUNCTION drag() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.003); RETURN NEW; END'",
        "CREATE TRIGGER drag BEFORE INSERT ON slow FOR EACH ROW EXECUTE FUNCTION drag()",
        "ALTER TABLE slow ENABLE ALWAYS TRIGGER drag",
    )
    servers = (pair.source_server, pair.target_server)
    for server in servers:
        server.execute("postgres", f"ALTER DATABASE {pair.dbname} SET statement_timeout = '2min'")
        server.execute("postgres", f"ALTER ROLE postgres IN DATABASE {pair.dbname} SET statement_timeout = '3s'")
    assert [one.execute(pair.dbname, "SHOW statement_timeout") for one in servers] == [[("3s",)]] * 2
    with session.connect(pair.source, application_name="case 29") as conn:
        assert conn.execute("SHOW statement_timeout").fetchone() == ("0",)
    told = named(preflight.preflight(pair.source, pair.target, ALL, WISH), "settings-timeout")
    assert {f"role postgres in database {pair.dbname}", f"database {pair.dbname}"} == {one.object for one in told}
    longest: dict[str, float] = {}
    ended = threading.Event()

    def watch() -> None:
        query = "SELECT extract(epoch FROM max(clock_timestamp() - query_start))::float FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'COPY%%'"
        with servers[0].connect() as one, servers[1].connect() as other:
            while not ended.wait(0.1):
                for name, conn in (("source", one), ("target", other)):
                    row = conn.execute(query.replace("%%", "%")).fetchone()
                    longest[name] = max(longest.get(name, 0.0), (row and row[0]) or 0.0)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        done = copy(pair.source, pair.target, ALL, workers=1)
    finally:
        ended.set()
        watcher.join(30)
    assert done.rows == 1300 and pair.on_target("SELECT count(*) FROM slow") == [(1300,)]
    assert longest["target"] > 3.0 and longest["source"] > 3.0, longest
