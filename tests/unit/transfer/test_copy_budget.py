"""How many workers fit into the sessions of both sides; which builds go first."""

from __future__ import annotations

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.budget import Room, is_session_pooler, workers
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.builds import (
    ANALYZE,
    INDEX,
    SETTLE,
    Build,
    IndexFact,
    in_order,
    missing,
    renamed,
)
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.chunks import Chunk
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.endpoint import Endpoint
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Rename


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
