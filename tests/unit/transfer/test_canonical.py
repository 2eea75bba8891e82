"""The form in which values are compared, chosen by type on both sides."""

from __future__ import annotations

import re

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import canonical, handshake, typed
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.canonical import Agreement
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.catalog import Column, quote_ident, quote_literal
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.typed import Form

TEXT = '"c"::text COLLATE "C"'


def column(base: str, kind: str = "b", element: str = "", not_null: bool = False, type_sql: str = "") -> Column:
    return Column("c", type_sql or base, base, kind, element, "b" if element else "", not_null, "", "", "", 1)


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (column("pg_catalog.int4"), Form('"c"::pg_catalog.int4', "int4")),
        (column("pg_catalog.int8", not_null=True), Form('"c"::pg_catalog.int8', "int8", False)),
        (column("pg_catalog.text"), Form(TEXT, "text")),
        (column("pg_catalog.bpchar", type_sql="character(6)"), Form(TEXT, "text")),
        (column("pg_catalog.bpchar", type_sql="bpchar"), Form('bpcharsend("c"::bpchar)', "bytea", costly=True)),
        (column("pg_catalog.float8"), Form('"c"::pg_catalog.float8', "float8")),
        (column("pg_catalog.numeric"), Form(TEXT, "text", costly=True)),
        (column("pg_catalog.interval"), Form(TEXT, "text", costly=True)),
        (column("pg_catalog.time"), Form(TEXT, "text", costly=True)),
        (column("pg_catalog.cidr"), Form('"c"::inet', "inet")),
        (column("pg_catalog.jsonb"), Form(TEXT, "text", costly=True)),
        (column("public.mood", "e"), Form(TEXT, "text", costly=True)),
        (column("pg_catalog._int4", element="pg_catalog.int4"), Form(TEXT, "text", costly=True)),
        (column("public.geometry"), Form('ROW("c")::text COLLATE "C"', "text", False, costly=True)),
    ],
)
def test_typed_form_keeps_what_a_types_own_hash_would_lose(one: Column, expected: Form) -> None:
    assert canonical.typed_form('"c"', one, one) == expected


def test_types_that_differ_between_the_sides_are_compared_as_text() -> None:
    found = canonical.typed_form('"c"', column("pg_catalog.int4"), column("pg_catalog.int8"))
    assert found == Form(TEXT, "text", costly=True)
    shorter = column("pg_catalog.bpchar", type_sql="character(6)"), column("pg_catalog.bpchar", type_sql="character(8)")
    assert canonical.typed_form('"c"', *shorter).kind == "bytea", "blanks are part of the value when the lengths differ"


def test_a_column_is_never_null_only_when_both_sides_say_so() -> None:
    sure, unsure = column("pg_catalog.int4", not_null=True), column("pg_catalog.int4")
    assert not canonical.typed_form('"c"', sure, sure).nullable and canonical.typed_form('"c"', sure, unsure).nullable


def test_a_type_whose_hashes_differ_between_the_servers_is_hashed_as_text() -> None:
    one = column("pg_catalog.uuid")
    assert canonical.typed_form('"c"', one, one, frozenset({"pg_catalog.uuid"})) == Form(TEXT, "text", costly=True)


def test_large_values_enter_text_as_digests_and_only_where_they_may_exist() -> None:
    one = column("pg_catalog.bytea")
    assert canonical.text_form('"c"', one, one) == '"c"' and "sha256" in canonical.text_form('"c"', one, one, 1000)
    assert "sha256" in canonical.typed_form('"c"', one, one, big=True).sql
    wide = canonical.hashed(Agreement("text"), [('"c"', one, one)] * 40, big=True).inner
    limits = [int(number) for number in re.findall(r"> (\d+) THEN", wide)]
    assert len(limits) == 40 and sum(limits) * 2 < 2**30, "a row's text stays below 1 GB whatever its values hold"


@pytest.mark.parametrize("strategy", ["text", "md5", "sha256"])
def test_two_hashes_of_a_rows_text_that_are_not_the_same_function(strategy: str) -> None:
    hashed = canonical.row_hash(strategy, ['"a"', '"b"'])
    assert hashed.first != hashed.second and 'ROW("a", "b")' in hashed.inner and "x" in hashed.first
    assert hashed.inner in hashed.whole and canonical.row_hash(strategy, []).first == "0::bigint"


def test_every_column_is_in_both_typed_hashes_under_seeds_of_their_own() -> None:
    forms = [
        Form(f"v_{place}_", kind, nullable) for place, (kind, nullable) in enumerate((k, n) for k in typed.KINDS for n in (True, False))
    ]
    first, second = typed.pair_of_hashes(forms, [form.sql for form in forms])
    for form in forms:
        assert form.sql in first and form.sql in second
    seeds = [set(re.findall(r", (\d+)\), 0\)", half)) for half in (first, second)]
    assert seeds[0] and seeds[1] and not seeds[0] & seeds[1], "no hash of one sum has the seed of one of the other"


def test_a_fold_of_64_bits_is_never_all_that_is_looked_at() -> None:
    for nullable in (True, False):
        bigint = typed.pair_of_hashes([Form("v", "int8", nullable)], ["v"])[1]
        assert "hashint8extended" not in bigint and re.search(r"hashint4extended\(\d+, v\)", bigint)
        moment = typed.pair_of_hashes([Form("v", "timestamptz", nullable)], ["v"])[1]
        assert "timestamp_hash_extended" not in moment and "tstzrange_subdiff(v" in moment


def test_a_wide_table_is_hashed_in_chains_that_no_stack_minds() -> None:
    forms = [Form(f"v{place}", "int4", False) for place in range(1600)]
    first, second = typed.pair_of_hashes(forms, [form.sql for form in forms])

    def depth(sql: str) -> int:
        level = deepest = 0
        for letter in sql:
            level += (letter == "(") - (letter == ")")
            deepest = max(deepest, level)
        return deepest

    assert depth(first) < 150 and depth(second) < 150 and all(f"v{place}," in first for place in range(1600))


def test_differing_probes_are_named_by_type() -> None:
    asked = handshake.probes({"pg_catalog.xml"})
    assert {base for base, _literal in asked} == set(handshake.PROBES)
    assert "pg_catalog.xml" not in {base for base, _literal in handshake.probes(())}, "a server may have been built without XML"
    ours = [(number, "h", "g") for number in range(len(asked))]
    assert handshake.differing_types(asked, ours, ours[::-1]) == frozenset()
    names = [base for base, _literal in asked]
    place = names.index("pg_catalog.money")
    theirs = [*ours[:place], (place, "other", "g"), *ours[place + 1 :]]
    assert handshake.differing_types(asked, ours, theirs) == {"pg_catalog.money"}
    assert handshake.differing_types(asked, ours, ours[:-1]) == {names[-1]}


def test_servers_fall_back_type_by_type_and_then_as_a_whole() -> None:
    def of(*names: str) -> frozenset[str]:
        return frozenset(names)

    assert handshake.agree("record", of("uuid", "int4"), of(), of(), of()) == Agreement("record")
    assert handshake.agree("record", of("uuid", "int4"), of(), of("uuid", "date"), of()) == Agreement("record", of("uuid"))
    assert handshake.agree("record", of("char"), of("char"), of(), of()) == Agreement("record"), "its own hash needs no common text"
    assert handshake.agree("record", of("char"), of("char"), of("char"), of("char")) is None
    assert handshake.agree("record", of("uuid"), of(), of("uuid"), of("uuid")) is None, "texts hash differently too"
    assert handshake.agree("text", of("uuid"), of(), of("uuid"), of()) is None
    assert handshake.agree("md5", of("uuid"), of("money"), of("money"), of()) == Agreement("md5")
    assert handshake.agree("md5", of("money"), of("money"), of("money"), of()) is None


def test_quoting() -> None:
    assert quote_ident('a"b') == '"a""b"' and quote_literal("it's") == "'it''s'" and quote_literal("a\\'b") == " E'a\\\\''b'"
