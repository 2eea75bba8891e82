"""Rows forwarded from socket to socket: exact whatever their size, in little memory, and with the server's own reason when one fails."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import pipe, session
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.copy import copy
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Selection
from integration.conftest import Pair

ALL = Selection.from_args()
SUMS = "SELECT count(*), count(b), sum(length(b)), md5(string_agg(md5(b), '' ORDER BY id)) FROM t"
TABLE = "CREATE TABLE t (id int, b bytea)"
# From nothing to several buffers, and sizes around the edges of one.
ROWS = """INSERT INTO t SELECT g, CASE WHEN g % 50 = 0 THEN NULL WHEN g % 97 = 0 THEN decode(repeat(md5(g::text), 40000 + g), 'hex')
          WHEN g % 31 = 0 THEN convert_to(repeat('x', 262144 - g / 31), 'UTF8') ELSE decode(md5(g::text), 'hex') END FROM generate_series(1, 3000) g"""


def flow(pair: Pair, out_sql: str, in_sql: str = "COPY public.t FROM STDIN (FORMAT binary)") -> tuple[int, int]:
    """One COPY, committed, by the way for connections without encryption."""
    with (
        session.connect(pair.source, application_name="reader", read_only=True) as reader,
        session.connect(pair.target, application_name="writer", replica=True) as writer,
    ):
        source, target = pipe.bare(reader), pipe.bare(writer)
        pipe.run(target, "BEGIN")
        pipe.run(target, in_sql)
        moved = pipe.flow_plain(source, target, out_sql, lambda _sent, _rows: None)
        pipe.run(target, "COMMIT")
        # Both connections are as they were.
        assert pipe.rows(source, "SELECT 1") == [["1"]] == pipe.rows(target, "SELECT 1")
        return moved


@pytest.mark.parametrize("form", ["binary", "text"])
def test_rows_of_every_size_arrive(pair: Pair, form: str) -> None:
    pair.on_both(TABLE)
    pair.on_source(ROWS)
    rows, size = flow(pair, f"COPY public.t TO STDOUT (FORMAT {form})", f"COPY public.t FROM STDIN (FORMAT {form})")
    assert rows == 3000 and pair.on_target(SUMS) == pair.on_source(SUMS)
    with session.connect(pair.source, application_name="plain", read_only=True) as conn:
        source = pipe.bare(conn)
        pipe.run(source, f"COPY public.t TO STDOUT (FORMAT {form})")
        expected = 0
        while (got := source.get_copy_data(0))[0] >= 0:
            expected += got[0]
        while source.get_result() is not None:
            pass
    assert size == expected


def test_no_rows(pair: Pair) -> None:
    pair.on_both(TABLE)
    assert flow(pair, "COPY public.t TO STDOUT (FORMAT binary)")[0] == 0


def test_the_sources_reason_is_told(pair: Pair) -> None:
    pair.on_both(TABLE)
    pair.on_source(ROWS)
    with pytest.raises(session.psycopg.errors.UndefinedTable, match="nowhere"):
        flow(pair, "COPY nowhere TO STDOUT (FORMAT binary)")
    with pytest.raises(session.psycopg.errors.DivisionByZero, match="division by zero"):
        flow(pair, "COPY (SELECT id / (id - 2000), b FROM public.t ORDER BY id) TO STDOUT (FORMAT binary)")
    assert pair.on_target("SELECT count(*) FROM t") == [(0,)]


def test_the_targets_reason_is_told_while_rows_still_come(pair: Pair) -> None:
    pair.on_both(TABLE)
    pair.on_source(ROWS)
    pair.on_target("ALTER TABLE t ADD CHECK (id < 5)")
    endless = "COPY (SELECT g AS id, repeat('y', 5000)::bytea FROM generate_series(1, 100000000) g) TO STDOUT (FORMAT binary)"
    with pytest.raises(session.psycopg.errors.CheckViolation, match="t_id_check"):
        flow(pair, endless)
    with pytest.raises(TransferError, match=r"copying public\.t into public\.t failed.*t_id_check"):
        copy(pair.source, pair.target, ALL, workers=1)


def test_notices_of_the_target_do_not_matter(pair: Pair) -> None:
    pair.on_both(TABLE)
    pair.on_source(ROWS)
    pair.on_target(
        "CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE NOTICE '%', repeat('n', 5000); RETURN NEW; END$$",
        "CREATE TRIGGER shout BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION shout()",
        "ALTER TABLE t ENABLE ALWAYS TRIGGER shout",
    )
    assert flow(pair, "COPY public.t TO STDOUT (FORMAT binary)")[0] == 3000 and pair.on_target(SUMS) == pair.on_source(SUMS)


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_lost_side_is_a_lost_connection(pair: Pair, side: str) -> None:
    pair.on_both(TABLE)
    server = pair.source_server if side == "source" else pair.target_server
    name = "reader" if side == "source" else "writer"
    end = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{name}' AND query LIKE 'COPY%'"
    killer = threading.Timer(0.5, lambda: server.execute(pair.dbname, end))
    killer.start()
    with pytest.raises(session.psycopg.OperationalError) as caught:
        flow(pair, "COPY (SELECT g AS id, repeat('y', 5000)::bytea FROM generate_series(1, 100000000) g) TO STDOUT (FORMAT binary)")
    killer.join(30)
    assert session.is_lost(caught.value)


def test_a_row_of_150_mb_passes_through_a_small_worker(pair: Pair) -> None:
    pair.on_both(TABLE)
    pair.on_source("INSERT INTO t SELECT 1, decode(repeat(md5('x'), 9830400), 'hex')", "INSERT INTO t VALUES (2, 'a')")
    # A worker is a copy of this process, which other tests may have made large; libpq would need three times the row on top.
    ours = int(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS")))
    peak = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            for task in Path(f"/proc/{os.getpid()}/task").glob("*/children"):
                for pid in task.read_text().split():
                    status = Path(f"/proc/{pid}/status")
                    try:
                        text = status.read_text()
                    except OSError:
                        continue
                    if "postgres" not in text.splitlines()[0]:
                        peak = max(peak, *(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmHWM")), 0)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        result = copy(pair.source, pair.target, ALL, workers=1)
    finally:
        done.set()
        watcher.join(10)
    assert result.rows == 2 and pair.on_target("SELECT max(length(b)) FROM t") == [(157286400,)]
    assert 0 < peak < ours + 110_000, f"{peak} kB, {ours} kB of them this process's own"
