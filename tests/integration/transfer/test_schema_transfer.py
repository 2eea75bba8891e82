"""Schema, roles and privileges of a Supabase-shaped database, brought to an empty one and compared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import schema, schema_plan
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Selection
from integration.transfer import supabase_shape as shape

SUPABASE = Selection(flavour="supabase")
OPTIONS = schema_plan.Options()
EXTRA = (
    "CREATE VIEW public.per_company AS SELECT c.*, count(b.id) AS n FROM public.companies c LEFT JOIN public.bookings b ON b.company_id = c.id GROUP BY c.id",
    "ALTER VIEW public.per_company OWNER TO app_owner",
    "CREATE FUNCTION public.booked(company bigint) RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM public.bookings WHERE company_id = company'",
    "CREATE RULE quiet AS ON INSERT TO public.loose WHERE NEW.memo = 'drop' DO INSTEAD NOTHING",
    "CREATE STATISTICS public.both (ndistinct) ON company_id, memo FROM public.loose",
    "ALTER DATABASE {dbname} SET extra_float_digits = 0",
    'ALTER ROLE app_login IN DATABASE {dbname} SET search_path = "$user", public, "Odd, schema"',
    "GRANT TEMP ON DATABASE {dbname} TO reporting",
)


@pytest.fixture
def moved(pair: Any) -> Iterator[Any]:
    """Source in Supabase's shape; the target has none of its roles."""
    pair.on_source(shape.ROLES, shape.SHAPE, *(statement.format(dbname=pair.dbname) for statement in EXTRA))
    yield pair
    for server in (pair.source_server, pair.target_server):
        server.execute("postgres", f"DROP DATABASE {pair.dbname} WITH (FORCE)", f"CREATE DATABASE {pair.dbname}")
    drop_roles(pair.target_server)


def drop_roles(server: Any) -> None:
    for role in shape.ROLE_NAMES:
        server.execute("postgres", f"DROP ROLE IF EXISTS {role}")


def run(
    pair: Any, section: str, selection: Selection = SUPABASE, options: schema_plan.Options = OPTIONS, check: bool = False
) -> schema.Outcome:
    return schema.transfer(pair.source, pair.target, selection, section, options, check)


def copy_rows(pair: Any, *tables: str) -> None:
    """Rows by the server's own means, so that these tests need nothing of the copy engine."""
    with pair.source_server.connect(pair.dbname) as src, pair.target_server.connect(pair.dbname) as dst:
        dst.execute("SET session_replication_role = replica")
        for table in tables:
            columns = ", ".join(
                name
                for (name,) in src.execute(
                    "SELECT quote_ident(attname) FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND attgenerated = ''",
                    (table,),
                ).fetchall()
            )
            with (
                src.cursor().copy(f"COPY {table} ({columns}) TO STDOUT") as out,
                dst.cursor().copy(f"COPY {table} ({columns}) FROM STDIN") as into,
            ):
                for block in out:
                    into.write(block)


ROWS = (
    "auth.users",
    "storage.objects",
    "public.companies",
    "public.bookings",
    "public.loose",
    'public."Odd name"',
    "public.events_2025",
    "public.events_2026",
)

CATALOGUE = """
SELECT 'class', c.oid::regclass::text, concat_ws(' ', c.relkind, pg_get_userbyid(c.relowner), c.relrowsecurity, c.relforcerowsecurity,
   c.relispartition, c.relpersistence,
   (SELECT string_agg(x::text, ',' ORDER BY x::text) FROM unnest(coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char",
   c.relowner))) x))
 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname IN ('public', 'auth', 'storage') AND c.relname <> 'schema_migrations' AND c.relname <> 'schema_migrations_pkey'
UNION ALL SELECT 'column', a.attrelid::regclass::text || '.' || a.attname, concat_ws(' ', format_type(a.atttypid, a.atttypmod), a.attnotnull,
   a.attidentity, a.attgenerated,
   a.attacl::text, pg_get_expr(d.adbin, d.adrelid)) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
   LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE n.nspname IN ('public', 'auth', 'storage') AND a.attnum > 0 AND c.relkind IN ('r', 'p', 'v', 'm') AND c.relname <> 'schema_migrations'
UNION ALL SELECT 'constraint', conrelid::regclass::text || '.' || conname, pg_get_constraintdef(k.oid) || convalidated FROM pg_constraint k
 JOIN pg_namespace n ON n.oid = k.connamespace WHERE n.nspname IN ('public', 'auth', 'storage') AND conrelid::regclass::text <> 'auth.schema_migrations'
UNION ALL SELECT 'index', indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
 JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname IN ('public', 'auth', 'storage') AND c.relname <> 'schema_migrations'
UNION ALL SELECT 'policy', polrelid::regclass::text || '.' || polname, concat_ws(' ', polcmd, polroles::regrole[]::text, pg_get_expr(polqual,
   polrelid), pg_get_expr(polwithcheck, polrelid)) FROM pg_policy
UNION ALL SELECT 'trigger', tgrelid::regclass::text || '.' || tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal AND tgname <> 'hook'
UNION ALL SELECT 'function', p.oid::regprocedure::text, concat_ws(' ', pg_get_userbyid(proowner), (SELECT string_agg(x::text, ',' ORDER BY x::text)
   FROM unnest(coalesce(proacl, acldefault('f', proowner))) x), md5(prosrc))
 FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname IN ('public', 'auth', 'storage')
UNION ALL SELECT 'schema', nspname, concat_ws(' ', pg_get_userbyid(nspowner), nspacl::text) FROM pg_namespace WHERE nspname IN ('public', 'auth',
   'storage', 'extensions')
UNION ALL SELECT 'view', c.oid::regclass::text, pg_get_viewdef(c.oid) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE relkind IN
   ('v', 'm') AND n.nspname = 'public'
UNION ALL SELECT 'rule', rulename, definition FROM pg_rules WHERE schemaname = 'public'
UNION ALL SELECT 'extension', extname, nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace
UNION ALL SELECT 'default acl', defaclrole::regrole::text, defaclacl::text FROM pg_default_acl
UNION ALL SELECT 'comment', objoid::regclass::text, description FROM pg_description WHERE classoid = 'pg_class'::regclass AND objoid >= 16384
UNION ALL SELECT 'statistics', stxname, pg_get_statisticsobjdef(oid) FROM pg_statistic_ext
ORDER BY 1, 2, 3
"""
ROLE_STATE = """
SELECT rolname, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolbypassrls, rolconnlimit,
 (SELECT string_agg(r.rolname || m.admin_option, ',' ORDER BY r.rolname) FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid WHERE m.member = a.oid),
 (SELECT string_agg(concat(setdatabase <> 0, array_to_string(ARRAY(SELECT x FROM unnest(setconfig) x WHERE x NOT LIKE '%%preload%%' ORDER BY 1),
   ';')), ';' ORDER BY setdatabase)
  FROM pg_db_role_setting WHERE setrole = a.oid AND setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database())))
FROM pg_roles a WHERE rolname = ANY(%s) ORDER BY 1
"""


def role_state(server: Any, dbname: str) -> list[tuple[Any, ...]]:
    with server.connect(dbname) as conn:
        return conn.execute(ROLE_STATE, (list(shape.ROLE_NAMES),)).fetchall()


def catalogue(server: Any, dbname: str) -> list[tuple[Any, ...]]:
    return list(server.execute(dbname, CATALOGUE))


def test_everything_arrives_equal_and_a_second_run_changes_nothing(moved: Any) -> None:
    planned = run(moved, "pre_data", check=True)
    assert planned.changed and "table public.bookings" in planned.applied
    assert moved.on_target("SELECT to_regclass('public.bookings')") == [(None,)]
    first = run(moved, "pre_data", options=schema_plan.Options(role_passwords={"authenticator": "only-for-this-test"}))
    assert set(shape.ROLE_NAMES) == set(first.roles_created)
    assert set(first.roles_without_password) == {"app_login", "supabase_auth_admin", "supabase_storage_admin"}
    skipped = dict(first.skipped)
    assert {
        "event trigger pgrst_ddl_watch",
        "publication supabase_realtime",
        "trigger hook on public.bookings",
        "schema realtime",
        "cron job nightly",
    } <= set(skipped)
    assert {"role supabase_admin: SUPERUSER", "role authenticator: session_preload_libraries"} <= set(skipped)
    assert not run(moved, "pre_data").changed
    copy_rows(moved, *ROWS)
    assert run(moved, "post_data", check=True).changed
    assert run(moved, "post_data").changed
    mine, other = catalogue(moved.source_server, moved.dbname), catalogue(moved.target_server, moved.dbname)
    assert [row for row in mine if row not in other] == []
    assert [row for row in other if row not in mine] == []
    assert role_state(moved.source_server, moved.dbname) == role_state(moved.target_server, moved.dbname)
    assert moved.on_target(
        "SELECT rolsuper, rolpassword IS NULL FROM pg_authid WHERE rolname IN ('supabase_admin', 'authenticator') ORDER BY rolname"
    ) == [(False, False), (False, True)]
    assert moved.on_target("SELECT convalidated FROM pg_constraint WHERE conname = 'bookings_company'") == [(False,)]
    assert moved.on_target("SELECT count(*) FROM public.totals") == moved.on_source("SELECT count(*) FROM public.totals")
    assert moved.on_target("SELECT has_database_privilege('reporting', current_database(), 'TEMP')") == [(True,)]
    for section in schema.SECTIONS:
        again = run(moved, section)
        assert not again.changed, again.applied


def test_the_policies_work_on_the_target(moved: Any) -> None:
    run(moved, "all")
    copy_rows(moved, "public.companies")
    with moved.target_server.connect(moved.dbname) as conn:
        conn.execute("SET ROLE authenticated; SELECT set_config('request.jwt.claim.sub', '7d444840-9dc0-11d1-b245-5ffdce74fad2', false)")
        conn.execute("INSERT INTO public.bookings (company_id, owner) VALUES (1, auth.uid())")
        assert conn.execute("SELECT count(*) FROM public.bookings").fetchone() == (1,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("INSERT INTO public.bookings (company_id, owner) VALUES (1, NULL)")


def test_an_interrupted_second_half_is_finished_by_the_next_run(moved: Any) -> None:
    run(moved, "pre_data")
    copy_rows(moved, *ROWS)
    moved.on_target(
        'ALTER TABLE public."Odd name" ADD CONSTRAINT "Odd name_pkey" PRIMARY KEY (id)',
        "CREATE INDEX bookings_company ON public.bookings (company_id)",
    )
    assert run(moved, "post_data").changed
    moved.on_target(
        "DROP POLICY readers ON public.companies",
        "ALTER TABLE public.bookings DISABLE ROW LEVEL SECURITY",
        "GRANT DELETE ON public.companies TO anon",
    )
    repaired = run(moved, "all")
    assert repaired.changed
    assert catalogue(moved.source_server, moved.dbname) == catalogue(moved.target_server, moved.dbname)


def test_rows_that_break_a_key_are_named_and_nothing_is_hidden(moved: Any) -> None:
    run(moved, "pre_data")
    moved.on_target("INSERT INTO public.companies (id, name) VALUES (1, 'a'), (1, 'b')")
    with pytest.raises(TransferError, match=r"could not create unique index \"companies_pkey\""):
        run(moved, "post_data")
    moved.on_target("DELETE FROM public.companies WHERE name = 'b'")
    assert run(moved, "post_data").changed


def test_an_extension_that_the_target_lacks_is_refused_with_its_columns_or_skipped(moved: Any) -> None:
    moved.on_source(
        "CREATE EXTENSION citext WITH SCHEMA extensions", "CREATE TABLE public.tagged (id int PRIMARY KEY, tag extensions.citext)"
    )
    with pytest.raises(TransferError, match=r"table public.tagged: it uses extension citext \(column tag\)"):
        run(moved, "pre_data", options=schema_plan.Options(extension_skip=("citext",)))
    assert moved.on_target("SELECT count(*) FROM pg_roles WHERE rolname = 'anon'") == [(0,)]
    done = run(
        moved, "pre_data", Selection(flavour="supabase", exclude=("public.tagged",)), schema_plan.Options(extension_skip=("citext",))
    )
    assert ("extension citext", "extensions.skip names it") in list(done.skipped)


def test_renames_go_through_keys_views_and_policies(moved: Any) -> None:
    renamed = Selection.from_args(
        rename={
            "schemas": {"storage": "files"},
            "tables": {"public.bookings": "orders"},
            "columns": {"public.companies.name": "title", "public.bookings.note": "remark"},
        },
        flavour="supabase",
    )
    first = run(moved, "pre_data", renamed)
    assert {"function": "touch()", "mentions": "bookings"} in [
        {**m, "function": m["function"].removeprefix("public.")} for m in first.mentions
    ]
    assert not run(moved, "pre_data", renamed).changed
    assert run(moved, "post_data", renamed).changed
    for section in schema.SECTIONS:
        assert not run(moved, section, renamed).changed
    (policies,) = moved.on_target("SELECT count(*) FROM pg_policy WHERE polrelid = 'public.orders'::regclass")
    (key,) = moved.on_target(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'objects_owner_fkey' AND conrelid = 'files.objects'::regclass"
    )
    assert policies == (1,) and key == ("FOREIGN KEY (owner) REFERENCES auth.users(id)",)
    assert "title" in moved.on_target("SELECT pg_get_viewdef('public.busy'::regclass)")[0][0]


def test_a_plain_database_moves_too(moved: Any) -> None:
    done = run(moved, "all", Selection(include=("public.*",), exclude=("public.loose",)))
    names = dict(done.skipped)
    assert names["table public.loose"] == "its table is not selected"
    assert moved.on_target("SELECT to_regclass('public.bookings') IS NOT NULL, to_regclass('public.loose'), to_regclass('auth.users')") == [
        (True, None, None)
    ]
    assert not run(moved, "all", Selection(include=("public.*",), exclude=("public.loose",))).changed
