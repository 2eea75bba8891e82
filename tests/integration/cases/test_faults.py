"""Cases 31, 32, 34, 35: processes killed, snapshots lost, links cut and disks full in the middle of a copy.

After each the copy goes on or is run again, no chunk that was done is done twice, and every table holds exactly what the source held in the
snapshot that the ledger names for it: known from a log of all changes that the source's own triggers keep.
"""

from __future__ import annotations

import random
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import slots
from bench import faults, history, resuming
from bench.faults import running, wait_until
from bench.relay import Relay
from bench.resuming import TABLES, Course
from integration.cases import decoded
from integration.conftest import Pair

SCALE = 0.25
CHUNK_BYTES = 250_000
# Of a mover under test, so that what it does about a lost session is waited for in seconds.
HEARTBEAT = 0.5
SLOT, PUBLICATION = "case_32", "of_case_32"
GATE = 32  # advisory lock on the target that keeps the last table of a copy from being filled


@contextmanager
def written_to(pair: Pair, seed: int, pause: float = 0.01, before: Callable[[], None] | None = None) -> Iterator[history.Load]:
    """The source with its rows, its log of changes and someone who writes. before: done when the rows are there and nobody has written yet."""
    count = resuming.rows(SCALE)
    pair.on_source(*resuming.schema(keys=True), *resuming.fill(count))
    with pair.source_server.connect(pair.dbname) as conn:
        history.start(conn, [table.name for table in TABLES])
    if before is not None:
        before()
    with history.Load(lambda: pair.source_server.connect(pair.dbname), TABLES, count, seed=seed, pause=pause) as load:
        yield load


def course_of(pair: Pair, seed: int) -> Course:
    return Course(pair.source_server, pair.target_server, pair.dbname, random.Random(seed), chunk_bytes=CHUNK_BYTES, heartbeat=HEARTBEAT)


def done_of(pair: Pair) -> dict[tuple[str, int], faults.Done]:
    return faults.done(pair.target_server, pair.dbname)


def complete(pair: Pair, table: str) -> bool:
    """Whether all chunks of a table are done."""
    try:
        rows = pair.on_target(f"SELECT bool_and(state = 'done') FROM cutover.chunk WHERE source_table = '{table}'")
    except psycopg.Error:
        return False
    return bool(rows[0][0])


def share_of(pair: Pair) -> float:
    try:
        rows = pair.on_target("SELECT count(*) FILTER (WHERE state = 'done')::float / greatest(count(*), 1) FROM cutover.chunk")
    except psycopg.Error:
        return 0.0
    return float(rows[0][0])


def exact(pair: Pair) -> dict[str, str]:
    """{table: content of its snapshot}, after checking that each table holds what the source held in it."""
    contents: dict[str, set[str]] = {}
    for chunk in done_of(pair).values():
        contents.setdefault(chunk.table, set()).add(chunk.content)
    with pair.source_server.connect(pair.dbname) as source, pair.target_server.connect(pair.dbname) as target:
        for table in TABLES:
            (content,) = contents[table.name]
            assert history.then(source, table.name, content) == history.now(target, table.name), table.name
    return {table: content for table, (content,) in contents.items()}


@pytest.mark.parametrize(
    ("seed", "blows"),
    [
        pytest.param(1, ["mover", "worker", "mover"], id="mover_and_worker"),
        pytest.param(2, ["keeper", "mover"], id="keeper_then_mover"),
        pytest.param(3, ["source session", "target session", "target session"], id="sessions"),
        pytest.param(4, ["target crash"], id="target_server"),
        pytest.param(5, ["source crash"], id="source_server"),
    ],
)
def test_case_31_kill_9_of_any_process_under_writes(pair: Pair, seed: int, blows: list[str]) -> None:
    course = course_of(pair, seed)
    with written_to(pair, seed) as load:
        course.copy(blows)
        load.stop()
    course.rest()
    assert course.tally.kills.total() == len(blows) and load.transactions > 10
    assert not course.tally.differing
    assert course.tally.extra == 0, "chunks that were done were done again"
    if "source crash" not in blows:
        assert course.tally.after_lost_snapshot == 0, "a snapshot was lost although its server lived"


def test_case_32_snapshot_lost_half_way_while_writes_run(pair: Pair) -> None:
    """Each table holds exactly the transactions whose commit starts below its position in the ledger, as the slot tells them."""
    course = course_of(pair, 32)
    course.args["copy"]["slot"] = SLOT
    pair.on_target(*resuming.schema(keys=False), *gate())
    names = [table.name for table in TABLES]
    first: dict[str, decoded.Rows] = {}

    def begin() -> None:
        """The slot of the stream, and what the tables hold where it begins."""
        pair.on_source(f"CREATE PUBLICATION {PUBLICATION} FOR TABLE {', '.join(names)}")
        with slots.create(pair.source, SLOT), pair.source_server.connect(pair.dbname) as conn:
            first.update({name: decoded.read(conn, name) for name in names})

    with written_to(pair, 32, before=begin) as load, pair.target_server.connect(pair.dbname) as door:
        door.execute(f"SELECT pg_advisory_lock({GATE})")
        with running(course.args) as mover:
            wait_until(lambda: not mover.running or bool(order_of(pair)), "the plan of the copy")
            *early, last = order_of(pair)
            wait_until(lambda: not mover.running or all(complete(pair, table) for table in early), "the end of the first tables")
            before, written = done_of(pair), load.transactions
            assert before and not complete(pair, last)
            # Whoever shows the snapshot: the one who took it, the keeper, the readers. Now it is gone for good.
            pair.on_source(
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'cutover%' AND datname = '{pair.dbname}'"
            )
            wait_until(lambda: not mover.running or load.transactions > written + 20, "writes after the loss")
            door.execute(f"SELECT pg_advisory_unlock({GATE})")
            result = mover.result()
        assert "error" not in result, result
        wait_until(lambda: load.transactions > written + 40, "writes after the copy")
        load.stop()
    after = done_of(pair)
    assert all(after[key] == chunk for key, chunk in before.items() if key[0] in early), "a finished table was touched again"
    assert result["consistent"] is False
    positions = {table["name"].removeprefix("public."): decoded.position(table["snapshot_lsn"]) for table in result["tables"]}
    assert positions == ledger_positions(pair)
    assert all(positions[table] < positions[last] for table in early), "each snapshot has its own position"
    with pair.source_server.connect(pair.dbname) as source, pair.target_server.connect(pair.dbname) as target:
        heard = decoded.changes(source, SLOT, PUBLICATION)
        for name in names:
            oid = source.execute(f"SELECT '{name}'::regclass::oid::bigint").fetchone()
            assert oid is not None
            here = [change.commit for change in heard if change.table == oid[0]]
            edge = positions[name]
            assert min(here) < edge <= max(here), f"{name} was not written to on both sides of its position"
            exactly = decoded.applied(first[name], heard, oid[0], lambda commit, edge=edge: commit < edge)  # type: ignore[misc]
            assert decoded.read(target, name) == exactly, name
            # All of them together are what the source holds now: nothing is missing from what the slot tells.
            assert decoded.read(source, name) == decoded.applied(first[name], heard, oid[0], lambda _commit: True), name
    course.rest()
    assert not course.tally.differing


def gate() -> list[str]:
    """Statements for the target: nobody fills the last table of a copy while the gate is closed."""
    return [
        f"""CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF TG_TABLE_NAME = (SELECT source_table FROM cutover.chunk GROUP BY 1 ORDER BY min(place) DESC LIMIT 1) THEN
                PERFORM pg_advisory_xact_lock_shared({GATE}); END IF;
            RETURN NULL; END $$""",
        *(f"CREATE TRIGGER gate BEFORE INSERT ON {table.name} FOR EACH STATEMENT EXECUTE FUNCTION gate()" for table in TABLES),
        *(f"ALTER TABLE {table.name} ENABLE ALWAYS TRIGGER gate" for table in TABLES),
    ]


def ledger_positions(pair: Pair) -> dict[str, int]:
    """{table: position of the snapshot under which it was copied}."""
    rows = pair.on_target("SELECT DISTINCT c.source_table, r.snapshot_lsn::text FROM cutover.chunk c JOIN cutover.run r ON r.id = c.run")
    found = {table: decoded.position(lsn) for table, lsn in rows}
    assert len(found) == len(rows), "a table was copied under two snapshots"
    return found


def order_of(pair: Pair) -> list[str]:
    """Tables in the order in which the copy takes them."""
    try:
        rows = pair.on_target("SELECT source_table FROM cutover.chunk GROUP BY 1 ORDER BY min(place)")
    except psycopg.Error:
        return []
    return [row[0] for row in rows]


def relayed(args: dict[str, Any], relay: Relay) -> dict[str, Any]:
    """An endpoint through the relay, whose links are looked after every second instead of every thirty."""
    keepalive = "keepalives_idle=1 keepalives_interval=1 keepalives_count=2"
    return {
        "dsn": f"host=127.0.0.1 port={relay.port} dbname={args['dbname']} user={args['user']} password={args['password']} sslmode=disable {keepalive}"
    }


@pytest.mark.parametrize("side", ["source", "target"])
def test_case_34_network_cut_reset_and_half_open(pair: Pair, side: str) -> None:
    course = course_of(pair, 34)
    pair.on_target(*resuming.schema(keys=False))
    server = pair.source_server if side == "source" else pair.target_server
    seen: dict[tuple[str, int], faults.Done] = {}

    def stand(share: float) -> None:
        """Wait until so much is done, and remember what is."""
        wait_until(lambda: not mover.running or share_of(pair) >= share, f"{share:.0%} of the copy")
        assert mover.running, f"the copy was over before it was disturbed: {mover.result()}"
        seen.update(done_of(pair))

    with written_to(pair, 34), Relay(server.port) as relay:
        through = {**course.args, side: relayed(course.args[side], relay), "copy": {"workers": 2, "chunk_bytes": CHUNK_BYTES // 4}}
        with running(through) as mover:
            stand(0.1)
            relay.pause()
            threading.Event().wait(1.0)
            relay.resume()
            stand(0.2)
            assert relay.reset() >= 2
            stand(0.4)
            assert relay.vanish() >= 2
            stand(0.6)
            relay.cut()
            threading.Event().wait(2.0)
            assert mover.running, "the copy has given up instead of trying again"
            relay.resume()
            result = mover.result()
            assert "error" not in result, result
    after = done_of(pair)
    exact(pair)
    again = [key for key, chunk in seen.items() if after[key] != chunk and after[key].content == chunk.content]
    assert not again, "chunks that were done were done again"
    course.rest()
    assert not course.tally.differing


@pytest.fixture
def small_disk(pair: Pair, tmp_path: Path) -> Iterator[Callable[[int], None]]:
    """A tablespace ``small`` of the target on a disk of its own; calling it with a number sets the disk's size in MB."""
    place = Path(f"{pair.target_server.home}-small")
    place.mkdir()
    owner = pair.target_server.home.stat()
    with ExitStack() as stack:
        stack.callback(place.rmdir)
        mount("-t", "tmpfs", "-o", f"size=1m,uid={owner.st_uid},gid={owner.st_gid},mode=700", "tmpfs", str(place))
        stack.callback(subprocess.run, ["umount", str(place)], check=True, timeout=30)

        def resize(megabytes: int) -> None:
            mount("-o", f"remount,size={megabytes}m", str(place))

        resize(64)
        pair.on_target(f"CREATE TABLESPACE small LOCATION '{place}'")
        try:
            yield resize
        finally:
            pair.on_target(*(f"DROP TABLE IF EXISTS {table.name}" for table in TABLES), "DROP TABLESPACE small")


def mount(*args: str) -> None:
    subprocess.run(["mount", *args], check=True, capture_output=True, timeout=30)


def test_case_35_disk_full_on_the_target(pair: Pair, small_disk: Callable[[int], None]) -> None:
    course = course_of(pair, 35)
    pair.on_target("SET default_tablespace = small", *resuming.schema(keys=False))
    with written_to(pair, 35):
        small_disk(14)
        with running(course.args) as mover:
            result = mover.result()
        assert "disk" in result["error"] or "space" in result["error"], result
        assert result["details"]["sqlstate"] == "53100" and result["remedy"], result
        before = done_of(pair)
        assert before, "nothing was done before the disk was full"
        ours = "SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'cutover%' AND datname = current_database()"
        wait_until(lambda: not pair.on_target(ours), "the end of the copy's sessions")
        small_disk(200)
        with running(course.args) as mover:
            result = mover.result()
        assert "error" not in result, result
    after = done_of(pair)
    exact(pair)
    again = [key for key, chunk in before.items() if after[key] != chunk and after[key].content == chunk.content]
    assert not again, "chunks that were done were done again"
    course.rest()
    assert not course.tally.differing
