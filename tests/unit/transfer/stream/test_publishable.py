"""Which tables may be published under which replica identity: decided without a server."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Selection
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.publishable import (
    FROZEN,
    Existing,
    Identity,
    Key,
    Outlook,
    Relation,
    best,
    decide,
    judge,
    works,
)
from hypothesis import given
from hypothesis import strategies as st

V14, V17, V18 = 140010, 170002, 180001
PRIMARY, OTHER = Key(11, "t_pkey", True), Key(12, "t_other", False)
TABLE = Relation(1, "public", "t", "r")
ALL = Selection()


def one(relation: Relation, **more: object) -> Outlook:
    return decide([relation], ALL, **{"version": V17, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("relation", "version", "after"),
    [
        (replace(TABLE, keys=(PRIMARY,)), V17, ""),
        (replace(TABLE, keys=(PRIMARY,), identity="f"), V17, ""),
        (replace(TABLE, keys=(PRIMARY, replace(OTHER, identity=True)), identity="i"), V17, ""),
        (replace(TABLE, keys=(PRIMARY, OTHER), identity="n"), V17, "DEFAULT"),
        (replace(TABLE, keys=(OTHER,)), V17, 'USING INDEX "t_other"'),
        (replace(TABLE, keys=(OTHER,), identity="i"), V17, 'USING INDEX "t_other"'),
        (TABLE, V17, "FULL"),
        (replace(TABLE, keys=(replace(PRIMARY, generated=True),), generated=True), V17, "FULL"),
        (replace(TABLE, keys=(replace(PRIMARY, generated=True), OTHER), generated=True), V18, 'USING INDEX "t_other"'),
        (replace(TABLE, keys=(PRIMARY,), generated=True, identity="f"), V18, "DEFAULT"),
        (replace(TABLE, keys=(PRIMARY,), generated=True, identity="f"), V17, ""),
        (replace(TABLE, keys=(PRIMARY,), generated=True), V18, ""),
    ],
)
def test_identity_of_a_table(relation: Relation, version: int, after: str) -> None:
    outlook = one(relation, version=version)
    assert [table.dotted for table in outlook.tables] == ["public.t"] and not outlook.not_streamed
    assert [change.after.sql for change in outlook.identities] == ([after] if after else [])


@pytest.mark.parametrize(
    ("relation", "more", "reason"),
    [
        (replace(TABLE, persistence="u"), {}, "unlogged"),
        (replace(TABLE, generated=True), {"version": V18}, "generated column"),
        (TABLE, {"full_identity": False}, "full_identity is off"),
        (replace(TABLE, owned=False, owner="boss", keys=(PRIMARY,)), {}, 'GRANT "boss"'),
        (replace(TABLE, owned=False, owner="boss"), {"elevated": True}, "REPLICA IDENTITY FULL, which only its owner boss"),
    ],
)
def test_what_is_left_for_the_freeze(relation: Relation, more: dict[str, object], reason: str) -> None:
    outlook = one(relation, **more)
    assert not outlook.tables and not outlook.identities
    assert [(one.object, one.instead) for one in outlook.not_streamed] == [("public.t", FROZEN)]
    assert reason in outlook.not_streamed[0].reason and "while writes are stopped" in outlook.not_streamed[0].plain()["reason"]


def test_another_owners_table_needs_nothing_but_the_right() -> None:
    assert one(replace(TABLE, owned=False, keys=(PRIMARY,)), elevated=True).names() == ["public.t"]


def test_selection_and_large_objects() -> None:
    relations = [TABLE, Relation(2, "cutover", "state", "r"), Relation(3, "other", "x", "r", keys=(PRIMARY,))]
    outlook = decide(relations, Selection(include=("other.*",)), V17, large_objects=True)
    assert outlook.names() == ["other.x"] and [one.object for one in outlook.not_streamed] == ["pg_catalog.pg_largeobject"]
    assert not decide(relations, Selection(exclude=("pg_catalog.pg_largeobject",)), V17, large_objects=True).not_streamed


ROOT = Relation(100, "public", "tree", "p", keys=(Key(110, "tree_pkey", True),))
LEAVES = [Relation(number, "public", f"leaf_{number}", "r", root=100, keys=(Key(number + 10, "k", True),)) for number in (101, 102)]


def tree(root: Relation = ROOT, leaves: list[Relation] = LEAVES, selection: Selection = ALL, version: int = V17) -> Outlook:
    return decide([root, Relation(105, "public", "middle", "p", root=100), *leaves], selection, version)


def test_a_tree_with_a_primary_key_goes_through_its_root() -> None:
    outlook = tree()
    assert outlook.names() == ["public.tree"] and not outlook.identities and not outlook.warnings
    assert outlook.tables[0].sql == '"public"."tree"' and TABLE.sql == 'ONLY "public"."t"'


@pytest.mark.parametrize(("identity", "version", "changed"), [("d", V17, False), ("f", V17, False), ("n", V17, True), ("i", V17, True)])
def test_partitions_log_what_the_root_describes(identity: str, version: int, changed: bool) -> None:
    outlook = tree(leaves=[replace(LEAVES[0], identity=identity), LEAVES[1]], version=version)
    assert [(change.relation.name, change.after) for change in outlook.identities] == ([("leaf_101", Identity("d"))] if changed else [])


def test_a_root_that_describes_rows_as_a_whole_is_set_back() -> None:
    assert [change.relation.name for change in tree(replace(ROOT, identity="f")).identities] == ["tree"]


def test_without_a_primary_key_each_partition_is_published_by_itself() -> None:
    outlook = tree(replace(ROOT, keys=()), [replace(leaf, keys=()) for leaf in LEAVES])
    assert outlook.names() == ["public.leaf_101", "public.leaf_102"] and len(outlook.identities) == 2
    assert "public.tree is streamed partition by partition" in outlook.warnings[0] and "refuse updates" in outlook.warnings[0]


def test_a_tree_that_is_selected_in_part_is_published_in_part() -> None:
    outlook = tree(selection=Selection(exclude=("public.leaf_101",)))
    assert outlook.names() == ["public.leaf_102"] and "not all of them are selected" in outlook.warnings[0]
    assert tree(selection=Selection(include=("public.leaf_101",))).names() == ["public.leaf_101"]
    assert not tree(selection=Selection(include=("public.other",))).tables


def test_partitions_that_cannot_be_streamed_are_named_beside_their_root() -> None:
    outlook = tree(leaves=[replace(LEAVES[0], persistence="u"), replace(LEAVES[1], kind="f")])
    assert outlook.names() == ["public.tree"]
    assert [(one.object, one.instead) for one in outlook.not_streamed] == [("public.leaf_101", "frozen"), ("public.leaf_102", "never")]


def test_a_partition_whose_identity_only_another_may_set_keeps_the_tree_out() -> None:
    outlook = tree(leaves=[replace(LEAVES[0], identity="n", owned=False), LEAVES[1]])
    assert not outlook.tables and not outlook.identities and "public.leaf_101 would need" in outlook.not_streamed[0].reason


WHOLE = Existing(ours=True, all_tables=False, via_root=True, complete=True, by_schema=False, tables=frozenset({1}))
KEYED = replace(TABLE, keys=(PRIMARY,))


@pytest.mark.parametrize(
    ("existing", "state"),
    [
        (None, "absent"),
        (WHOLE, "equal"),
        (replace(WHOLE, tables=frozenset({1, 2})), "differs"),
        (replace(WHOLE, tables=frozenset()), "differs"),
        (replace(WHOLE, via_root=False), "differs"),
        (replace(WHOLE, complete=False), "differs"),
        (replace(WHOLE, by_schema=True), "differs"),
        (replace(WHOLE, all_tables=True, tables=frozenset()), "differs"),
        (replace(WHOLE, ours=False), "usable"),
        (replace(WHOLE, ours=False, tables=frozenset({1, 2})), "usable"),
        (replace(WHOLE, ours=False, tables=frozenset({2})), "foreign"),
        (replace(WHOLE, ours=False, all_tables=True, tables=frozenset()), "usable"),
        (replace(WHOLE, ours=False, complete=False), "foreign"),
    ],
)
def test_a_publication_that_is_there(existing: Existing | None, state: str) -> None:
    assert one(KEYED, existing=existing).state == state
    assert one(KEYED, existing=existing).changed is (state in ("absent", "differs"))


def test_all_tables_cannot_carry_partitions_by_themselves() -> None:
    everything = replace(WHOLE, ours=False, all_tables=True, tables=frozenset())
    assert judge(everything, [replace(TABLE, root=100)]) == "foreign"


RELATIONS = st.builds(
    Relation,
    oid=st.integers(1, 5),
    schema=st.just("public"),
    name=st.sampled_from("abc"),
    kind=st.sampled_from("rpfm"),
    persistence=st.sampled_from("pu"),
    identity=st.sampled_from("dnfi"),
    owner=st.just("boss"),
    owned=st.booleans(),
    root=st.sampled_from([None, 1, 2]),
    generated=st.booleans(),
    keys=st.lists(
        st.builds(Key, oid=st.integers(11, 15), name=st.just("k"), primary=st.booleans(), generated=st.booleans(), identity=st.booleans()),
        max_size=2,
    ).map(tuple),
)


@given(
    st.lists(RELATIONS, max_size=5, unique_by=lambda one: one.oid),
    st.sampled_from([V14, V18]),
    st.booleans(),
    st.booleans(),
)
def test_nothing_is_published_that_would_refuse_an_update(relations: list[Relation], version: int, full: bool, elevated: bool) -> None:
    outlook = decide(relations, ALL, version, full_identity=full, elevated=elevated)
    after = {change.relation.oid: change.after for change in outlook.identities}
    published = {table.oid for table in outlook.tables}
    assert all(change.relation.owned for change in outlook.identities)
    for table in outlook.tables:
        assert table.owned or elevated
        if table.kind == "r":
            wanted = after.get(table.oid)
            assert works(table, version) if wanted is None else wanted == best(table, version, full)
    for leaf in relations:
        if leaf.root in published and leaf.kind == "r" and leaf.persistence == "p":
            assert leaf.oid in after or leaf.identity in "df"
