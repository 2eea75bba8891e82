"""Preflight against real servers: every trap is found by name, and nothing is touched."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import preflight
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Selection
from integration.transfer import supabase_shape as shape

SUPABASE = Selection(flavour="supabase")
WISH = preflight.Wish(workers=2)


@pytest.fixture
def source(pair: Any) -> Iterator[Any]:
    pair.on_source(shape.ROLES, shape.SHAPE)
    pair.on_source("ALTER ROLE app_login PASSWORD 'throw-away'")
    yield pair


def problems(report: preflight.Report, severity: str) -> dict[str, str]:
    return {finding.object: f"{finding.problem} | {finding.fix}" for finding in report.findings if finding.severity == severity}


def written(pair: Any) -> list[Any]:
    """Rows that sessions, all ended by now, have changed on either side, catalogues included."""
    query = "SELECT tup_inserted, tup_updated, tup_deleted FROM pg_stat_database WHERE datname = current_database()"
    return [one(query) for one in (pair.on_source, pair.on_target)]


def test_the_count_of_written_rows_sees_a_write(source: Any) -> None:
    before = written(source)
    source.on_target("CREATE TABLE public.seen (id int)")
    time.sleep(0.2)
    assert written(source) != before


def test_a_good_pair_has_no_error_and_nothing_is_written(source: Any) -> None:
    time.sleep(0.2)
    before = written(source)
    report = preflight.preflight(source.source, source.target, SUPABASE, WISH)
    time.sleep(0.2)
    assert written(source) == before
    assert report.ok, report.findings
    facts = report.facts["source"]
    assert facts["tables"] == 8 and facts["sequences"] >= 5 and facts["extensions"].keys() == {"pgcrypto", "uuid-ossp"}
    assert "public.loose" in facts["without_key"]
    assert "public.loose" in problems(report, "warning")


def test_each_refused_connection_has_a_name(source: Any) -> None:
    for endpoint, words in (
        (source.source_server.endpoint(source.dbname, password="wrong"), "refuses the password"),
        (source.source_server.endpoint("nowhere"), "database nowhere does not exist"),
        (source.source_server.endpoint(source.dbname, user="nobody_here"), "password"),
    ):
        report = preflight.preflight(endpoint, None, SUPABASE, WISH)
        assert not report.ok and words in report.findings[0].problem and "throw-away" not in str(report.plain())
    pooled = source.source_server.args(source.dbname) | {"port": 6543, "flavour": "supabase"}
    report = preflight.preflight(type(source.source).from_args(pooled), None, SUPABASE, WISH)
    assert "transaction pooler" in report.findings[0].problem


def test_a_role_that_would_read_nothing_is_an_error_with_its_grant(source: Any) -> None:
    source.on_source("ALTER ROLE app_login NOINHERIT", "GRANT SELECT ON public.companies, public.bookings TO app_login")
    weak = source.source_server.endpoint(source.dbname, user="app_login")
    report = preflight.preflight(weak, None, Selection(include=("public.*",)), WISH)
    errors = [(finding.object, finding.problem, finding.fix) for finding in report.findings if finding.severity == "error"]
    assert ("public.bookings", "row level security hides rows from role app_login", 'ALTER ROLE "app_login" BYPASSRLS;') in errors
    assert ("public.loose", "role app_login may not read it", 'GRANT SELECT ON "public"."loose" TO "app_login";') in errors
    assert (
        "public.events",
        "role app_login may not create the trigger that stops writes",
        'GRANT TRIGGER ON "public"."events" TO "app_login";',
    ) in errors
    assert any(name == f"database {source.dbname}" and "GRANT CREATE ON DATABASE" in fix for name, _problem, fix in errors)
    assert any(name == "public.untouched" and "GRANT SELECT ON SEQUENCE" in fix for name, _problem, fix in errors)
    assert "session_replication_role" in problems(report, "warning")
    source.on_source("ALTER ROLE app_login INHERIT")


def test_decisions_are_asked_for(source: Any) -> None:
    source.on_source(
        "CREATE UNLOGGED TABLE public.volatile (id int PRIMARY KEY)",
        "CREATE TRIGGER always BEFORE UPDATE ON public.companies FOR EACH ROW EXECUTE FUNCTION public.touch()",
        "ALTER TABLE public.companies ENABLE ALWAYS TRIGGER always",
        "SELECT lo_create(0)",
        "CREATE EXTENSION hstore",
        "CREATE TABLE public.pairs (id int PRIMARY KEY, v hstore)",
        "CREATE FOREIGN DATA WRAPPER nothing",
        "CREATE SERVER elsewhere FOREIGN DATA WRAPPER nothing",
        "CREATE FOREIGN TABLE public.far (id int) SERVER elsewhere",
    )
    source.on_target("CREATE TABLE public.companies (id bigint); INSERT INTO public.companies VALUES (1)")
    wish = preflight.Wish(workers=2, extension_skip=("hstore",))
    selection = Selection.from_args(exclude=["public.nowhere*"], rename={"tables": {"public.missing": "x"}}, flavour="supabase")
    report = preflight.preflight(source.source, source.target, selection, wish)
    warnings, errors = problems(report, "warning"), problems(report, "error")
    assert {"public.volatile", "public.companies", "large objects", "public.far"} <= set(warnings)
    assert "ENABLE ALWAYS" in warnings["public.companies"]
    assert "public.pairs.v" in errors["extension hstore"]
    assert "holds rows" in errors["public.companies"]
    assert "selection" in errors
    crash = Selection.from_args(rename={"tables": {"public.loose": "companies"}}, flavour="supabase")
    assert (
        "would both be called public.companies"
        in problems(preflight.preflight(source.source, source.target, crash, WISH), "error")["rename"]
    )


def test_a_pooler_with_too_few_sessions_is_refused(source: Any) -> None:
    report = preflight.preflight(source.source, source.target, SUPABASE, preflight.Wish(workers=13, max_connections=15))
    assert problems(report, "error")["workers"].startswith("13 workers need 16 sessions, 15 are allowed")
