"""Messages are decoded to slices of the record, and whatever does not fit is refused."""

from __future__ import annotations

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream import pgoutput
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.pgoutput import NULL, decode, lsn_number, lsn_text
from hypothesis import given
from hypothesis import strategies as st
from unit.transfer.stream import made

VALUES = st.lists(st.one_of(st.none(), st.just(NULL), st.text().map(made.val)), max_size=12)
NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(st.integers(0, 2**32 - 1), VALUES)
def test_insert_keeps_every_byte(oid: int, values: list[bytes | None]) -> None:
    assert decode(made.insert(oid, values)) == pgoutput.Insert(oid, values)


@given(VALUES, VALUES, st.sampled_from(["key", "old", "none"]))
def test_update_and_delete_keep_both_rows(before: list[bytes | None], new: list[bytes | None], what: str) -> None:
    key, old = (before if what == "key" else None), (before if what == "old" else None)
    assert decode(made.update(1, new, key, old)) == pgoutput.Update(1, key, old, new)
    if what != "none":
        assert decode(made.delete(1, key, old)) == pgoutput.Delete(1, key, old)


@given(st.lists(st.tuples(NAMES, st.integers(1, 2**32 - 1), st.integers(-1, 2**31 - 1), st.booleans()), max_size=8), NAMES, NAMES)
def test_relation_and_type_keep_names(columns: list[tuple[str, int, int, bool]], schema: str, name: str) -> None:
    sent = pgoutput.Relation(5, schema, name, "d", tuple(pgoutput.RelationColumn(*column) for column in columns))
    assert decode(made.described(sent)) == sent
    data = b"Y" + (7).to_bytes(4) + schema.encode() + b"\0" + name.encode() + b"\0"
    assert decode(data) == pgoutput.TypeName(7, schema, name)


def test_the_systems_schema_is_spelled_out() -> None:
    assert decode(b"Y\0\0\0\7\0int4\0") == pgoutput.TypeName(7, "pg_catalog", "int4")


def test_transactions_messages_and_truncate() -> None:
    assert decode(made.begin(2**40, 9)) == pgoutput.Begin(2**40, 5, 9)
    assert decode(made.commit(10, 20)) == pgoutput.Commit(10, 20, 5)
    assert decode(made.message("cutover", "fence:1")) == pgoutput.Message(True, 99, "cutover", b"fence:1")
    assert decode(made.message("x", "", transactional=False)) == pgoutput.Message(False, 99, "x", b"")
    assert decode(made.truncate(1, 2, cascade=True)) == pgoutput.Truncate((1, 2), True, False)
    assert decode(made.truncate(1, restart=True)) == pgoutput.Truncate((1,), False, True)
    assert decode(b"O" + (77).to_bytes(8) + b"node\0") == pgoutput.Origin(77, "node")


@given(
    st.sampled_from(
        [made.begin(1), made.commit(1, 2), made.insert(1, made.row("a", None)), made.truncate(1, 2), made.message("p", "content")]
    ),
    st.data(),
)
def test_a_message_that_is_cut_short_is_refused(data: bytes, draw: st.DataObject) -> None:
    end = draw.draw(st.integers(1, len(data) - 1))
    with pytest.raises(TransferError) as caught:
        decode(data[:end])
    assert caught.value.details["kind"] == "protocol"
    with pytest.raises(TransferError):
        decode(data + b"x")


@given(st.binary(min_size=1, max_size=60))
def test_nonsense_is_refused_or_understood_and_nothing_else(data: bytes) -> None:
    try:
        decode(data)
    except TransferError as error:
        assert error.details["kind"] == "protocol"


def test_binary_values_and_streamed_transactions_are_refused() -> None:
    for data in (b"I\0\0\0\1N\0\1b\0\0\0\1x", b"S\0\0\0\1\1", b"b" + bytes(40)):
        with pytest.raises(TransferError) as caught:
            decode(data)
        assert caught.value.details["kind"] == "protocol"


@given(st.integers(0, 2**64 - 1))
def test_positions_go_back_and_forth(position: int) -> None:
    assert lsn_number(lsn_text(position)) == position


def test_a_position_in_words() -> None:
    assert lsn_text(0x16B374D848) == "16/B374D848" and lsn_number("16/b374d848") == 0x16B374D848
    for text in ("", "16", "16/", "x/1", "1/123456789"):
        with pytest.raises(TransferError):
            lsn_number(text)
