"""The archive's table of contents: read whatever names hold, and judged."""

from __future__ import annotations

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import renaming, roles, schema_plan, toc
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.schema_catalog import Extension
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Selection

LISTING = """;
; Selected TOC Entries:
;
1; 0 0 ENCODING - ENCODING
8; 2615 100 SCHEMA - auth postgres
9; 2615 101 SCHEMA - realtime postgres
10; 3079 200 EXTENSION - vector
;\tdepends on: 8
20; 1259 300 TABLE public Odd ; name FK CONSTRAINT owner
21; 1259 301 TABLE realtime messages owner
;\tdepends on: 9
22; 1259 302 TABLE public items owner
;\tdepends on: 10 8 10
30; 2606 400 FK CONSTRAINT public Odd x owner
;\tdepends on: 20 21
31; 0 0 COMMENT public TABLE messages owner
;\tdepends on: 21
40; 3466 500 EVENT TRIGGER - watch owner
41; 0 300 ROW SECURITY public Odd owner
;\tdepends on: 20
"""
FACTS = {
    (2615, 100): toc.Fact("schema", "auth", "auth"),
    (2615, 101): toc.Fact("schema", "realtime", "realtime"),
    (3079, 200): toc.Fact("extension", "vector"),
    (1259, 300): toc.Fact("table", 'public."Odd ; name FK CONSTRAINT"', "public", ("public", "Odd ; name FK CONSTRAINT")),
    (1259, 301): toc.Fact("table", "realtime.messages", "realtime", ("realtime", "messages")),
    (1259, 302): toc.Fact("table", "public.items", "public", ("public", "items")),
    (2606, 400): toc.Fact("table constraint", "x on public.odd", "public", ("public", "Odd ; name FK CONSTRAINT")),
    (3466, 500): toc.Fact("event trigger", "watch"),
}
SUPABASE = Selection(flavour="supabase")


def judged(unwanted: dict[toc.Key, str]) -> toc.Verdict:
    return toc.judge(toc.parse(LISTING), FACTS, SUPABASE, frozenset({"realtime"}), frozenset(), {}, unwanted)


def test_entries_are_known_by_number_not_by_name() -> None:
    entries = {entry.number: entry for entry in toc.parse(LISTING)}
    assert entries[20].description == "TABLE" and entries[20].key == (1259, 300)
    assert entries[22].needs == (10, 8) and entries[41].description == "ROW SECURITY" and entries[30].description == "FK CONSTRAINT"
    assert len(entries) == 11


def test_what_depends_on_the_platform_stays_behind_with_a_reason() -> None:
    verdict = judged({})
    assert {entry.number for entry in verdict.keep} == {1, 8, 20, 22, 41}
    reasons = dict(verdict.skipped)
    assert reasons["table realtime.messages"] == "it belongs to the platform"
    assert reasons["table constraint x on public.odd"] == "it needs table realtime.messages"
    assert "event trigger watch" in reasons and not any("comment" in name for name in reasons) and not verdict.broken


def test_a_table_that_moves_but_needs_what_does_not_is_broken() -> None:
    assert judged({(3079, 200): "the target does not offer it"}).broken == (("table public.items", "it needs extension vector"),)


def test_extensions_are_mapped_skipped_or_left() -> None:
    installed = [
        Extension(1, "vector", "1", "public", ()),
        Extension(2, "pg_net", "1", "net", ()),
        Extension(3, "citext", "1", "extensions", ()),
    ]
    plan = schema_plan.plan_extensions(installed, {"citext": "2", "pg_net": "1"}, schema_plan.Options(), "supabase")
    assert plan.create == (("citext", "extensions"),) and plan.names == ("vector", "pg_net") and plan.homes == {"extensions"}
    assert plan.notes == (("extension citext", "version 1 on the source, 2 on the target"),)
    assert [row["left_behind"] for row in plan.rows] == [
        "the target does not offer it",
        "it is part of the platform and would act on both sides",
        "",
    ]
    mapped = schema_plan.plan_extensions(
        installed[:1], {"pgvector": "1"}, schema_plan.Options(extension_map={"vector": "pgvector"}), "supabase"
    )
    assert mapped.create == (("pgvector", "public"),)
    with pytest.raises(TransferError, match="which the target does not offer"):
        schema_plan.plan_extensions(installed[:1], {}, schema_plan.Options(extension_map={"vector": "pgvector"}), "supabase")


def role(name: str, *settings: tuple[str, str, str], **flags: bool) -> roles.Role:
    off = dict.fromkeys(("SUPERUSER", "INHERIT", "CREATEROLE", "CREATEDB", "LOGIN", "REPLICATION", "BYPASSRLS"), False)
    return roles.Role(name, off | flags, -1, "", settings)


def plan(source: roles.Roles, target: roles.Roles, **more: object) -> roles.RolePlan:
    names = roles.wanted(source, source.roles)
    options = {"target_settings": frozenset({"statement_timeout", "search_path"}), "passwords": {}, "with_password": frozenset()} | more
    return roles.plan(source, target, names, source_db="old", target_db="new", **options)  # type: ignore[arg-type]


def test_roles_never_become_superusers_and_keep_the_rest() -> None:
    settings = (
        ("", "statement_timeout", "3s"),
        ("old", "search_path", '"$user", public, "a ""b, c"'),
        ("", "session_preload_libraries", "x"),
        ("", "unheard_of", "1"),
    )
    source = roles.Roles(
        {"admin": role("admin", SUPERUSER=True, LOGIN=True), "anon": role("anon", *settings)}, (roles.Membership("anon", "admin", True),)
    )
    done = plan(source, roles.Roles({}))
    assert done.statements[0].startswith('CREATE ROLE "admin" NOSUPERUSER') and " LOGIN " in done.statements[0]
    assert """ALTER ROLE "anon" IN DATABASE "new" SET "search_path" TO '$user', 'public', 'a "b, c'""" in done.statements
    assert 'GRANT "anon" TO "admin" WITH ADMIN OPTION' in done.statements
    assert dict(done.skipped).keys() == {"role admin: SUPERUSER", "role anon: session_preload_libraries", "role anon: unheard_of"}
    assert done.without_password == ("admin",)


def test_a_second_plan_is_empty_and_the_targets_administrator_is_left_alone() -> None:
    source = roles.Roles({"postgres": role("postgres", ("", "statement_timeout", "3s"), LOGIN=True), "anon": role("anon")})
    target = roles.Roles({"postgres": role("postgres", SUPERUSER=True, LOGIN=True), "anon": role("anon")})
    done = plan(source, target)
    assert not done.statements and not done.created and not done.without_password


def test_a_membership_is_widened_to_the_sources_and_never_beyond() -> None:
    known = {n: role(n) for n in ("a", "b", "c")}
    source = roles.Roles(
        known, (roles.Membership("a", "b", False, True, False), roles.Membership("a", "c", False, True, True)), (), (), True
    )
    target = roles.Roles(
        known, (roles.Membership("a", "b", True, False, False), roles.Membership("b", "c", False, True, True)), (), (), True
    )
    done = plan(source, target)
    assert set(done.statements) == {
        'GRANT "a" TO "b" WITH ADMIN TRUE, INHERIT TRUE, SET FALSE',
        'GRANT "a" TO "c" WITH ADMIN FALSE, INHERIT TRUE, SET TRUE',
    }
    assert done.notes == (("role c", 'on the target it is also in b; to undo that: REVOKE "b" FROM "c"'),)
    assert not plan(source, roles.Roles(known, source.memberships, (), (), True)).statements


def test_a_role_of_the_target_that_differs_is_told_with_the_statement() -> None:
    done = plan(roles.Roles({"app": role("app", LOGIN=True)}), roles.Roles({"app": role("app", BYPASSRLS=True)}))
    assert done.notes == (("role app", 'the target\'s differs; to make it as on the source: ALTER ROLE "app" LOGIN NOBYPASSRLS'),)
    assert not done.statements


def test_renames_in_a_circle_are_refused() -> None:
    swapped = Selection.from_args(rename={"tables": {"public.a": "b", "public.b": "a"}}).rename
    with pytest.raises(TransferError, match=r"circle: public\.a to public\.b to public\.a"):
        renaming.refuse_circles(swapped)
    renaming.refuse_circles(Selection.from_args(rename={"tables": {"public.a": "b", "public.b": "c"}, "schemas": {"a": "b"}}).rename)


def test_members_and_what_they_are_in_come_along() -> None:
    source = roles.Roles(
        {n: role(n) for n in ("a", "b", "c", "d", "pg_monitor")}, (roles.Membership("a", "b", False), roles.Membership("c", "a", False))
    )
    assert roles.wanted(source, ["a", "pg_monitor"]) == ["a", "b", "c"]


def test_no_rename_mentions_nothing() -> None:
    assert renaming.mentions(None, SUPABASE.rename) == []  # type: ignore[arg-type]
