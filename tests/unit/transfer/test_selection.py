"""Which tables are taken, what they are called, and that the way back leads back."""

from __future__ import annotations

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Rename, Selection
from hypothesis import given
from hypothesis import strategies as st


def test_everything_but_the_systems_own_schemas_by_default() -> None:
    selection = Selection.from_args()
    assert selection.matches("public", "a") and selection.matches("etl", "a") and selection.matches("auth", "users")
    for schema in ("pg_catalog", "information_schema", "pg_toast", "pg_temp_3", "cutover"):
        assert not selection.matches(schema, "a")


def test_supabase_leaves_its_own_and_takes_users_data() -> None:
    selection = Selection.from_args(flavour="supabase")
    assert selection.matches("auth", "users") and selection.matches("storage", "objects") and selection.matches("public", "a")
    for schema, table in (("realtime", "messages"), ("vault", "secrets"), ("_timescaledb_internal", "x"), ("auth", "schema_migrations")):
        assert not selection.matches(schema, table)


def test_platform_schema_is_taken_when_named_and_only_then() -> None:
    assert Selection.from_args(["cron.*"], flavour="supabase").matches("cron", "job")
    assert not Selection.from_args(["*.*"], flavour="supabase").matches("cron", "job")
    assert not Selection.from_args(["auth.*"], flavour="supabase").matches("auth", "schema_migrations")
    assert Selection.from_args(["auth.schema_migrations"], flavour="supabase").matches("auth", "schema_migrations")


def test_exclude_wins_and_case_counts() -> None:
    selection = Selection.from_args(["public.*"], ["public.tmp_?"])
    assert selection.matches("public", "tmp_10") and not selection.matches("public", "tmp_1") and not selection.matches("Public", "a")


def test_partitions_follow_the_table_on_top() -> None:
    assert Selection.from_args(["public.events"]).matches("public", "events_2024", ("public", "events"))
    assert not Selection.from_args([], ["public.events"]).matches("public", "events_2024", ("public", "events"))
    assert not Selection.from_args([], ["public.events_2024"]).matches("public", "events_2024", ("public", "events"))


RENAME = {"schemas": {"old": "new"}, "tables": {"old.t": "tt", "public.u": "uu"}, "columns": {"old.t.a": "aa", "public.u.b": "bb"}}


def test_rename_there_and_back() -> None:
    selection = Selection.from_args(["old.*", "public.u"], [], RENAME)
    assert selection.target_name("old", "t") == ("new", "tt") and selection.target_name("old", "x") == ("new", "x")
    assert selection.target_column("old", "t", "a") == "aa" and selection.target_column("old", "t", "z") == "z"
    back = selection.inverted()
    assert (
        back.target_name("new", "tt") == ("old", "t")
        and back.target_column("new", "tt", "aa") == "a"
        and back.target_column("public", "uu", "bb") == "b"
    )
    assert back.matches("new", "tt") and back.matches("public", "uu")
    assert not back.matches("old", "t"), "a table of the old name on the new side was never moved"
    assert not back.matches("public", "other") and back.inverted() is selection


names = st.sampled_from(["a", "b", "c", "d"])


@given(st.dictionaries(names, st.sampled_from(["n1", "n2", "n3"]), max_size=3), names, names)
def test_inverse_of_an_injective_rename_is_the_identity(schemas: dict[str, str], schema: str, table: str) -> None:
    distinct = {old: f"{new}_{old}" for old, new in schemas.items()}
    rename = Rename(distinct, {f"{schema}.{table}": "renamed"}, {f"{schema}.{table}.x": "y"})
    back = rename.inverted()
    assert back.table(*rename.table(schema, table)) == (schema, table)
    assert back.column(*rename.table(schema, table), rename.column(schema, table, "x")) == "x"
    assert back.inverted() == rename


def test_collisions_are_refused() -> None:
    with pytest.raises(TransferError, match=r"public\.a and public\.b would both be called public\.b"):
        Selection.from_args(rename={"tables": {"public.a": "b"}}).check({("public", "a"): ("x",), ("public", "b"): ("x",)})
    with pytest.raises(TransferError, match="columns x and y"):
        Selection.from_args(rename={"columns": {"public.a.x": "y"}}).check({("public", "a"): ("x", "y")})
    assert (
        Selection.from_args(exclude=["public.b"], rename={"tables": {"public.a": "b"}}).check({("public", "a"): (), ("public", "b"): ()})
        == []
    )


def test_what_matches_nothing_is_reported() -> None:
    selection = Selection.from_args(
        ["public.a", "public.typo*"], ["no.*"], {"tables": {"public.gone": "x"}, "columns": {"public.a.c": "d"}}
    )
    found = selection.check({("public", "a"): ("id",)})
    assert len(found) == 4 and any("typo" in line for line in found) and any("public.gone" in line for line in found)


@pytest.mark.parametrize(
    "arguments",
    [{"include": ["public"]}, {"exclude": ["x"]}, {"rename": {"table": {}}}, {"rename": {"tables": {"t": "u"}}}, {"rename": {"schemas": {"a": ""}}},
     {"rename": {"columns": {"a.b": "c"}}}, {"rename": {"schemas": {"a": "x" * 64}}}],
)  # fmt: skip
def test_bad_arguments_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(TransferError):
        Selection.from_args(**arguments)  # type: ignore[arg-type]
