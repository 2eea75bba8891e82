"""How many workers fit into the sessions of both sides; which builds go first."""

from __future__ import annotations

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.budget import Room, is_session_pooler, workers
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.builds import (
    ANALYZE,
    INDEX,
    LINK,
    PROVE,
    SETTLE,
    Build,
    IndexFact,
    in_order,
    memory_bytes,
    missing,
    renamed,
)
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.chunks import Chunk
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.endpoint import Endpoint
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.foreign_keys import ForeignKey, proofs_of_partitions
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.foreign_keys import missing as keys_missing
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Rename

MB = 1024**2


def test_workers_within_both_rooms() -> None:
    assert workers(4, Room(20, "-"), Room(20, "-")) == (4, ())
    count, warnings = workers(8, Room(12, "the session pooler lends 15"), Room(5, "five"))
    assert count == 4 and len(warnings) == 1 and "4 workers instead of 8: five on the target" in warnings[0]
    with pytest.raises(TransferError, match=r"the target has room for 0 sessions \(full\)"):
        workers(1, Room(20, "-"), Room(-2, "full"))


def test_the_session_pooler_is_known_by_its_address() -> None:
    pooler = Endpoint(host="aws-0-eu-central-1.pooler.supabase.com", dbname="postgres", user="postgres.abc", flavour="supabase")
    assert is_session_pooler(pooler) and not is_session_pooler(Endpoint(host="db.abc.supabase.co", flavour="supabase"))
    assert not is_session_pooler(Endpoint(host="x.pooler.supabase.com"))


def chunk(table: str, number: int, total: int, size: int) -> Chunk:
    return Chunk("s", table, number, total, "whole", "", None, None, size)


def test_the_longest_way_to_the_end_goes_first() -> None:
    chunks = [chunk("small", 0, 1, 500), chunk("large", 0, 1, 1000), chunk("indexed", 0, 2, 300), chunk("indexed", 1, 2, 300)]
    builds = [
        Build("s", "indexed", INDEX, "slow", "gin", "", 900),
        Build("s", "indexed", INDEX, "quick", "btree", "", 10),
        Build("s", "indexed", SETTLE, "quick", "btree", "", 1),
        Build("s", "indexed", ANALYZE, "", "", "", 50),
        Build("s", "small", ANALYZE, "", "", "", 1),
    ]
    placed_chunks, placed_builds = in_order(chunks, builds, 2)
    order = sorted(
        [
            *((place, (c.table, c.number)) for place, c in placed_chunks),
            *((place, (b.table, b.name or "analyze")) for place, b in placed_builds),
        ]
    )
    assert [what for _place, what in order] == [
        ("indexed", 0), ("indexed", 1), ("large", 0), ("indexed", "slow"), ("small", 0), ("indexed", "quick"), ("indexed", "quick"),
        ("indexed", "analyze"), ("small", "analyze"),
    ]  # fmt: skip
    assert sorted(place for place, _what in order) == list(range(9))


def test_a_table_that_others_refer_to_goes_before_one_of_its_size() -> None:
    chunks = [chunk("child", 0, 1, 100), chunk("other", 0, 1, 150), chunk("parent", 0, 1, 100)]
    builds = [
        Build("s", "child", LINK, "", "", "", 1, needs=("s.parent",)),
        Build("s", "child", PROVE, "", "", "", 60, needs=("s.parent",)),
    ]
    placed_chunks, placed_builds = in_order(chunks, builds, 2)
    order = [what for _place, what in sorted([*((p, c.table) for p, c in placed_chunks), *((p, str(b.rank)) for p, b in placed_builds)])]
    assert order == ["child", "parent", "other", str(LINK), str(PROVE)]


def test_builds_get_memory_that_the_cache_holds_and_never_more_than_allowed() -> None:
    def memory(rank: int, method: str, size: int, most: int = 1024 * MB) -> int:
        return Build("s", "t", rank, "i", method, "", 1, size).memory(most) // MB

    assert [memory(INDEX, "btree", size * MB) for size in (0, 1, 100, 10_000, 1_000_000)] == [8, 8, 16, 162, 1024]
    assert [memory(INDEX, method, 100 * MB) for method in ("gin", "gist")] == [16, 1024]
    assert [memory(PROVE, "", size * MB) for size in (0, 1000, 100_000)] == [4, 4, 97]
    assert {memory(rank, method, 10_000 * MB, 4 * MB) for rank, method in ((INDEX, "btree"), (INDEX, "gin"), (PROVE, ""))} == {4}


@pytest.mark.parametrize(("text", "size"), [("64kB", 64 * 1024), ("512MB", 512 * MB), ("2GB", 2048 * MB)])
def test_sizes_are_read_as_the_server_does(text: str, size: int) -> None:
    assert memory_bytes(text) == size


@pytest.mark.parametrize("text", ["", "512", "0MB", "1.5GB", "1TB", "-1MB", "1 GB"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(TransferError, match="expected a size such as 512MB"):
        memory_bytes(text)


def key(name: str, table: str = "child", refers: str = "parent", valid: bool = True, inherited: bool = False) -> ForeignKey:
    definition = f"FOREIGN KEY (a) REFERENCES s.{refers}(id)" + ("" if valid else " NOT VALID")
    return ForeignKey(1, "s", table, name, definition, valid, ("s", refers), ("a",), ("id",), inherited)


def test_foreign_keys_of_a_table_are_made_together_and_proved_together() -> None:
    steps = keys_missing(
        [key("one"), key("Two", refers="other"), key("loose", valid=False)], [], {("s", "child"): 1000, ("s", "other"): 70}
    )
    assert [(step.rank, step.needs, step.size) for step in steps] == [
        (LINK, ("s.other", "s.parent"), 0),
        (PROVE, ("s.other", "s.parent"), 70),
    ]
    assert steps[0].statement.split("; ")[1:] == [
        'ALTER TABLE ONLY "s"."child" ADD CONSTRAINT "Two" FOREIGN KEY (a) REFERENCES s.other(id) NOT VALID',
        'ALTER TABLE ONLY "s"."child" ADD CONSTRAINT "loose" FOREIGN KEY (a) REFERENCES s.parent(id) NOT VALID',
    ]
    assert steps[1].statement == "; ".join(f'ALTER TABLE "s"."child" VALIDATE CONSTRAINT "{name}"' for name in ("one", "Two"))


def test_foreign_keys_that_are_there_are_left_and_unproved_ones_proved() -> None:
    wanted = [key("there"), key("unproved"), key("loose", valid=False)]
    steps = keys_missing(wanted, [key("there"), key("unproved", valid=False), key("loose", valid=False)], {})
    assert [step.statement for step in steps] == ['ALTER TABLE "s"."child" VALIDATE CONSTRAINT "unproved"']
    assert keys_missing(wanted, wanted, {}) == ()


def test_only_unproved_parts_of_partitioned_keys_are_proved_before_those() -> None:
    wanted = [key("part", inherited=True), key("own"), key("whole", inherited=True), key("loose", valid=False, inherited=True)]
    there = [key("part", valid=False), key("own", valid=False), key("whole", valid=False, inherited=True), key("loose", valid=False)]
    assert proofs_of_partitions(wanted, there) == {'"s"."child"': ['ALTER TABLE "s"."child" VALIDATE CONSTRAINT "part"']}


def test_a_table_that_is_begun_is_finished_first() -> None:
    placed, _none = in_order([chunk("a", n, 3, 100) for n in range(3)] + [chunk("b", n, 3, 101) for n in range(3)], [], 2)
    assert [(c.table, c.number) for _place, c in placed] == [("b", 0), ("b", 1), ("b", 2), ("a", 0), ("a", 1), ("a", 2)]


def fact(name: str, **more: object) -> IndexFact:
    plain: dict[str, object] = {
        "schema": "s", "table": "t", "name": name, "definition": f"CREATE INDEX {name} ON s.t USING btree (a)", "method": "btree", "valid": True,
        "exclusion": False, "constraint": "", "constraint_type": "", "constraint_definition": "", "deferrable": False, "deferred": False,
        "clustered": False, "replica_identity": False, "statistics": (), "size_bytes": 8192, "bound": False,
    }  # fmt: skip
    return IndexFact(**{**plain, **more})  # type: ignore[arg-type]  # facts of every type, by name


def test_what_is_missing_in_statements() -> None:
    key = fact("t_pkey", constraint="t_pkey", constraint_type="p", constraint_definition="PRIMARY KEY (a)", clustered=True)
    assert [(b.rank, b.statement) for b in missing([key], [], {})] == [
        (INDEX, "CREATE INDEX t_pkey ON s.t USING btree (a)"),
        (
            SETTLE,
            'ALTER TABLE ONLY "s"."t" ADD CONSTRAINT "t_pkey" PRIMARY KEY USING INDEX "t_pkey"; ALTER TABLE "s"."t" CLUSTER ON "t_pkey"',
        ),
    ]
    bare = fact("t_pkey")
    assert [b.rank for b in missing([key], [bare], {})] == [SETTLE] and missing([key], [key], {}) == ()
    excl = fact("e", exclusion=True, constraint="e", constraint_type="x", constraint_definition="EXCLUDE USING gist (a WITH &&)")
    assert [b.statement for b in missing([excl], [], {})] == ['ALTER TABLE ONLY "s"."t" ADD CONSTRAINT "e" EXCLUDE USING gist (a WITH &&)']
    assert missing([fact("x", valid=False), fact("y", bound=True), fact("z")], [fact("z", valid=False)], {}) == ()


def test_what_a_rename_touches() -> None:
    assert renamed(fact("i"), Rename(tables={"s.t": "u"})) and renamed(fact("i"), Rename(columns={"s.t.a": "b"}))
    assert renamed(fact("i"), Rename(schemas={"s": "r"})) and not renamed(
        fact("i"), Rename(schemas={"other": "r"}, tables={"s.other": "x"})
    )
    assert renamed(fact("i", definition='CREATE INDEX i ON s.t USING btree ("Odd".f(a))'), Rename(schemas={"Odd": "even"}))
