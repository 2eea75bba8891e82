"""Which transactions and tables go into a batch, where it ends, and what stops the stream before wrong data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream import batch as batches
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.batch import Batch
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.feed import (
    END,
    FULL,
    LIMIT,
    WHOLE,
    Feed,
    HaltError,
    Limits,
    Load,
    Tracked,
)
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.pgoutput import Relation, TypeName
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.shapes import Route
from unit.transfer.stream import made
from unit.transfer.stream.made import begin, commit, delete, insert, message, received, row, shaped, truncate, update

ID, NOTE = ("id", 20), ("note", 25)
SENT = made.relation(ID, NOTE)
OTHER = replace(SENT, oid=16401, name="other")
HUGE = Limits(10**6, 10**9)


def transaction(final: int, *changes: bytes) -> Iterator[tuple[int, bytes]]:
    """One of positions final to final + 10."""
    for data in (begin(final, final), *changes, commit(final, final + 10)):
        yield final, data


def stream(*finals: int, size: int = 1) -> Iterator[tuple[int, bytes]]:
    """Transactions that each insert ``size`` rows."""
    for final in finals:
        changes = [insert(SENT.oid, row(f"{final}{number}", "x")) for number in range(size)]
        yield from transaction(final, made.described(SENT), *changes)


def feeding(since: int = 0, empty: bool = False) -> Feed:
    def track(relation: Relation, _types: dict[int, TypeName]) -> Tracked:
        if relation.name == "other":
            return Tracked(None, 0)
        if relation.name == "broken":
            raise TransferError("it does not fit", kind="definition_changed")
        route = Route(("public", "t"), ("public", "t"), {"id": "id"}, {"note": "none"}) if empty else None
        return Tracked(shaped(relation, received(ID) if empty else received(ID, NOTE), route=route), since)

    return Feed(track)


def take(feed: Feed, messages: Iterator[tuple[int, bytes]], load: Load, applied: int = 0, limit: int | None = None, **more: bool) -> str:
    return feed.take(messages, load, applied, limit, HUGE, lambda: None, **more)


def test_whole_transactions_until_nothing_is_there() -> None:
    load = Load(Batch())
    assert take(feeding(), stream(100, 200, size=3), load) == END
    assert (load.transactions, load.batch.changes, load.applied, load.final, load.xid) == (2, 6, 210, 200, 200)
    assert load.batch.size > 0 and not load.inside and not load.empty


def test_what_was_applied_already_is_left_out() -> None:
    load, feed = Load(Batch()), feeding()
    assert take(feed, stream(100, 200), load, applied=110) == END
    assert (load.transactions, load.batch.changes, load.applied) == (1, 1, 210)


def test_transactions_from_a_limit_on_stay_out_even_their_beginning() -> None:
    load = Load(Batch())
    assert take(feeding(), stream(100, 200, 300), load, limit=200) == LIMIT
    assert load.transactions == 1 and load.final == 100
    assert take(feeding(), stream(200), Load(Batch()), limit=200) == LIMIT


def test_a_batch_ends_with_a_transaction_and_in_the_middle_of_a_huge_one() -> None:
    feed, load = feeding(), Load(Batch())
    messages = stream(100, 200, 300, size=3)
    assert feed.take(messages, load, 0, None, Limits(5, 10**9), lambda: None) == WHOLE
    assert load.transactions == 2 and load.batch.changes == 6
    huge, load = stream(100, 200, size=20), Load(Batch())
    assert feed.take(huge, load, 0, None, Limits(5, 10**9), lambda: None) == FULL
    assert load.inside and load.transactions == 0 and load.batch.changes == 10
    load.batch = Batch()
    assert feed.take(huge, load, 0, None, Limits(5, 10**9), lambda: None) == FULL
    load.batch = Batch()
    assert feed.take(huge, load, 0, None, Limits(5, 10**9), lambda: None) == FULL
    assert load.transactions == 1 and load.final == 200
    small = Limits(10**6, 20)
    assert feed.take(stream(100, 200, size=3), Load(Batch()), 0, None, small, lambda: None) == FULL
    assert take(feed, stream(100, 200), Load(Batch()), single=True) == WHOLE


def test_tables_that_are_not_ours_and_what_a_copy_holds_are_counted_and_left_out() -> None:
    feed, load = feeding(since=150), Load(Batch())
    others = transaction(120, made.described(OTHER), insert(OTHER.oid, row("1", "x")), truncate(OTHER.oid))
    assert take(feed, others, load) == END and feed.ignored == 2
    assert take(feed, stream(140, 150), load) == END
    assert feed.ignored == 3 and load.batch.changes == 1 and load.transactions == 3 and load.applied == 160
    mixed = transaction(200, truncate(OTHER.oid, SENT.oid, restart=True))
    assert take(feed, mixed, load) == END
    assert [len(work.shapes) for work in load.batch.works() if work.kind == batches.TRUNCATE] == [1]


def test_a_fence_is_the_last_thing_that_goes_in() -> None:
    feed, load = feeding(), Load(Batch())
    fence = [*transaction(100, message("cutover", "fence:f1", lsn=90)), *stream(200)]
    messages = iter(fence)
    assert take(feed, messages, load) == WHOLE
    assert load.fence == ("f1", 90) and load.applied == 110 and load.batch.changes == 0
    for other in (message("cutover", "nudge"), message("app", "fence:x"), message("cutover", "fence:x", transactional=False)):
        load = Load(Batch())
        assert take(feed, transaction(100, other), load) == END and load.fence is None
    load = Load(Batch())
    assert take(feed, iter(fence), load, applied=110) == END
    assert load.fence is None, "one that was reached before is not reached again"


def test_a_table_that_does_not_fit_stops_before_its_transaction() -> None:
    feed, load = feeding(), Load(Batch())
    broken = replace(SENT, oid=16402, name="broken")
    messages = [*stream(100), *transaction(200, made.described(broken), insert(broken.oid, row("1", "x")))]
    with pytest.raises(HaltError) as caught:
        take(feed, iter(messages), load)
    assert caught.value.final == 200 and caught.value.error.details["kind"] == "definition_changed"
    assert take(feed, iter(messages), Load(Batch()), limit=caught.value.final) == LIMIT
    with pytest.raises(HaltError, match="has not described"):
        take(feeding(), transaction(100, insert(4, row("1"))), Load(Batch()))


def test_a_lost_connection_while_asking_about_a_table_is_no_verdict_on_it() -> None:
    def track(_relation: Relation, _types: dict[int, TypeName]) -> Tracked:
        raise TransferError("gone", kind="lost")

    with pytest.raises(TransferError) as caught:
        take(Feed(track), stream(100), Load(Batch()))
    assert caught.value.details["kind"] == "lost"


def test_another_definition_is_asked_about_again_and_the_same_one_is_not() -> None:
    asked: list[Relation] = []
    inner = feeding()

    def track(relation: Relation, types: dict[int, TypeName]) -> Tracked:
        asked.append(relation)
        return inner.track(relation, types)

    feed, load = Feed(track), Load(Batch())
    renamed = replace(SENT, columns=SENT.columns[:1])
    take(feed, stream(100, 200), load)
    take(feed, transaction(300, made.described(renamed), insert(SENT.oid, row("9"))), load)
    assert asked == [SENT, renamed]
    assert [work.rows for work in load.batch.works()] == [2, 1], "rows of both definitions, the older first"


def test_a_column_without_counterpart_may_hold_its_default_and_nothing_else() -> None:
    feed, load = feeding(empty=True), Load(Batch())
    fine = [insert(SENT.oid, row("1", "none")), insert(SENT.oid, row("2", None)), update(SENT.oid, [*row("1"), None])]
    assert take(feed, transaction(100, made.described(SENT), *fine), load) == END and load.batch.changes == 3
    with pytest.raises(HaltError, match="note of public.t holds data now") as caught:
        take(feed, transaction(200, update(SENT.oid, row("1", "data"))), Load(Batch()))
    assert caught.value.final == 200 and "data'" not in str(caught.value.error)


def test_partitions_that_were_copied_at_different_positions_are_told_apart() -> None:
    shape = shaped(SENT, received(ID, NOTE))
    feed = Feed(lambda _relation, _types: Tracked(shape, 100, (200, lambda values: 200 if values[0] == made.val("2") else 100)))
    changes = [insert(SENT.oid, row("1", "x")), insert(SENT.oid, row("2", "x")), delete(SENT.oid, row("2", None))]
    load = Load(Batch())
    assert take(feed, transaction(150, made.described(SENT), *changes), load) == END
    assert load.batch.changes == 1 and feed.ignored == 2
    assert take(feed, transaction(200, insert(SENT.oid, row("2", "x"))), load) == END
    assert load.batch.changes == 2
    assert take(feed, transaction(90, insert(SENT.oid, row("1", "x"))), load) == END
    assert load.batch.changes == 2
