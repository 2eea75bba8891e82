"""Case 33: the target is a Patroni cluster, and its leader is killed in the copy, in the stream and on the way back, each time with commits that
are lost for certain: no replica hears of anything for a while before."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import session
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream import state
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.pgoutput import lsn_number
from bench import load
from bench.world import World, in_front
from integration.transfer.cases import wait_until
from pgservers import Bouncer, Cluster, Fleet, Server, debian_programs

RATE = 200.0
Stand = tuple[Server, Cluster, Bouncer]


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    """A server to leave, a cluster to go to."""
    programs = debian_programs()
    with ExitStack() as stack:
        # What is acknowledged is in the log that a stream is waited for.
        settings = {"synchronous_commit": "on", "shared_buffers": "64MB", "max_wal_senders": "20", "max_replication_slots": "20"}
        source = stack.enter_context(Fleet(settings)).start(source=programs)[0]
        cluster = stack.enter_context(Cluster(programs))
        yield source, cluster, stack.enter_context(in_front(source))


@contextmanager
def world(stand: Stand, dbname: str, megabytes: float) -> Iterator[World]:
    source, cluster, front = stand
    folder = Path(tempfile.mkdtemp(prefix="cutover-failover-"))
    made = World(source, cluster, front, dbname, folder)
    try:
        made.make(megabytes)
        cluster.whole()
        made.begin()
        yield made
    finally:
        cluster.let_go()
        for one in made.services.values():
            one.stop()
        cluster.declare()
        made.end()


def lost(cluster: Cluster, dbname: str, query: str, enough: int) -> tuple[int, int]:
    """Kill the leader when it has done so much that nobody else knows of; the end of its log, and where the new one's own begins.

    Not what the new one holds: by the time that it is asked, much of it has been done again.
    """
    cluster.freeze_replicas()
    old = cluster.leader.server
    before = int(old.execute(dbname, query)[0][0])
    wait_until(lambda: int(old.execute(dbname, query)[0][0]) >= before + enough, "something to lose", 60)
    had = lsn_number(old.execute(dbname, "SELECT pg_current_wal_flush_lsn()::text")[0][0])
    history = "SELECT pg_read_file('pg_wal/' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) || '.history')"
    forks = cluster.fail_over().server.execute("postgres", history)[0][0].split("\n")
    return had, lsn_number(next(line for line in reversed(forks) if line.strip()).split("\t")[1])


def test_case_33_failover_in_the_copy_takes_rows_and_ledger_back_together(stand: Stand) -> None:
    cluster = stand[1]
    with world(stand, "case_33_copy", 40.0) as made, load.Load(made.clients(4, RATE, 33, direct_only=True)) as clients:
        told: list[str] = []

        def copy() -> None:
            while True:
                try:
                    made.copy()
                    return
                except (TransferError, psycopg.OperationalError) as error:
                    told.append(str(error))

        thread = threading.Thread(target=copy)
        thread.start()
        done = "SELECT count(*) FROM cutover.chunk WHERE state = 'done'"
        wait_until(lambda: bool(cluster.execute(made.dbname, "SELECT to_regclass('cutover.chunk')")[0][0]), "the ledger")
        had, kept = lost(cluster, made.dbname, done, 2)
        assert kept < had, "nothing was lost"
        thread.join(120)
        assert not thread.is_alive() and len(told) < 5, told
        memories, _reading = clients.stop()
        made.schema("post_data")
        made.whole(memories)
        # Nothing of the ledger is left undone, and a second copy has nothing to do.
        made.copy()
        assert cluster.execute(made.dbname, "SELECT count(*) FROM cutover.run WHERE finished IS NULL AND abandoned IS NULL") == [(0,)]


def test_case_33_failover_in_the_stream_replays_what_was_lost(stand: Stand) -> None:
    cluster = stand[1]
    with world(stand, "case_33_stream", 2.0) as made, load.Load(made.clients(4, RATE, 34, direct_only=True)) as clients:
        made.copy()
        made.schema("post_data")
        made.caught_up("forward")
        for _unused in range(2):
            cluster.whole()
            had, kept = lost(cluster, made.dbname, "SELECT transactions FROM cutover.stream WHERE direction = 'forward'", 100)
            assert kept < had, "nothing was lost"
            made.caught_up("forward")
        memories, _reading = clients.stop()
        made.whole(memories)
        with session.connect(made.target, application_name="test", read_only=True) as conn:
            found = state.read(conn, "forward")
        assert found is not None and found.problem is None


def test_case_33_failover_on_the_way_back_takes_over_nothing_that_no_client_was_told(stand: Stand) -> None:
    cluster = stand[1]
    with world(stand, "case_33_back", 2.0) as made, load.Load(made.clients(4, RATE, 35, direct_only=True)) as clients:
        made.copy()
        made.complete()
        slot = made.services["reverse"].config.slot
        cluster.declare(**{slot: {"type": "logical", "database": made.dbname, "plugin": "pgoutput"}})
        assert made.switch(poolers=())["state"] == "cut_over"
        clients.switch()
        for _unused in range(2):
            made.caught_up("reverse")
            cluster.whole()
            # Every client hangs in a commit that is on the leader's disk only, and that the leader has sent us.
            cluster.freeze_replicas()
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
            old = cluster.leader.server
            wait_until(lambda old=old, waiting=waiting: old.execute("postgres", waiting)[0][0] >= 3, "commits without an answer")  # type: ignore[misc]
            cluster.fail_over()
        made.caught_up("reverse")
        back = made.back(poolers=())
        clients.switch(0)
        assert back["state"] == "rolled_back"
        memories, _reading = clients.stop()
        made.whole(memories)
