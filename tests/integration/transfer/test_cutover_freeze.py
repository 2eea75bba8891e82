"""Freeze and thaw of a real database under writers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import catalog, freeze
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Selection
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.session import connect
from integration.transfer import supabase_shape as shape

SUPABASE = Selection(flavour="supabase")


@pytest.fixture
def source(pair: Any) -> Iterator[Any]:
    pair.on_source(shape.ROLES, shape.SHAPE)
    yield pair


def tables_of(conn: Any, selection: Selection = SUPABASE) -> list[tuple[str, str]]:
    return [table.full_name for table in catalog.read_tables(conn, selection)]


def sequences_of(conn: Any) -> list[tuple[str, str]]:
    return [(sequence.schema, sequence.name) for sequence in catalog.read_sequences(conn, SUPABASE)]


def refused(conn: Any, statement: str) -> str:
    with pytest.raises(psycopg.Error) as caught:
        conn.execute(statement)
    return caught.value.sqlstate or ""


def test_freeze_refuses_every_kind_of_write_and_thaw_leaves_no_trace(source: Any) -> None:
    before = source.on_source(shape.FINGERPRINT)
    with connect(source.source, application_name="test") as conn, source.source_server.connect(source.dbname) as app:
        tables, sequences = tables_of(conn), sequences_of(conn)
        done = freeze.freeze(conn, tables, sequences, side="source", fence_id="f1")
        assert done.changed and done.lsn and done.tables == len(tables)
        for statement in (
            "INSERT INTO public.bookings (company_id) VALUES (1)",
            "UPDATE public.companies SET name = 'x'",
            "DELETE FROM auth.users",
            "TRUNCATE public.loose",
            "COPY public.loose FROM PROGRAM 'echo'",
            "INSERT INTO public.events VALUES (1, '2025-02-02', 'x')",
            "INSERT INTO public.events_2026 VALUES (1, '2026-02-02', 'x')",
            "INSERT INTO public.loose VALUES (1, 'x') ON CONFLICT DO NOTHING",
            "WITH w AS (DELETE FROM public.loose RETURNING 1) SELECT * FROM w",
            "MERGE INTO public.loose l USING (SELECT 1 AS i) s ON l.company_id = s.i WHEN MATCHED THEN DELETE",
            'SET ROLE app_owner; INSERT INTO public."Odd name" VALUES (3)',
        ):
            assert refused(app, statement) == "25006", statement
            app.execute("RESET ROLE")
        assert refused(app, "SET ROLE anon; INSERT INTO public.bookings (company_id) VALUES (1)") == "42501"
        app.execute("RESET ROLE")
        assert refused(app, "SET ROLE anon; SELECT nextval('public.bookings_id_seq')") == "42501"
        app.execute("RESET ROLE; SET ROLE anon")
        assert app.execute("SELECT count(*) FROM public.companies").fetchone() == (20,)
        app.execute(
            "RESET ROLE; SET session_replication_role = replica; DELETE FROM public.loose WHERE company_id = 0; RESET session_replication_role"
        )
        assert not freeze.freeze(conn, tables, sequences, side="source", fence_id="f2").changed
        assert freeze.status(conn).id == "f1"
        thawed = freeze.thaw(conn)
        assert thawed.changed and not thawed.leftover and not thawed.acl_kept
        assert [row for row in source.on_source(shape.FINGERPRINT) if "cutover" not in row[1]] == before
        assert not freeze.thaw(conn).changed
        app.execute("INSERT INTO public.bookings (company_id) VALUES (1)")
        assert freeze.remove_schema(conn)
        assert source.on_source(shape.FINGERPRINT) == before


def test_a_grant_made_while_frozen_survives_the_thaw(source: Any) -> None:
    with connect(source.source, application_name="test") as conn:
        freeze.freeze(conn, tables_of(conn), side="source", fence_id="f1")
        source.on_source("GRANT SELECT ON public.companies TO supabase_storage_admin")
        thawed = freeze.thaw(conn)
        assert thawed.acl_kept == ("public.companies",)
    (granted,) = source.on_source(
        "SELECT has_table_privilege('supabase_storage_admin', 'public.companies', 'SELECT')"
        " AND has_table_privilege('authenticated', 'public.companies', 'UPDATE WITH GRANT OPTION')"
        " AND has_column_privilege('anon', 'public.companies', 'mood', 'UPDATE') AND has_table_privilege('reporting', 'public.companies', 'UPDATE')"
    )
    assert granted == (True,)


def test_the_owner_may_freeze_and_thaw_without_being_superuser(source: Any) -> None:
    source.on_source(
        "ALTER ROLE app_login PASSWORD 'throw-away'",
        f"GRANT CREATE ON DATABASE {source.dbname} TO app_login",
        "GRANT anon, authenticated, service_role TO app_login",
    )
    before = source.on_source(shape.FINGERPRINT)
    only = Selection(include=("public.*",))
    with connect(source.source_server.endpoint(source.dbname, user="app_login"), application_name="test") as conn:
        freeze.freeze(conn, tables_of(conn, only), side="source", fence_id="f1")
        with source.source_server.connect(source.dbname) as app:
            assert refused(app, "DELETE FROM public.bookings") == "25006"
        assert not freeze.thaw(conn).leftover
        freeze.remove_schema(conn)
    assert source.on_source(shape.FINGERPRINT) == before
    source.on_source("REVOKE anon, authenticated, service_role FROM app_login")


def test_tables_of_the_platform_are_frozen_with_the_trigger_right_alone(source: Any) -> None:
    source.on_source(
        "ALTER ROLE app_login PASSWORD 'throw-away'",
        f"GRANT CREATE ON DATABASE {source.dbname} TO app_login",
        "GRANT SELECT, UPDATE, TRIGGER ON auth.users TO app_login",
        "GRANT INSERT ON auth.users TO service_role",
    )
    before = source.on_source(shape.FINGERPRINT)
    with connect(source.source_server.endpoint(source.dbname, user="app_login"), application_name="test") as conn:
        freeze.freeze(conn, [("auth", "users"), ("public", "companies")], side="source", fence_id="f1")
        with source.source_server.connect(source.dbname) as app:
            assert refused(app, "INSERT INTO auth.users (email) VALUES ('a@b')") == "25006"
            thawed = freeze.thaw(conn)
            assert thawed.leftover == ("auth.users",)
            app.execute("INSERT INTO auth.users (email) VALUES ('a@b')")
        freeze.remove_schema(conn)
    assert source.on_source(shape.FINGERPRINT) == before


def test_blockers_are_named_and_nothing_is_left(source: Any) -> None:
    before = source.on_source(shape.FINGERPRINT)
    with connect(source.source, application_name="test") as conn, source.source_server.connect(source.dbname) as busy:
        busy.execute("BEGIN; UPDATE public.companies SET name = name WHERE id = 1")
        with pytest.raises(TransferError, match="2 attempts of 200 ms; held by pid") as caught:
            freeze.freeze(conn, tables_of(conn), side="source", fence_id="f1", lock_timeout_ms=200, retries=1)
        assert caught.value.details["blockers"][0]["pid"] == busy.info.backend_pid
        busy.execute("ROLLBACK")
    assert source.on_source(shape.FINGERPRINT) == before
    assert source.on_source("SELECT to_regnamespace('cutover') IS NULL") == [(True,)]


def test_no_queued_writer_leaks_through_the_freeze(source: Any) -> None:
    source.on_source("ALTER ROLE app_login PASSWORD 'throw-away'")
    stop, acknowledged, codes = threading.Event(), [], set()
    lock = threading.Lock()

    def write(number: int) -> None:
        user = ("postgres", "app_login")[number % 2]
        dsn = source.source_server.endpoint(source.dbname, user=user).conninfo()
        with psycopg.connect(dsn, autocommit=True, prepare_threshold=0 if number % 3 else None) as conn:
            while not stop.is_set():
                try:
                    row = conn.execute("INSERT INTO public.bookings (company_id, note) VALUES (%s, 'w') RETURNING id", (1,)).fetchone()
                    with lock:
                        acknowledged.append(row[0])
                except psycopg.Error as error:
                    codes.add(error.sqlstate)
                    stop.wait(0.002)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for writer in writers:
        writer.start()
    time.sleep(0.4)
    with connect(source.source, application_name="test") as conn:
        freeze.freeze(conn, tables_of(conn), side="source", fence_id="f1")
        frozen = conn.execute("SELECT count(*) FROM public.bookings").fetchone()
        time.sleep(0.4)
        assert conn.execute("SELECT count(*) FROM public.bookings").fetchone() == frozen
        stop.set()
        for writer in writers:
            writer.join(10)
        assert codes == {"25006"} and acknowledged
        (there,) = conn.execute("SELECT array_agg(id) FROM public.bookings WHERE note = 'w'").fetchone()
        assert set(there) == set(acknowledged)
        freeze.thaw(conn)


def test_thaw_lets_writes_pass_while_a_reader_keeps_the_trigger(source: Any) -> None:
    with connect(source.source, application_name="test") as conn, source.source_server.connect(source.dbname) as reader:
        freeze.freeze(conn, tables_of(conn), side="source", fence_id="f1")
        reader.execute("BEGIN; SELECT count(*) FROM public.companies")
        started = time.monotonic()
        thawed = freeze.thaw(conn)
        assert thawed.leftover == ("public.companies",)
        assert time.monotonic() - started < 6
        source.on_source("UPDATE public.companies SET name = name WHERE id = 1")
        reader.execute("COMMIT")
        assert freeze.thaw(conn).changed and not freeze.status(conn).covered
