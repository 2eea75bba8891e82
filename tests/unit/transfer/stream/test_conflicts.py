"""What could not be applied is told with the row's key, the operation and the position, and without any other value."""

from __future__ import annotations

import psycopg
import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream import batch as batches
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream import conflicts
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.batch import Work
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.conflicts import Place
from unit.transfer.stream import made
from unit.transfer.stream.made import row, simple

COLUMNS = (("id", 20), ("mail", 25))
PLACE = Place(0x16B374D848, 4711)


def works() -> list[Work]:
    shape = simple(*COLUMNS)
    new = row("5", "secret")
    return [
        Work(batches.INSERT, shape, [new]),
        Work(batches.UPDATE, shape, [new]),
        Work(batches.DELETE, shape, old=[made.val("5")]),
        Work(batches.REKEY, shape, [row("6", "secret")], [made.val("5")]),
    ]


@pytest.mark.parametrize("work", works(), ids=lambda work: str(work.kind))
def test_key_operation_and_position_are_named(work: Work) -> None:
    error = conflicts.missed(work, PLACE, 0)
    text = f"{error.message} {error.remedy} {error.details}"
    assert error.details["kind"] == "conflict" and error.details["key"] == {"id": "5"} and error.details["operation"] == work.kind
    assert error.details["lsn"] == "16/B374D848" and error.details["xid"] == 4711 and error.details["table"] == "public.t"
    assert "id = '5'" in error.message and "found 0 rows in the receiving database, expected 1" in error.message
    assert "secret" not in text and "pg_row_verify" in error.remedy


def test_rows_without_a_key_are_not_described() -> None:
    shape = simple(*COLUMNS, key=(), sent_identity="f")
    error = conflicts.missed(Work(batches.DELETE_ROW, shape, old=[row("5", "secret")]), PLACE, 0)
    assert error.details["key"] == {} and "secret" not in f"{error.message} {error.details}"


def test_composite_keys_in_the_order_of_their_index() -> None:
    shape = simple(("a", 20), ("b", 25), key=("b", "a"))
    assert conflicts.key_of(Work(batches.DELETE, shape, old=[(made.val("x"), made.val("1"))])) == {"b": "x", "a": "1"}
    assert conflicts.key_of(Work(batches.INSERT, shape, [row("1", "x")])) == {"b": "x", "a": "1"}


def test_what_the_server_says_about_values_is_not_repeated() -> None:
    for name in ("UniqueViolation", "InvalidTextRepresentation", "RaiseException", "StringDataRightTruncation"):
        error = getattr(psycopg.errors, name)("duplicate key value: secret")
        found = conflicts.refused(works()[0], PLACE, error)
        assert "secret" not in f"{found.message} {found.details}", name
        assert found.details["sqlstate"] == error.sqlstate and found.details["kind"] == "conflict"
        assert "secret" not in conflicts.uncommitted(PLACE, error).message
    assert conflicts.refused(works()[0], PLACE, psycopg.errors.InsufficientPrivilege("no")).details["kind"] == "privilege"
    assert conflicts.refused(works()[0], PLACE, psycopg.errors.CheckViolation("no partition")).details["kind"] == "definition_changed"


def test_disorder_and_truncate() -> None:
    shape = simple(*COLUMNS)
    assert "public.t" in conflicts.disordered("a row was there", shape, PLACE).message
    error = conflicts.refused(Work(batches.TRUNCATE, shape, shapes=(shape,)), PLACE, psycopg.errors.FeatureNotSupported("referenced"))
    assert "TRUNCATE of public.t" in error.message and error.details["key"] == {}
