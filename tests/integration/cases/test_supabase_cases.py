"""What a Supabase source brings that must not act, leak or vanish on the way: hooks, jobs, secrets, policies, other services' tables."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pgservers
import psycopg
import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import (
    cutover,
    cutover_deferred,
    cutover_sides,
    cutover_single,
    schema,
    schema_plan,
)
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.copy import copy
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.endpoint import Endpoint
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.schema_deferred import Deferred
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Selection
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.verify import verify
from integration.conftest import Pair
from integration.transfer import supabase_shape as shape
from integration.transfer.cases import wait_until

SUPABASE = Selection(flavour="supabase")
OPTIONS = schema_plan.Options()
SWITCH = cutover_sides.Options(workers=1, deadline=60)
SUBJECT = "7d444840-9dc0-11d1-b245-5ffdce74fad2"
CLEAN = ("DROP DATABASE {0} WITH (FORCE)", "CREATE DATABASE {0}")


def drop_roles(pair: Pair, *more: str) -> None:
    for server in (pair.source_server, pair.target_server):
        server.execute("postgres", *(statement.format(pair.dbname) for statement in CLEAN))
        server.execute("postgres", *(f"DROP ROLE IF EXISTS {role}" for role in (*shape.ROLE_NAMES, *more)))


@pytest.fixture
def shaped(pair: Pair) -> Iterator[Pair]:
    """Source in Supabase's shape; the target has none of its roles."""
    pair.on_source(shape.ROLES, shape.SHAPE)
    try:
        yield pair
    finally:
        drop_roles(pair)


def run(pair: Pair, section: str = "all", options: schema_plan.Options = OPTIONS) -> schema.Outcome:
    return schema.transfer(pair.source, pair.target, SUPABASE, section, options)


def waiting(outcome: schema.Outcome) -> dict[tuple[str, str], Deferred]:
    return {(item.kind, item.object): item for item in outcome.deferred}


def test_case_21_a_reader_under_row_security_fails_with_the_statement_that_helps(pair: Pair) -> None:
    pair.on_source(
        "CREATE ROLE r21_reader LOGIN PASSWORD 'throw-away'",
        "CREATE TABLE hidden (id int PRIMARY KEY, owner text)",
        "INSERT INTO hidden VALUES (1, 'a'), (2, 'b')",
        "ALTER TABLE hidden ENABLE ROW LEVEL SECURITY; ALTER TABLE hidden FORCE ROW LEVEL SECURITY",
        "CREATE POLICY own ON hidden USING (owner = current_user)",
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO r21_reader",
    )
    source = pair.source_server.endpoint(pair.dbname, "r21_reader")
    try:
        schema.transfer(source, pair.target, Selection(), "pre_data", OPTIONS)
        with pytest.raises(TransferError, match="row-level security") as caught:
            copy(source, pair.target, Selection(), workers=1)
        assert caught.value.details["kind"] == "row_security" and 'ALTER ROLE "r21_reader" BYPASSRLS' in caught.value.remedy
        with pytest.raises((TransferError, psycopg.Error), match="row-level security"):
            verify(source, pair.target, Selection())
        assert pair.on_target("SELECT count(*) FROM hidden") == [(0,)]
        pair.on_source('ALTER ROLE "r21_reader" BYPASSRLS')
        copy(source, pair.target, Selection(), workers=1)
        assert pair.on_target("SELECT count(*) FROM hidden") == [(2,)]
    finally:
        for server in (pair.source_server, pair.target_server):
            server.execute(
                pair.dbname,
                "DO $$ BEGIN IF to_regrole('r21_reader') IS NOT NULL THEN DROP OWNED BY r21_reader; DROP ROLE r21_reader; END IF; END $$",
            )


POLICIES = (
    "CREATE FUNCTION auth.jwt() RETURNS jsonb LANGUAGE sql STABLE AS $$ SELECT nullif(current_setting('request.jwt.claims', true), '')::jsonb $$",
    "CREATE TABLE public.teams (id int PRIMARY KEY, member uuid)",
    f"INSERT INTO public.teams VALUES (1, '{SUBJECT}')",
    "CREATE TABLE public.notes (id int PRIMARY KEY, team int, body text)",
    "INSERT INTO public.notes VALUES (1, 1, 'mine'), (2, 2, 'theirs')",
    "CREATE FUNCTION public.my_teams() RETURNS SETOF int LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' AS"
    " $$ SELECT id FROM public.teams WHERE member = auth.uid() $$",
    "REVOKE EXECUTE ON FUNCTION public.my_teams() FROM PUBLIC; GRANT EXECUTE ON FUNCTION public.my_teams() TO authenticated, app_owner",
    "ALTER FUNCTION public.my_teams() OWNER TO app_owner; GRANT SELECT ON public.teams TO app_owner",
    "ALTER TABLE public.notes ENABLE ROW LEVEL SECURITY; GRANT SELECT, INSERT ON public.notes TO anon, authenticated",
    "CREATE POLICY of_team ON public.notes FOR SELECT TO authenticated USING (team IN (SELECT public.my_teams()))",
    "CREATE POLICY as_editor ON public.notes AS RESTRICTIVE FOR INSERT TO authenticated WITH CHECK ((auth.jwt() ->> 'role') = 'editor')",
    "CREATE POLICY any_insert ON public.notes FOR INSERT TO authenticated WITH CHECK (true)",
)


def test_case_22_policies_mean_the_same_to_anon_and_authenticated(shaped: Pair) -> None:
    shaped.on_source(*POLICIES)
    run(shaped, "pre_data")
    copy(shaped.source, shaped.target, SUPABASE, workers=1)
    run(shaped, "post_data")
    equal = (
        "SELECT polrelid::regclass::text, polname, polcmd::text, polpermissive, polroles::regrole[]::text, pg_get_expr(polqual, polrelid),"
        " pg_get_expr(polwithcheck, polrelid) FROM pg_policy ORDER BY 1, 2"
    )
    assert shaped.on_source(equal) == shaped.on_target(equal)
    secure = "SELECT prosecdef, proconfig, proacl::text, pg_get_userbyid(proowner) FROM pg_proc WHERE proname = 'my_teams'"
    assert shaped.on_source(secure) == shaped.on_target(secure)
    for server in (shaped.source_server, shaped.target_server):
        with server.connect(shaped.dbname) as conn:
            conn.execute("SET ROLE anon")
            assert conn.execute("SELECT count(*) FROM public.notes").fetchone() == (0,)
            conn.execute(f"RESET ROLE; SET ROLE authenticated; SET request.jwt.claim.sub = '{SUBJECT}'; SET request.jwt.claims = '{{}}'")
            assert conn.execute("SELECT body FROM public.notes").fetchall() == [("mine",)]
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match='row-level security policy "as_editor"'):
                conn.execute("INSERT INTO public.notes VALUES (3, 1, 'x')")
            conn.execute("""SET request.jwt.claims = '{"role": "editor"}'; INSERT INTO public.notes VALUES (3, 1, 'x')""")


HOOKS = (
    "DROP TRIGGER hook ON public.bookings; DROP FUNCTION supabase_functions.http_request()",
    "CREATE FUNCTION supabase_functions.http_request() RETURNS trigger LANGUAGE plpgsql AS $$"
    " BEGIN INSERT INTO public.calls VALUES (TG_ARGV[0]); RETURN NEW; END $$",
    "CREATE TABLE public.calls (url text)",
    "CREATE TRIGGER hook AFTER INSERT ON public.loose FOR EACH ROW EXECUTE FUNCTION"
    """ supabase_functions.http_request('https://hooks.example', 'POST', '{"Authorization":"Bearer s3cret-key"}')""",
    "CREATE FUNCTION public.on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE WARNING 'ddl seen'; END $$",
    "CREATE EVENT TRIGGER ours ON ddl_command_end WHEN TAG IN ('CREATE TABLE', 'DROP TABLE') EXECUTE FUNCTION public.on_ddl()",
    "ALTER PUBLICATION supabase_realtime ADD TABLE public.loose (memo) WHERE (memo <> 'x')",
)


def test_case_25_hooks_event_triggers_and_publications_wait_and_are_switched_on_once(shaped: Pair) -> None:
    shaped.on_source(*HOOKS)
    first = run(shaped)
    found = waiting(first)
    assert set(found) == {
        ("event_trigger", "ours"),
        ("event_trigger", "pgrst_ddl_watch"),
        ("publication", "supabase_realtime"),
        ("webhook", "hook on public.loose"),
        ("cron_job", "nightly"),
    }
    assert not any(item.active for item in first.deferred) and "s3cret" not in repr(first)
    assert "supabase_functions.http_request()" in found["webhook", "hook on public.loose"].needs
    assert "platform" in found["event_trigger", "pgrst_ddl_watch"].needs and not found["event_trigger", "pgrst_ddl_watch"].statements
    none = "SELECT (SELECT count(*) FROM pg_event_trigger), (SELECT count(*) FROM pg_publication), (SELECT count(*) FROM pg_trigger WHERE tgname = 'hook')"
    assert shaped.on_target(none) == [(0, 0, 0)]
    # The platform's part is installed on the target: the hook can be made, switched off.
    shaped.on_target(
        "CREATE SCHEMA supabase_functions",
        "CREATE FUNCTION supabase_functions.http_request() RETURNS trigger LANGUAGE plpgsql AS $$"
        " BEGIN INSERT INTO public.calls VALUES (TG_ARGV[0]); RETURN NEW; END $$",
    )
    second = run(shaped)
    assert second.applied == ("trigger hook on public.loose, switched off",) and "s3cret" not in repr(second)
    shaped.on_target("INSERT INTO public.loose VALUES (1, 'before')")
    assert shaped.on_target("SELECT count(*) FROM public.calls") == [(0,)]
    assert not run(shaped).changed
    # The cutover.
    for item in second.deferred:
        if item.statements and not item.needs:
            shaped.on_target(*item.statements)
    shaped.on_target("INSERT INTO public.loose VALUES (1, 'after')")
    assert shaped.on_target("SELECT url FROM public.calls") == [("https://hooks.example",)]
    last = run(shaped)
    assert not last.changed
    active = {name for name, item in waiting(last).items() if item.active}
    assert active == {("event_trigger", "ours"), ("publication", "supabase_realtime"), ("webhook", "hook on public.loose")}
    tables = "SELECT pubname, schemaname, tablename, attnames, rowfilter FROM pg_publication_tables ORDER BY 3"
    assert shaped.on_source(tables) == shaped.on_target(tables)
    events = "SELECT evtname, evtevent, evttags, evtenabled::text FROM pg_event_trigger WHERE evtname = 'ours'"
    assert shaped.on_source(events) == shaped.on_target(events)


def closed_copy(source: Endpoint, target: Endpoint, options: schema_plan.Options = OPTIONS) -> None:
    """Everything up to the switch, with the target closed."""
    schema.transfer(source, target, SUPABASE, "pre_data", options)
    cutover_single.frozen(source, target, SUPABASE, "target", SWITCH)
    copy(source, target, SUPABASE, workers=1)
    schema.transfer(source, target, SUPABASE, "post_data", options)


def standing(result: dict[str, Any]) -> dict[tuple[str, str], str]:
    return {(item["kind"], item["object"]): item["state"] for item in result["deferred"]}


# Event triggers and hooks that fire, and publications.
ACTING = """SELECT (SELECT array_agg(evtname::text ORDER BY 1) FROM pg_event_trigger WHERE evtenabled <> 'D'),
    (SELECT array_agg(pubname::text ORDER BY 1) FROM pg_publication),
    (SELECT array_agg(tgname::text) FROM pg_trigger WHERE tgname = 'hook' AND tgenabled <> 'D')"""


def test_case_25_the_cutover_switches_on_what_waits_once_and_the_way_back_off_again(shaped: Pair) -> None:
    # Published with only one of its columns, a table without a key takes no delete, and nothing could be brought back into it.
    whole = (
        "ALTER TABLE public.loose REPLICA IDENTITY FULL",
        "ALTER PUBLICATION supabase_realtime ADD TABLE public.loose WHERE (memo <> 'x')",
    )
    shaped.on_source(*HOOKS[:-1], *whole)
    shaped.on_target(
        "CREATE SCHEMA supabase_functions",
        "CREATE FUNCTION supabase_functions.http_request() RETURNS trigger LANGUAGE plpgsql AS $$"
        " BEGIN INSERT INTO public.calls VALUES (TG_ARGV[0]); RETURN NEW; END $$",
    )
    closed_copy(shaped.source, shaped.target)
    # Made after the schema transfer: what counts is what acts on the source when it is left.
    shaped.on_source("CREATE PUBLICATION late FOR TABLE public.loose")
    assert shaped.on_target(ACTING) == [(None, None, None)]
    calls = "SELECT count(*) FROM public.calls"
    done = cutover.cut_over(shaped.source, shaped.target, SUPABASE, SWITCH)
    assert standing(done) == {
        ("event_trigger", "ours"): "on",
        ("event_trigger", "pgrst_ddl_watch"): "waiting",
        ("publication", "late"): "on",
        ("publication", "supabase_realtime"): "on",
        ("webhook", "hook on public.loose"): "on",
        ("cron_job", "nightly"): "waiting",
    }
    assert shaped.on_target(ACTING) == [(["ours"], ["late", "supabase_realtime"], ["hook"])]
    told = cutover_deferred.warnings(done)
    assert len(told) == 1 and "cron job nightly: needs pg_cron on the target" in told[0] and "s3cret" not in repr(done)
    # Once, on both sides together: the source takes no write that a hook could tell of.
    shaped.on_target("INSERT INTO public.loose VALUES (1, 'after')")
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        shaped.on_source("INSERT INTO public.loose VALUES (1, 'after')")
    assert shaped.on_target(calls) == [(1,)] and shaped.on_source(calls) == [(0,)]
    # What a person does afterwards stays, however often the same is asked for.
    shaped.on_target("DROP PUBLICATION late")
    again = cutover.cut_over(shaped.source, shaped.target, SUPABASE, SWITCH)
    assert not again["changed"] and again["deferred"] == done["deferred"]
    assert shaped.on_target(ACTING) == [(["ours"], ["supabase_realtime"], ["hook"])]
    shaped.on_target("CREATE PUBLICATION late FOR TABLE public.loose")
    back = cutover.roll_back(shaped.source, shaped.target, SUPABASE, SWITCH)
    assert set(standing(back).values()) == {"off"} and cutover_deferred.warnings(back) == []
    assert shaped.on_target(ACTING) == [(None, None, None)]
    shaped.on_source("INSERT INTO public.loose VALUES (1, 'back')")
    assert shaped.on_source(calls) == [(2,)], "the call that was made on the target came back with its row, and one was made here"
    assert not cutover.roll_back(shaped.source, shaped.target, SUPABASE, SWITCH)["changed"]
    forth = cutover.cut_over(shaped.source, shaped.target, SUPABASE, SWITCH)
    assert standing(forth) == standing(done)
    assert shaped.on_target(ACTING) == [(["ours"], ["late", "supabase_realtime"], ["hook"])]


def test_case_25_what_cannot_be_switched_is_told_and_done_by_the_next_run(shaped: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    shaped.on_source("DROP TRIGGER hook ON public.bookings; DROP EVENT TRIGGER pgrst_ddl_watch; DELETE FROM cron.job")
    closed_copy(shaped.source, shaped.target)
    monkeypatch.setattr(cutover_deferred, "LOCK_MS", 100)
    monkeypatch.setattr(cutover_deferred, "PAUSE_SECONDS", 0.05)
    with shaped.target_server.connect(shaped.dbname) as busy:
        busy.execute("BEGIN")
        # In the way of a publication and of no write, as an index that is built beside them is.
        busy.execute("LOCK TABLE public.bookings IN SHARE UPDATE EXCLUSIVE MODE")
        done = cutover.cut_over(shaped.source, shaped.target, SUPABASE, SWITCH)
    (item,) = done["deferred"]
    assert done["changed"] and item["state"] == "waiting" and "lock timeout" in item["problem"]
    assert item["statements"] == [
        'CREATE PUBLICATION "supabase_realtime" FOR TABLE "public"."bookings" WITH (publish = \'insert, update, delete, truncate\')'
    ]
    (line,) = cutover_deferred.warnings(done)
    assert f"on the target run {item['statements'][0]};" in line
    again = cutover.cut_over(shaped.source, shaped.target, SUPABASE, SWITCH)
    assert again["changed"] and standing(again) == {("publication", "supabase_realtime"): "on"} and not cutover_deferred.warnings(again)
    assert not cutover.cut_over(shaped.source, shaped.target, SUPABASE, SWITCH)["changed"]


def test_case_25_a_killed_run_goes_on_with_what_is_left(shaped: Pair) -> None:
    shaped.on_source("DROP TRIGGER hook ON public.bookings; DROP EVENT TRIGGER pgrst_ddl_watch; DELETE FROM cron.job")
    shaped.on_source("CREATE PUBLICATION earlier FOR TABLE public.loose")
    closed_copy(shaped.source, shaped.target)
    with shaped.target_server.connect(shaped.dbname) as busy:
        busy.execute("BEGIN")
        busy.execute("LOCK TABLE public.bookings IN SHARE UPDATE EXCLUSIVE MODE")
        child = os.fork()
        if child == 0:
            cutover_deferred.LOCK_MS = 600_000
            try:
                cutover.cut_over(shaped.source, shaped.target, SUPABASE, SWITCH)
            finally:
                os._exit(0)
        waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'CREATE PUBLICATION%'"
        try:
            wait_until(lambda: shaped.on_target(waits) == [(1,)], "the wait for the lock")
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    # The server notices that nobody waits any more when it has the lock.
    wait_until(lambda: shaped.on_target(waits) == [(0,)], "the end of the killed run's session")
    rows = "SELECT object, state, at FROM cutover.deferred WHERE number > 0 ORDER BY 1"
    before = shaped.on_target(rows)
    assert [row[:2] for row in before] == [("earlier", "on"), ("supabase_realtime", before[1][1])]
    again = cutover.cut_over(shaped.source, shaped.target, SUPABASE, SWITCH)
    assert set(standing(again).values()) == {"on"} and shaped.on_target(rows)[0] == before[0]
    assert shaped.on_target(ACTING)[0][1] == ["earlier", "supabase_realtime"]


@pytest.fixture(scope="module")
def cron_servers() -> Iterator[list[pgservers.Server]]:
    """Two servers with the real pg_cron, in whose database app it works."""
    programs = pgservers.debian_programs()
    ensure = Path(__file__).resolve().parents[2] / "tools" / "apt_ensure.sh"
    subprocess.run([str(ensure), f"postgresql-{programs.parent.name}-cron"], check=True, timeout=300)
    settings = {"shared_preload_libraries": "pg_cron", "cron.database_name": "app", "shared_buffers": "64MB"}
    with pgservers.Fleet(settings) as fleet:
        both = fleet.start(source=programs, target=programs)
        for server in both:
            server.execute("postgres", "CREATE DATABASE app")
        yield both


def test_case_25_cron_jobs_are_made_switched_off_and_switched_on_once(cron_servers: list[pgservers.Server]) -> None:
    source, target = cron_servers
    ends = [Endpoint.from_args(server.args("app", flavour="supabase")) for server in cron_servers]
    source.execute(
        "app",
        "CREATE EXTENSION pg_cron",
        "SELECT cron.schedule('nightly', '0 3 * * *', 'SELECT ''Bearer s3cret-key''')",
        "SELECT cron.schedule('paused', '0 4 * * *', 'SELECT 2')",
        "SELECT cron.alter_job(2, active := false)",
        "SELECT cron.schedule('0 5 * * *', 'SELECT 3')",
        "CREATE TABLE t (id int PRIMARY KEY)",
    )
    behind = schema.transfer(*ends, SUPABASE, "all", OPTIONS)
    assert dict(behind.skipped)["extension pg_cron"] == "it is part of the platform and would act on both sides"
    assert waiting(behind)["cron_job", "nightly"].needs and "s3cret" not in repr(behind)
    options = schema_plan.Options(extension_map={"pg_cron": "pg_cron"})
    done = schema.transfer(*ends, SUPABASE, "all", options)
    assert "cron job nightly, switched off" in done.applied and "s3cret" not in repr(done)
    jobs = "SELECT jobname, schedule, command, username, active FROM cron.job ORDER BY jobid"
    assert [job[-1] for job in target.execute("app", jobs)] == [False, False, False]
    assert not schema.transfer(*ends, SUPABASE, "all", options).changed
    items = waiting(done)
    assert set(items) == {("cron_job", "nightly"), ("cron_job", "job 3")} and not any(item.needs for item in items.values())
    for item in items.values():
        target.execute("app", *item.statements)
    ours, theirs = source.execute("app", jobs), target.execute("app", jobs)
    assert [job[1:] for job in ours] == [job[1:] for job in theirs]
    last = schema.transfer(*ends, SUPABASE, "all", options)
    assert not last.changed and all(item.active for item in last.deferred)


def fresh_cron(servers: list[pgservers.Server]) -> None:
    for server in servers:
        server.execute("app", "DROP EXTENSION IF EXISTS pg_cron", "DROP TABLE IF EXISTS t", "DROP SCHEMA IF EXISTS cutover CASCADE")
    servers[0].execute("app", "CREATE EXTENSION pg_cron", "CREATE TABLE t (id int PRIMARY KEY)")


def test_case_25_a_job_runs_on_one_side_only_there_and_back(cron_servers: list[pgservers.Server]) -> None:
    source, target = cron_servers
    fresh_cron(cron_servers)
    source.execute(
        "app",
        "SELECT cron.schedule('nightly', '0 3 * * *', 'SELECT ''Bearer s3cret-key''')",
        "SELECT cron.schedule('paused', '0 4 * * *', 'SELECT 2')",
        "UPDATE cron.job SET active = false WHERE jobname = 'paused'",
        "SELECT cron.schedule('0 5 * * *', 'SELECT 3')",
    )
    ends = [Endpoint.from_args(server.args("app", flavour="supabase")) for server in cron_servers]
    closed_copy(ends[0], ends[1], schema_plan.Options(extension_map={"pg_cron": "pg_cron"}))
    both = [("SELECT 'Bearer s3cret-key'",), ("SELECT 3",)]

    def acting() -> list[list[tuple[Any, ...]]]:
        return [server.execute("app", 'SELECT command FROM cron.job WHERE active ORDER BY command COLLATE "C"') for server in cron_servers]

    assert acting() == [both, []]
    done = cutover.cut_over(ends[0], ends[1], SUPABASE, SWITCH)
    assert acting() == [[], both] and set(standing(done).values()) == {"on"} and "s3cret" not in repr(done)
    assert not cutover_deferred.warnings(done)
    # What a person has paused since is left alone.
    target.execute("app", "UPDATE cron.job SET active = false WHERE command = 'SELECT 3'")
    assert not cutover.cut_over(ends[0], ends[1], SUPABASE, SWITCH)["changed"] and acting() == [[], both[:1]]
    back = cutover.roll_back(ends[0], ends[1], SUPABASE, SWITCH)
    assert acting() == [both, []] and set(standing(back).values()) == {"off"} and not cutover_deferred.warnings(back)


def test_case_25_a_job_that_cannot_be_stopped_on_the_source_is_named(cron_servers: list[pgservers.Server]) -> None:
    source, target = cron_servers
    fresh_cron(cron_servers)
    source.execute(
        "app",
        "SELECT cron.schedule('nightly', '0 3 * * *', 'SELECT 1')",
        # It may see the job, which belongs to another role.
        "CREATE ROLE mover25 LOGIN BYPASSRLS PASSWORD 'throw-away'",
        "GRANT CREATE ON DATABASE app TO mover25; GRANT ALL ON SCHEMA public TO mover25; ALTER TABLE t OWNER TO mover25",
        "GRANT USAGE ON SCHEMA cron TO mover25; GRANT SELECT ON cron.job TO mover25",
    )
    given = Endpoint.from_args(source.args("app", "mover25", "throw-away", flavour="supabase"))
    there = Endpoint.from_args(target.args("app", flavour="supabase"))
    closed_copy(given, there, schema_plan.Options(extension_map={"pg_cron": "pg_cron"}))
    done = cutover.cut_over(given, there, SUPABASE, SWITCH)
    (item,) = done["deferred"]
    by_hand = "SELECT cron.alter_job(jobid, active := false) FROM cron.job WHERE jobid = 1"
    assert item["state"] == "on" and item["source_statements"] == [by_hand]
    (line,) = cutover_deferred.warnings(done)
    assert line.startswith("cron job nightly: on the source: ") and f"on the source run {by_hand};" in line


# The documented surface of supabase_vault: a table of ciphertext, a view of plaintext, a function that encrypts under the server's own key.
VAULT = """
CREATE SCHEMA vault; CREATE SCHEMA IF NOT EXISTS extensions; CREATE EXTENSION IF NOT EXISTS pgcrypto SCHEMA extensions;
CREATE TABLE vault.root (key text); INSERT INTO vault.root VALUES (gen_random_uuid()::text);
CREATE TABLE vault.secrets (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text, description text NOT NULL DEFAULT '', secret text NOT NULL,
 key_id uuid, nonce bytea, created_at timestamptz NOT NULL DEFAULT clock_timestamp(), updated_at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE UNIQUE INDEX secrets_name_idx ON vault.secrets (name) WHERE name IS NOT NULL;
CREATE VIEW vault.decrypted_secrets AS SELECT id, name, description, secret,
 extensions.pgp_sym_decrypt(decode(secret, 'base64'), (SELECT key FROM vault.root)) AS decrypted_secret,
 key_id, nonce, created_at, updated_at FROM vault.secrets;
CREATE FUNCTION vault.create_secret(new_secret text, new_name text DEFAULT NULL, new_description text DEFAULT '', new_key_id uuid DEFAULT NULL)
 RETURNS uuid LANGUAGE sql AS $$ INSERT INTO vault.secrets (secret, name, description)
 VALUES (encode(extensions.pgp_sym_encrypt(new_secret, (SELECT key FROM vault.root)), 'base64'), new_name, new_description) RETURNING id $$;
"""
PLAIN = ("plain-s3cret-one", "it's \\ two\nlines", "s3cret-unnamed")


def test_case_26_vault_secrets_are_readable_on_the_target_or_counted(pair: Pair) -> None:
    secrets = "SELECT name, description, decrypted_secret FROM vault.decrypted_secrets ORDER BY created_at"
    with pair.source_server.connect(pair.dbname) as conn:
        conn.execute(VAULT)
        for text, name in zip(PLAIN, ("one", "two", None), strict=True):
            conn.execute("SELECT vault.create_secret(%s, %s, 'for ' || coalesce(%s, ''))", (text, name, name))
    pair.on_source("CREATE TABLE t (id int)")
    recreate = schema_plan.Options(vault="recreate")
    counted = run(pair)
    assert counted.vault.found == 3 and len(counted.vault.not_moved) == 3 and counted.vault.moved == ()
    assert ("vault secret one", "vault is report; make it on the target with vault.create_secret") in counted.skipped
    without = run(pair, options=recreate).vault
    assert {reason for _name, reason in without.not_moved} == {"the target has no vault.create_secret (extension supabase_vault)"}
    pair.on_target(VAULT)
    log = pair.target_server.home / "log"
    pair.target_server.execute("postgres", "ALTER SYSTEM SET log_statement = 'all'", "SELECT pg_reload_conf()")
    try:
        moved = run(pair, options=recreate)
    finally:
        pair.target_server.execute("postgres", "ALTER SYSTEM RESET log_statement", "SELECT pg_reload_conf()")
    assert moved.changed and len(moved.vault.moved) == 3 and moved.vault.not_moved == ()
    assert pair.on_source(secrets) == pair.on_target(secrets)
    ciphertext = "SELECT secret FROM vault.secrets ORDER BY created_at"
    assert not set(pair.on_source(ciphertext)) & set(pair.on_target(ciphertext))
    written = log.read_text(errors="replace")
    assert "execute" in written and not any(text in written or text in repr(moved) for text in PLAIN)
    again = run(pair, options=recreate)
    assert not again.changed and again.vault.present == 3
    pair.on_target("DELETE FROM vault.secrets WHERE name = 'one'", "SELECT vault.create_secret('another', 'one')")
    kept = run(pair, options=recreate)
    assert kept.vault.not_moved == (("one", "the target has another secret of this name; it was left alone"),) and not kept.changed


OLDER = (
    shape.ROLES,
    'CREATE SCHEMA auth AUTHORIZATION supabase_auth_admin; CREATE SCHEMA extensions; CREATE EXTENSION "uuid-ossp" SCHEMA extensions',
    "CREATE TABLE auth.users (id uuid PRIMARY KEY DEFAULT extensions.uuid_generate_v4(), email text UNIQUE, created_at timestamptz DEFAULT now(),"
    " local_only text DEFAULT 'here')",
    "ALTER TABLE auth.users OWNER TO supabase_auth_admin",
)
NEWER = (
    "ALTER TABLE auth.users ADD is_anonymous boolean NOT NULL DEFAULT false, ADD banned_until timestamptz, ADD phone text",
    "CREATE INDEX users_anonymous ON auth.users (is_anonymous)",
    "ALTER TABLE auth.users ADD CONSTRAINT phone_short CHECK (length(phone) < 20)",
    "GRANT SELECT (phone) ON auth.users TO authenticated",
    f"INSERT INTO auth.users (id, email) VALUES ('{SUBJECT}', 'a@example.org')",
)  # fmt: skip


def test_case_27_a_column_that_the_targets_auth_lacks_stops_when_it_holds_data(shaped: Pair) -> None:
    shaped.on_source(*NEWER, "UPDATE auth.users SET phone = '+49'", "UPDATE auth.users SET is_anonymous = true")
    shaped.on_target(*OLDER)
    with pytest.raises(TransferError, match=r"auth\.users\.is_anonymous, auth\.users\.phone$") as caught:
        run(shaped)
    assert caught.value.details["kind"] == "columns_missing"
    assert shaped.on_target("SELECT to_regclass('public.companies')") == [(None,)]
    shaped.on_source("UPDATE auth.users SET phone = NULL, is_anonymous = false")
    first = run(shaped, "pre_data")
    copied = copy(shaped.source, shaped.target, SUPABASE, workers=1)
    assert copied.changed
    last = run(shaped, "post_data")
    absent = {name for name, note in first.notes if "holds no data" in note}
    assert absent == {"column auth.users.banned_until", "column auth.users.is_anonymous", "column auth.users.phone"}
    skipped = dict(last.skipped)
    assert skipped["index auth.users_anonymous"].startswith("it uses column auth.users.is_anonymous")
    assert skipped["table constraint phone_short on auth.users"].startswith("it uses column auth.users.phone")
    assert not run(shaped).changed
    assert shaped.on_target("SELECT id::text, email, local_only FROM auth.users") == [(SUBJECT, "a@example.org", "here")]
    assert verify(shaped.source, shaped.target, SUPABASE).equal
    assert shaped.on_target("SELECT count(*) FROM auth.users JOIN storage.objects ON owner = users.id") == [(0,)]
