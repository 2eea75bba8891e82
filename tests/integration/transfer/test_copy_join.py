"""Several movers on one ledger, and copies that keep within the sessions they may have."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import copy as engine
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.copy import CopyResult, copy
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Selection
from integration.conftest import Pair
from integration.transfer.cases import wait_until
from integration.transfer.test_copy import chunks_done, contents, start_mover

ALL = Selection.from_args()
TABLE = "CREATE TABLE big (id int NOT NULL, b text)"
ROWS = "INSERT INTO big SELECT g, repeat('x', 200) FROM generate_series(1, 40000) g"
INDEX = "CREATE UNIQUE INDEX big_id ON big (id)"
# So that one mover alone is not done before the other has begun.
BRAKE = (
    "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN IF NEW.id % 500 = 0 THEN PERFORM pg_sleep(0.03); END IF; RETURN NEW; END$$",
    "CREATE TRIGGER slow BEFORE INSERT ON big FOR EACH ROW EXECUTE FUNCTION slow()",
    "ALTER TABLE big ENABLE ALWAYS TRIGGER slow",
)


def prepare(pair: Pair) -> None:
    pair.on_both(TABLE)
    pair.on_source(ROWS, INDEX)
    pair.on_target(*BRAKE)


def beside(action: Callable[[], CopyResult]) -> tuple[threading.Thread, list[CopyResult | BaseException]]:
    """The action in a thread, and what will come of it."""
    found: list[CopyResult | BaseException] = []

    def run() -> None:
        try:
            found.append(action())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, found


def test_two_movers_share_the_work_and_both_wait_for_the_end(pair: Pair) -> None:
    prepare(pair)
    second, joined = beside(lambda: copy(pair.source, pair.target, ALL, workers=1, join=True))
    first, led = beside(lambda: copy(pair.source, pair.target, ALL, workers=1, chunk_bytes=400_000))
    for thread in (first, second):
        thread.join(100)
    assert isinstance(led[0], CopyResult) and isinstance(joined[0], CopyResult), (led, joined)
    assert led[0].rows == joined[0].rows == 40000 and led[0].consistent and joined[0].changed
    assert 0 < joined[0].moved_bytes < led[0].moved_bytes, "either has copied a part"
    assert contents(pair, "source", "big") == contents(pair, "target", "big")
    assert pair.on_target("SELECT count(*) FROM pg_class WHERE relname = 'big_id'") == [(1,)]
    again = copy(pair.source, pair.target, ALL, workers=1, join=True)
    assert not again.changed and again.rows == 40000


def test_those_who_have_joined_end_with_the_first_mover_and_the_next_run_goes_on(pair: Pair) -> None:
    prepare(pair)
    process = start_mover(pair, 400_000)
    wait_until(lambda: chunks_done(pair) >= 1, "a chunk")
    thread, found = beside(lambda: copy(pair.source, pair.target, ALL, workers=1, join=True))
    wait_until(
        lambda: pair.on_target("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cutover copy writer'")[0][0] >= 3, "both"
    )
    process.kill()
    process.wait(30)
    thread.join(60)
    assert isinstance(found[0], TransferError) and found[0].details["kind"] == "snapshot_lost", found
    done = dict(pair.on_target("SELECT number, xmin::text FROM cutover.chunk WHERE state = 'done'"))
    result = copy(pair.source, pair.target, ALL, workers=2)
    now = dict(pair.on_target("SELECT number, xmin::text FROM cutover.chunk WHERE state = 'done'"))
    assert done and all(now[number] == xmin for number, xmin in done.items()), "a finished chunk was copied again"
    assert result.rows == 40000 and result.resumed and contents(pair, "source", "big") == contents(pair, "target", "big")


def test_nothing_to_join_and_another_selection_are_named(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "JOIN_SECONDS", 0.5)
    prepare(pair)
    with pytest.raises(TransferError, match="could be joined") as caught:
        copy(pair.source, pair.target, ALL, workers=1, join=True)
    assert caught.value.details["kind"] == "no_run"
    thread, led = beside(lambda: copy(pair.source, pair.target, ALL, workers=1, chunk_bytes=400_000))
    wait_until(lambda: chunks_done(pair) >= 1, "a chunk")
    with pytest.raises(TransferError, match=r"public\.big, which this selection leaves out"):
        copy(pair.source, pair.target, Selection.from_args([], ["public.big"]), workers=1, join=True)
    thread.join(60)
    assert isinstance(led[0], CopyResult)


def test_workers_keep_within_the_sessions_that_there_are(pair: Pair) -> None:
    prepare(pair)
    seen: set[int] = set()
    done = threading.Event()

    def watch() -> None:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'cutover%'"
        with pair.source_server.connect(pair.dbname) as conn:
            while not done.wait(0.02):
                row: Any = conn.execute(query).fetchone()
                seen.add(row[0])

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        result = copy(pair.source, pair.target, ALL, workers=8, connections=5, chunk_bytes=400_000)
    finally:
        done.set()
        watcher.join(10)
    assert result.rows == 40000 and 3 <= max(seen) <= 5, seen
    assert any("2 workers instead of 8: connections is 5" in line for line in result.warnings)


def test_limits_of_the_role_and_too_little_room(pair: Pair) -> None:
    pair.on_both("CREATE TABLE a (id int)")
    pair.on_source("INSERT INTO a VALUES (1)", "CREATE ROLE few LOGIN PASSWORD 'f' CONNECTION LIMIT 5", "GRANT SELECT ON a TO few")
    few = pair.source_server.endpoint(pair.dbname, "few", "f")
    try:
        result = copy(few, pair.target, ALL, workers=6)
        assert any("2 workers instead of 6: the role's own limit leaves" in line for line in result.warnings), result.warnings
        with pytest.raises(TransferError, match=r"room for 3 sessions \(connections is 3\)") as caught:
            copy(pair.source, pair.target, ALL, connections=3)
        assert caught.value.details["kind"] == "connections"
    finally:
        pair.on_source("DROP OWNED BY few", "DROP ROLE few")
