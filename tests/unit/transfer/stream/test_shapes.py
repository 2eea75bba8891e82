"""A relation of the sender against a table of the receiver: what goes where, and what is refused with the statement that mends it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Selection
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.facts import KeyColumn, KeyIndex
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.modifiers import narrower, wider
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.pgoutput import TypeName
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.shapes import Route
from unit.transfer.stream.made import received, relation, shaped, simple

ID, NOTE = ("id", 20), ("note", 25)


def refusal(*arguments: Any, **more: Any) -> TransferError:
    with pytest.raises(TransferError) as caught:
        shaped(*arguments, **more)
    return caught.value


def test_columns_are_found_by_name_in_any_order() -> None:
    found = shaped(relation(ID, NOTE), received(NOTE, ("extra", 23), ID))
    assert [(one.sender, one.place, one.name, one.type_sql) for one in found.fields] == [
        ("id", 0, "id", '"pg_catalog"."int8"'),
        ("note", 1, "note", '"pg_catalog"."text"'),
    ]
    assert found.spare == ("extra",) and found.key_places == (0,) and found.mode == "batched"
    assert found.sql == '"public"."t"' and found.only == 'ONLY "public"."t"'
    assert found.source == ("public", "t") and found.source_key == (0,)


def test_names_follow_the_rename_map_there_and_back() -> None:
    forward = Selection.from_args(
        rename={"schemas": {"public": "app"}, "tables": {"public.t": "things"}, "columns": {"public.t.note": "remark"}}
    )
    there = received(ID, ("remark", 25), name="things", schema="app")
    found = shaped(relation(ID, NOTE), there, selection=forward)
    assert found.sql == '"app"."things"' and [one.name for one in found.fields] == ["id", "remark"]
    sent = replace(relation(ID, ("remark", 25), name="things"), schema="app")
    back = shaped(sent, received(ID, NOTE), selection=forward.inverted(), forward=False)
    assert back.sql == '"public"."t"' and [one.name for one in back.fields] == ["id", "note"]
    assert back.source == ("public", "t"), "a verification knows the table by the source's name in both directions"


def test_a_column_that_is_new_on_the_sender_is_asked_for() -> None:
    error = refusal(relation(ID, ("price", 1700, 655366)), received(ID), route=Route(("public", "t"), ("public", "t"), {"id": "id"}))
    assert error.details["kind"] == "definition_changed" and error.details["table"] == "public.t"
    assert 'ALTER TABLE "public"."t" ADD COLUMN "price" numeric(655366)' in error.remedy and "default" in error.remedy


def test_a_column_that_is_gone_is_told_from_one_that_only_the_receiver_ever_had() -> None:
    route = Route(("public", "t"), ("public", "t"), {"id": "id", "note": "note"})
    error = refusal(relation(ID), received(ID, NOTE, ("own", 23)), route=route)
    assert "note" in error.message and "own" not in error.message and 'DROP COLUMN "note"' in error.remedy
    assert shaped(relation(ID), received(ID, NOTE), route=Route(("public", "t"), ("public", "t"), {"id": "id"})).spare == ("note",)
    error = refusal(relation(ID), received(ID, NOTE, not_null=["note"]), route=Route(("public", "t"), ("public", "t"), {"id": "id"}))
    assert "NOT NULL without a default" in error.message


def test_a_column_that_was_left_out_must_stay_empty_forward_and_is_dropped_backward() -> None:
    route = Route(("public", "t"), ("public", "t"), {"id": "id"}, {"note": "none", "more": None})
    sent = relation(ID, NOTE, ("more", 23))
    assert shaped(sent, received(ID), route=route).empty == ((1, "note", b"\0\0\0\4none"), (2, "more", None))
    assert shaped(sent, received(ID), route=route, forward=False).empty == ()
    mended = shaped(sent, received(ID, NOTE, ("more", 23)), route=route)
    assert mended.empty == () and len(mended.fields) == 3


def test_another_type_is_refused_and_a_wider_one_is_not() -> None:
    error = refusal(relation(ID, NOTE), received(ID, ("note", 23)))
    assert error.details["kind"] == "definition_changed" and 'ALTER COLUMN "note" TYPE text' in error.remedy
    assert len(shaped(relation(("id", 23)), received(ID)).fields) == 1
    refusal(relation(ID), received(("id", 23)))
    refusal(relation(ID, ("note", 1043, 24)), received(ID, ("note", 1043, 14)))
    assert len(shaped(relation(ID, ("note", 1043, 24)), received(ID, ("note", 1043, 34))).fields) == 2
    assert len(shaped(relation(ID, ("note", 1043, 24)), received(ID, NOTE)).fields) == 2
    assert "which this server does not have" in refusal(relation(ID, ("note", 9999)), received(ID, NOTE)).message


def test_types_that_are_not_built_in_are_known_by_name() -> None:
    sent, types = relation(ID, ("feel", 17000)), {17000: TypeName(17000, "public", "mood")}
    there = received(ID, ("feel", 25), user={"feel": ("public", "mood")})
    assert shaped(sent, there, types=types).fields[1].type_sql == '"public"."mood"'
    renamed = Selection.from_args(rename={"schemas": {"public": "app"}})
    moved = received(ID, ("feel", 25), user={"feel": ("app", "mood")}, schema="app")
    assert len(shaped(sent, moved, types=types, selection=renamed).fields) == 2
    error = refusal(sent, received(ID, ("feel", 25), user={"feel": ("other", "mood")}), types=types)
    assert 'TYPE "public"."mood"' in error.remedy
    extension = received(ID, ("feel", 25), user={"feel": ("extensions", "mood")}, extension=True)
    assert len(shaped(sent, extension, types=types).fields) == 2, "an extension may live in another schema"
    refusal(sent, there)
    # The name of a domain is that of the type below it.
    domain = {17000: TypeName(17000, "pg_catalog", "text")}
    assert len(shaped(sent, received(ID, ("feel", 25)), types=domain).fields) == 2
    lists = {17000: TypeName(17000, "public", "_mood")}
    assert '"public"."mood"[]' in refusal(sent, received(ID, ("feel", 25)), types=lists).remedy


def test_generated_columns_are_left_out_of_everything() -> None:
    found = shaped(relation(ID, NOTE), received(ID, NOTE, ("twice", 23), generated=["twice", "note"]))
    assert [one.name for one in found.fields] == ["id"] and found.spare == ()


def test_a_table_without_its_key_is_refused() -> None:
    error = refusal(relation(ID, NOTE), received(ID, NOTE, key=()))
    assert error.details["kind"] == "key_missing" and 'ADD PRIMARY KEY ("id")' in error.remedy
    error = refusal(relation(ID, NOTE, key=("note",)), received(ID, NOTE))
    assert error.details["kind"] == "definition_changed" and 'CREATE UNIQUE INDEX ON "public"."t" ("note")' in error.remedy
    unsafe = received(ID, NOTE)
    invalid = replace(unsafe, indexes=(KeyIndex("t_idx", False, False, (KeyColumn("id", ("pg_catalog", "="), None),)),))
    assert refusal(relation(ID, NOTE), invalid).details["kind"] == "key_missing"


def test_full_identity_uses_the_receivers_own_key() -> None:
    found = shaped(relation(ID, NOTE, identity="f"), received(ID, NOTE))
    assert found.full and found.key_places == (0,) and found.source_key == (0,)
    loose = shaped(relation(ID, NOTE, identity="f"), received(ID, NOTE, key=(), lookup=["note"]))
    assert loose.key == () and [one.field.name for one in loose.lookup] == ["note"] and loose.source_key is None
    assert shaped(relation(ID, NOTE, key=()), received(ID, NOTE)).key == (), "inserts only"


def test_a_key_stands_in_the_order_of_its_index_with_its_equality() -> None:
    there = received(("a", 20), ("b", 25), key=())
    index = KeyIndex("k", True, True, (KeyColumn("b", ("extensions", "="), ("pg_catalog", "C")), KeyColumn("a", ("pg_catalog", "="), None)))
    found = shaped(relation(("a", 20), ("b", 25), key=("a", "b")), replace(there, indexes=(index,)))
    assert found.key_places == (1, 0)
    assert [(one.operator, one.collation) for one in found.key] == [
        ('OPERATOR("extensions".=)', '"pg_catalog"."C"'),
        ('OPERATOR("pg_catalog".=)', ""),
    ]


def test_keys_of_a_verification_are_given_only_when_changes_carry_them() -> None:
    route = Route(("public", "t"), ("public", "t"), {"id": "id", "note": "note"}, {}, ("id",))
    there = replace(received(ID, NOTE), indexes=(KeyIndex("u", False, True, (KeyColumn("note", ("pg_catalog", "="), None),)),))
    assert shaped(relation(ID, NOTE, key=("note",), identity="i"), there, route=route).source_key is None
    assert shaped(relation(ID, NOTE), received(ID, NOTE), route=route).source_key == (0,)


def test_a_new_table_is_never_ignored() -> None:
    sent = relation(ID, name="fresh")
    error = refusal(sent, received(ID), known=False)
    assert error.details["kind"] == "new_table" and "pg_row_copy" in error.remedy and "public.fresh" in error.message
    assert refusal(sent, received(ID), known=True).details["kind"] == "definition_changed"


def test_partitioned_tables_are_written_through_the_root() -> None:
    found = simple(ID, kind="p")
    assert found.only == found.sql == '"public"."t"'


@pytest.mark.parametrize(
    ("oid", "sent", "there", "narrow"),
    [
        (1043, 14, 14, False),
        (1043, 14, -1, False),
        (1043, -1, 14, True),
        (1043, 24, 14, True),
        (1015, 14, 24, False),
        (1042, 10, 12, True),
        (1042, 10, -1, False),
        (1700, 655366, 786438, False),  # (10,2) into (12,2)
        (1700, 786438, 655366, True),
        (1700, 655366, 786440, True),  # the scale prints
        (1700, -1, 655366, True),
        (1231, 655366, -1, False),
        (1700, 131078 | 0x7FF, 131078 | 0x7FF, False),
        (1184, 3, 6, False),
        (1184, -1, 6, False),
        (1184, -1, 3, True),
        (1114, 6, 0, True),
        (1560, 5, 6, True),
        (1562, 5, 6, False),
        (1562, -1, 6, True),
        (1186, 5, -1, False),
        (1186, -1, 5, True),
    ],
)
def test_modifiers(oid: int, sent: int, there: int, narrow: bool) -> None:
    assert narrower(oid, sent, there) is narrow


def test_wider_types() -> None:
    assert wider(21, 23, -1) and wider(23, 20, -1) and wider(1043, 25, -1) and wider(25, 1043, -1)
    assert not wider(20, 23, -1) and not wider(25, 1043, 14) and not wider(700, 701, -1)
