"""Two databases with the streams between them, ready for a switch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import cutover, cutover_sides, cutover_single, schema, schema_plan
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Selection
from bench import load
from integration.conftest import Pair
from integration.transfer.streaming import PUBLICATION, Stream
from integration.transfer.streams import slots_dropped

ALL = Selection()


class Move:
    """Two databases, the streams between them, and what a switch is asked."""

    def __init__(self, pair: Pair, folder: Path) -> None:
        self.pair = pair
        self.forward = Stream(pair, folder / "forward")
        self.reverse = Stream(pair, folder / "reverse", "reverse")

    def options(self, **more: Any) -> cutover_sides.Options:
        given: dict[str, Any] = {"workers": 2, "deadline": 60, "way_back_slot": self.reverse.slot, "way_back_publication": PUBLICATION}
        return cutover_sides.Options(**{**given, **more})

    def switch(self, **more: Any) -> dict[str, Any]:
        return cutover.cut_over(self.pair.source, self.pair.target, ALL, self.options(**more))

    def back(self, **more: Any) -> dict[str, Any]:
        return cutover.roll_back(self.pair.source, self.pair.target, ALL, self.options(**more))

    def writable(self, side: str) -> bool:
        run = self.pair.on_source if side == "source" else self.pair.on_target
        try:
            run("INSERT INTO loose VALUES ('probe', 0)")
        except psycopg.errors.ReadOnlySqlTransaction:
            return False
        return True

    def clients(self, count: int = 4, rate: float = 200.0) -> load.Load:
        there = tuple(server.endpoint(self.pair.dbname).conninfo() for server in (self.pair.source_server, self.pair.target_server))
        both = (there[0], there[1])
        return load.Load(load.clients(count, rate, both, both, there[0], 1)[: count - 1 if count > 3 else count], reader=both)

    def judged(self, memories: Any, side: str) -> load.Verdict:
        server = self.pair.source_server if side == "source" else self.pair.target_server
        with server.connect(self.pair.dbname) as conn:
            return load.judge(memories, load.held(conn))


@contextmanager
def moved(pair: Pair, folder: Path, *more: str) -> Iterator[Move]:
    """Copied under the forward slot, everything built, the target closed, both sides published. more: statements for the source before that"""
    with ExitStack() as stack:
        for server in (pair.source_server, pair.target_server):
            stack.enter_context(slots_dropped(server, pair.dbname))
        pair.on_source(*load.SCHEMA, *more)
        schema.transfer(pair.source, pair.target, ALL, "pre_data", schema_plan.Options())
        cutover_single.frozen(pair.source, pair.target, ALL, "target", cutover_sides.Options())
        made = Move(pair, folder)
        made.forward.copy()
        schema.transfer(pair.source, pair.target, ALL, "post_data", schema_plan.Options())
        pair.on_target(f"CREATE PUBLICATION {PUBLICATION} FOR ALL TABLES WITH (publish_via_partition_root = true)")
        yield made
