"""Large objects: copied beside the rows, proven, brought up to date under a freeze; with their numbers, owners, privileges and comments."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import cutover, cutover_single, large_objects
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import schema as schemas
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.copy import CopyResult, copy
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.cutover_sides import Options
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.resync import resync
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.schema_plan import Options as SchemaOptions
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import LARGE_OBJECTS, Selection
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.verify import VerifyResult, verify
from integration.conftest import Pair

ALL = Selection.from_args()
WITHOUT = Selection.from_args(exclude=[LARGE_OBJECTS])
MIB = 1024 * 1024
# Never chosen by a server that was just made, so that tests can name their objects.
FIRST = 4_000_000_000
# Whatever was said with our own code, PostgreSQL's own view of every object: number, owner, privileges, comment, content.
CONTENTS = """SELECT m.oid::bigint, pg_get_userbyid(m.lomowner)::text, coalesce(m.lomacl, acldefault('L', m.lomowner))::text,
    obj_description(m.oid, 'pg_largeobject'), md5(lo_get(m.oid)) FROM pg_largeobject_metadata m ORDER BY 1"""
FEW = (
    "CREATE TABLE letter (id int PRIMARY KEY, body oid)",
    f"SELECT lo_from_bytea({FIRST}, 'one'), lo_from_bytea({FIRST + 1}, ''), lo_create({large_objects.LAST_OID}), lo_from_bytea({FIRST + 7}, '\\x00ff00')",
    # Several pieces, the last one short; a hole in the middle; zeros at the end.
    f"SELECT lo_from_bytea({FIRST + 2}, '')",
    f"SELECT lo_put({FIRST + 2}, 1000000 * g, decode(repeat(md5(g::text), 31250), 'hex')) FROM generate_series(0, 8) g",
    f"SELECT lo_from_bytea({FIRST + 3}, 'head'), lo_put({FIRST + 3}, {9 * MIB}, 'tail'), lo_put({FIRST + 3}, {13 * MIB}, '\\x00')",
    f"INSERT INTO letter VALUES (1, {FIRST}), (2, {FIRST + 2})",
)


def shown(pair: Pair) -> tuple[list[Any], list[Any]]:
    return pair.on_source(CONTENTS), pair.on_target(CONTENTS)


def bring(pair: Pair, selection: Selection = ALL, **more: Any) -> CopyResult:
    return copy(pair.source, pair.target, selection, workers=2, **more)


def compare(pair: Pair, selection: Selection = ALL, **more: Any) -> VerifyResult:
    return verify(pair.source, pair.target, selection, **more)


@pytest.fixture
def owners(pair: Pair) -> Iterator[Pair]:
    """The pair with two roles of its own on both servers, which leave with what they own."""
    pair.on_both("CREATE ROLE lo_ann LOGIN PASSWORD 'secret'", "CREATE ROLE lo_bob")
    yield pair
    pair.on_both("DROP OWNED BY lo_ann, lo_bob", "DROP ROLE lo_ann, lo_bob")


def test_case_20_no_large_objects(pair: Pair) -> None:
    pair.on_both("CREATE TABLE t (id int PRIMARY KEY)")
    done = bring(pair)
    assert done.large_objects == {"count": 0, "bytes": 0}
    # Made after the copy: brought under the freeze, not by a rerun that would show another moment than the tables do.
    pair.on_source(f"SELECT lo_from_bytea({FIRST}, 'later')")
    assert not bring(pair).changed
    assert [*shown(pair)[1]] == []
    found = compare(pair)
    assert not found.equal and found.large_objects is not None and found.large_objects.missing == (FIRST,)


def test_case_20_few_with_owner_privileges_comment_and_number(owners: Pair) -> None:
    pair = owners
    pair.on_source(*FEW)
    pair.on_target(FEW[0])
    pair.on_source(
        f"ALTER LARGE OBJECT {FIRST} OWNER TO lo_ann",
        f"GRANT SELECT ON LARGE OBJECT {FIRST} TO PUBLIC",
        f"GRANT UPDATE ON LARGE OBJECT {FIRST} TO lo_bob WITH GRANT OPTION",
        f"COMMENT ON LARGE OBJECT {FIRST} IS 'it''s the first'",
        f"ALTER LARGE OBJECT {FIRST + 2} OWNER TO lo_bob",
        f"REVOKE UPDATE ON LARGE OBJECT {FIRST + 2} FROM lo_bob",
    )
    done = bring(pair)
    assert done.changed and done.large_objects["count"] == 6
    source, target = shown(pair)
    assert source == target and len(source) == 6
    # A hole takes no room: pages of zeros were not written.
    pages = f"SELECT count(*) FROM pg_largeobject WHERE loid = {FIRST + 3}"
    assert pair.on_target(pages)[0][0] <= pair.on_source(pages)[0][0] + 1
    assert pair.on_target("SELECT convert_from(lo_get(body), 'UTF8') FROM letter WHERE id = 1") == [("one",)]
    found = compare(pair)
    assert found.equal and found.large_objects is not None
    assert (found.large_objects.count, found.large_objects.target_count) == (6, 6)
    again = bring(pair)
    assert not again.changed and again.large_objects == done.large_objects


def test_case_20_changed_during_the_run(owners: Pair) -> None:
    pair = owners
    pair.on_source(*FEW, f"SELECT lo_from_bytea({FIRST + 10} + g, convert_to('small ' || g, 'UTF8')) FROM generate_series(1, 1200) g")
    pair.on_target(FEW[0])
    bring(pair)
    pair.on_source(
        f"SELECT lo_put({FIRST + 2}, 5000000, 'changed in the middle')",
        f"SELECT lo_unlink({FIRST + 7}), lo_unlink({FIRST + 11})",
        f"SELECT lo_from_bytea({FIRST + 7000}, 'new'), lo_from_bytea(12345, 'new, in front')",
        f"SELECT lo_truncate(lo_open({FIRST + 3}, 131072), 3)",
        f"ALTER LARGE OBJECT {FIRST + 20} OWNER TO lo_bob",
        f"GRANT SELECT ON LARGE OBJECT {FIRST + 21} TO lo_ann",
        f"COMMENT ON LARGE OBJECT {FIRST + 22} IS 'spoken of'",
        f"UPDATE letter SET body = {FIRST + 7000} WHERE id = 1",
    )
    found = compare(pair, max_reported=1)
    objects = found.large_objects
    assert not found.equal and objects is not None
    assert (objects.missing_count, objects.extra_count, objects.changed_count) == (2, 2, 5) and len(objects.changed) == 1
    whole = compare(pair).large_objects
    assert whole is not None and whole.missing == (12345, FIRST + 7000) and whole.extra == (FIRST + 7, FIRST + 11)
    assert {one.oid - FIRST: one.what for one in whole.changed} == {
        2: ("content",),
        3: ("content",),
        20: ("owner", "privileges"),
        21: ("privileges",),
        22: ("comment",),
    }
    planned = resync(pair.source, pair.target, ALL, check=True)
    assert planned.changed and planned.large_objects.created == 2 and shown(pair)[0] != shown(pair)[1]
    brought = resync(pair.source, pair.target, ALL)
    assert (brought.large_objects.created, brought.large_objects.changed, brought.large_objects.deleted) == (2, 5, 2)
    # Of the large one only the piece that differs went over.
    assert brought.large_objects.bytes < 2 * large_objects.PIECE_BYTES
    source, target = shown(pair)
    assert source == target and compare(pair).equal
    assert not resync(pair.source, pair.target, ALL).changed


def test_an_object_that_its_owner_may_not_write_is_replaced(owners: Pair) -> None:
    pair = owners
    pair.on_source(
        f"SELECT lo_from_bytea({FIRST}, 'sealed')",
        f"ALTER LARGE OBJECT {FIRST} OWNER TO lo_ann",
        f"REVOKE UPDATE ON LARGE OBJECT {FIRST} FROM lo_ann",
    )
    bring(pair)
    pair.on_source(f"SELECT lo_put({FIRST}, 0, 'S')")
    resync(pair.source, pair.target, ALL)
    source, target = shown(pair)
    assert source == target and len(target) == 1


def test_a_rerun_copies_only_ranges_that_were_not_finished(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.on_both("CREATE TABLE t (id int PRIMARY KEY)")
    pair.on_source(f"SELECT lo_from_bytea({FIRST} + g, convert_to('small ' || g, 'UTF8')) FROM generate_series(1, 2500) g")
    real = large_objects.bring

    def failing(source: Any, target: Any, wanted: Any, tell: Any) -> tuple[int, int]:
        listed = list(wanted)
        if any(state.oid == FIRST + 2500 for state in listed):
            real(source, target, listed, tell)
            os._exit(9)
        return real(source, target, listed, tell)

    monkeypatch.setattr(large_objects, "bring", failing)
    with pytest.raises(TransferError):
        bring(pair)
    monkeypatch.undo()
    done = "SELECT number, finished, xmin::text FROM cutover.large_object WHERE state = 'done' ORDER BY number"
    finished = pair.on_target(done)
    assert [row[0] for row in finished] == [0, 1]
    assert pair.on_target("SELECT count(*) FROM pg_largeobject_metadata") == [(2000,)]
    result = bring(pair)
    assert result.changed and result.resumed and result.large_objects["count"] == 2500
    assert pair.on_target(done)[:2] == finished
    source, target = shown(pair)
    assert source == target


def test_what_no_copy_has_brought_is_not_touched(pair: Pair) -> None:
    pair.on_target(f"SELECT lo_from_bytea({FIRST}, 'ours')")
    with pytest.raises(TransferError, match=rf"1 large objects that no copy has brought.*{FIRST}") as caught:
        bring(pair)
    assert "pg_catalog.pg_largeobject" in caught.value.remedy
    pair.on_source(f"SELECT lo_from_bytea({FIRST + 1}, 'theirs')")
    done = bring(pair, WITHOUT)
    assert done.large_objects["count"] == 0 and "1 large objects stay behind" in done.warnings[0]
    found = compare(pair, WITHOUT)
    assert found.equal and found.large_objects is None
    assert pair.on_target(CONTENTS)[0][0] == FIRST


def test_check_mode_writes_nothing(pair: Pair) -> None:
    pair.on_source(f"SELECT lo_from_bytea({FIRST}, 'one')")
    assert bring(pair, check=True).changed
    assert pair.on_target("SELECT count(*) FROM pg_largeobject_metadata") == [(0,)]
    assert pair.on_target("SELECT to_regnamespace('cutover') IS NULL") == [(True,)]


def test_modest_roles_move_what_they_may_read_and_own(owners: Pair) -> None:
    pair = owners
    pair.on_source(
        f"SELECT lo_from_bytea({FIRST}, 'a'), lo_from_bytea({FIRST + 1}, 'b')", f"ALTER LARGE OBJECT {FIRST + 1} OWNER TO lo_bob"
    )
    pair.on_target(f'GRANT CREATE ON DATABASE "{pair.dbname}" TO lo_ann', "GRANT SET ON PARAMETER session_replication_role TO lo_ann")
    modest_source = pair.source_server.endpoint(pair.dbname, "lo_ann", "secret")
    modest_target = pair.target_server.endpoint(pair.dbname, "lo_ann", "secret")
    with pytest.raises(TransferError, match="may not read 2 large objects of the source") as caught:
        copy(modest_source, modest_target, ALL, workers=1)
    # The remedy is a statement that works.
    remedy = caught.value.remedy
    pair.on_source(remedy[remedy.index("DO $$") : remedy.index("END $$;") + len("END $$;")])
    with pytest.raises(TransferError, match="may not make large objects for lo_bob, postgres"):
        copy(modest_source, modest_target, ALL, workers=1)
    pair.on_source(f"ALTER LARGE OBJECT {FIRST} OWNER TO lo_ann", f"REVOKE ALL ON LARGE OBJECT {FIRST + 1} FROM postgres")
    pair.on_target("GRANT lo_bob TO lo_ann")
    copy(modest_source, modest_target, ALL, workers=1)
    source, target = shown(pair)
    assert source == target and len(source) == 2
    pair.on_source(f"SELECT lo_put({FIRST + 1}, 0, 'B')")
    assert resync(modest_source, modest_target, ALL).large_objects.changed == 1
    assert verify(modest_source, modest_target, ALL).equal and shown(pair)[0] == shown(pair)[1]
    pair.on_target("REVOKE ALL ON PARAMETER session_replication_role FROM lo_ann")


def test_a_role_that_the_target_lacks_is_named(pair: Pair) -> None:
    pair.on_source("CREATE ROLE lo_stranger", f"SELECT lo_from_bytea({FIRST}, 'a')", f"GRANT SELECT ON LARGE OBJECT {FIRST} TO lo_stranger")
    try:
        with pytest.raises(TransferError, match="lacks: lo_stranger") as caught:
            bring(pair)
        assert 'CREATE ROLE "lo_stranger"' in caught.value.remedy
    finally:
        pair.on_source("DROP OWNED BY lo_stranger", "DROP ROLE lo_stranger")


def test_schema_transfer_brings_none_and_the_switch_and_the_way_back_bring_all(pair: Pair) -> None:
    pair.on_source(*FEW, f"COMMENT ON LARGE OBJECT {FIRST} IS 'once'")
    options = Options(deadline=60, workers=2)
    schemas.transfer(pair.source, pair.target, ALL, "pre_data", SchemaOptions())
    assert pair.on_target("SELECT count(*) FROM pg_largeobject_metadata") == [(0,)]
    cutover_single.frozen(pair.source, pair.target, ALL, "target", options)
    bring(pair)
    schemas.transfer(pair.source, pair.target, ALL, "post_data", SchemaOptions())
    pair.on_source(f"SELECT lo_put({FIRST}, 0, 'O'), lo_unlink({FIRST + 7})")
    done = cutover.cut_over(pair.source, pair.target, ALL, options)
    assert done["resync"]["large_objects"] == {"created": 0, "changed": 1, "deleted": 1, "bytes": 3}
    assert done["proof"]["large_objects"]["compared"] and done["proof"]["large_objects"]["count"] == 5
    assert shown(pair)[0] == shown(pair)[1]
    pair.on_target(
        f"SELECT lo_from_bytea({FIRST + 50}, 'of the new side'), lo_unlink({FIRST + 1})", f"UPDATE letter SET body = {FIRST + 50}"
    )
    assert not cutover.cut_over(pair.source, pair.target, ALL, options)["changed"]
    cutover.roll_back(pair.source, pair.target, ALL, options)
    source, target = shown(pair)
    assert source == target and FIRST + 50 in [row[0] for row in source]
