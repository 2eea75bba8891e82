"""Changes of a real slot applied to a real database: exact for every type and shape, on every major, whatever interrupts it."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import session
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream import applier, pgoutput, state
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.config import Config
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.feed import Limits
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.link import Link
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.spool import Reader
from integration.conftest import MajorPair, Pair
from integration.transfer.cases import ROWS, SCHEMA
from integration.transfer.streaming import OPTIONS, Stream, applied_equal

# Without a key, or with one that an expression over user types makes unfit: rows are known by all that they hold.
LOOSE = ("no_key", "nullable_key", "no_columns", "hashed", "hashed_0", "hashed_1", "child")
CHANGES = (
    "UPDATE wide SET t = coalesce(t, '') || 'x', b = NULL WHERE id % 3 = 0",
    "UPDATE wide SET b = decode(repeat('ab', 20000), 'hex') WHERE id BETWEEN 10 AND 60",
    "UPDATE wide SET i4 = 5 WHERE id BETWEEN 20 AND 70",
    "DELETE FROM wide WHERE id % 7 = 0",
    "UPDATE wide_binary SET f8 = '-0' WHERE id % 2 = 0",
    "UPDATE no_key SET b = 'q' WHERE a = 5",
    "DELETE FROM no_key WHERE a = 7",
    "DELETE FROM no_key WHERE ctid = (SELECT min(ctid) FROM no_key WHERE a = 8)",
    "DELETE FROM nullable_key WHERE b = 'b'",
    "UPDATE ranged SET at = at + 400 WHERE id % 10 = 0",
    "UPDATE text_key SET code = code || 'é' WHERE code LIKE '%5'",
    "UPDATE pair_key SET a = a + 100 WHERE b = 3",
    "UPDATE pair_key SET note = note || '!' WHERE a < 20",
    "DELETE FROM no_columns WHERE ctid = '(0,1)'",
    "UPDATE hashed SET m = 'calm'",
    "TRUNCATE uuid_key",
    "UPDATE child SET note = 'n' WHERE id = 3",
    "DELETE FROM ONLY parent WHERE id < 5",
    'UPDATE "Odd ""Name\\" SET "select" = \'q\', id = id + 10',
    "INSERT INTO uuid_key VALUES ('00000000-0000-0000-0000-000000000001', 'back')",
)


@pytest.fixture
def stream(pair: Pair, tmp_path: Path) -> Iterator[Stream]:
    """Nothing is copied yet."""
    made = Stream(pair, tmp_path / "spool")
    yield made
    made.drop_slot()


@pytest.mark.parametrize(("source", "target"), [(14, 18), (18, 15), (16, 17)])
def test_every_type_and_shape_between_majors(major_pair: MajorPair, tmp_path: Path, source: int, target: int) -> None:
    pair = major_pair(source, target)
    made = Stream(pair, tmp_path / "spool")
    try:
        pair.on_both(*SCHEMA)
        pair.on_source(*(f"ALTER TABLE {name} REPLICA IDENTITY FULL" for name in LOOSE), *ROWS[:3])
        made.copy()
        # What was copied comes a second time, with keys of its own; the rest comes through the stream only.
        pair.on_source(*ROWS[3:], ROWS[0], ROWS[1].replace("3000", "300"))
        applied_equal(made)
        pair.on_source(*CHANGES)
        applied_equal(made)
        assert made.figures["exact_batches"] == 0 and made.row.changes > 10000
    finally:
        made.drop_slot()


@pytest.mark.parametrize("major", [14, 15, 16, 17, 18])
def test_messages_of_every_major_are_understood(major_pair: MajorPair, major: int) -> None:
    pair = major_pair(major, major)
    pair.on_source(
        "CREATE TYPE mood AS ENUM ('calm')",
        "CREATE DOMAIN few AS numeric(10, 2)",
        "CREATE TABLE a (id int PRIMARY KEY, m mood, n few, ms mood[], t text)",
        "CREATE TABLE b (t text, v varchar(7))",
        "ALTER TABLE a ALTER t SET STORAGE external",
        "ALTER TABLE b REPLICA IDENTITY FULL",
        "CREATE PUBLICATION p FOR ALL TABLES",
        "SELECT pg_create_logical_replication_slot('messages', 'pgoutput')",
    )
    with pair.source_server.connect(pair.dbname) as conn:
        conn.execute("SELECT pg_replication_origin_create('elsewhere')")
        conn.execute("SELECT pg_replication_origin_session_setup('elsewhere')")
        with conn.transaction():
            conn.execute("SELECT pg_replication_origin_xact_setup('0/99', now())")
            conn.execute("INSERT INTO a VALUES (1, 'calm', 1.5, '{calm}', repeat('x', 5000))")
        conn.execute("SELECT pg_replication_origin_session_reset()")
        conn.execute("SELECT pg_replication_origin_drop('elsewhere')")
        for statement in (
            "UPDATE a SET n = 2",
            "UPDATE a SET id = 2",
            "INSERT INTO b VALUES (NULL, 'v')",
            "UPDATE b SET v = ''",
            "DELETE FROM b",
            "DELETE FROM a",
            "TRUNCATE a, b RESTART IDENTITY CASCADE",
            "SELECT pg_logical_emit_message(true, 'cutover', 'fence:1')",
            "SELECT pg_logical_emit_message(false, 'cutover', 'outside')",
            "SET synchronous_commit = on",
            "SELECT pg_logical_emit_message(true, 'cutover', 'fence:2')",
        ):
            conn.execute(statement)
        rows = conn.execute(
            f"SELECT data FROM pg_logical_slot_peek_binary_changes('messages', NULL, NULL, {OPTIONS})", binary=True
        ).fetchall()
        conn.execute("SELECT pg_drop_replication_slot('messages')")
    found = [pgoutput.decode(bytes(data)) for (data,) in rows]
    relations = {one.dotted: one for one in found if isinstance(one, pgoutput.Relation)}
    types = {one.oid: one for one in found if isinstance(one, pgoutput.TypeName)}
    assert [(one.name, one.key) for one in relations["public.a"].columns] == [
        ("id", True),
        ("m", False),
        ("n", False),
        ("ms", False),
        ("t", False),
    ]
    assert (
        relations["public.a"].identity == "d" and relations["public.b"].identity == "f" and relations["public.b"].columns[1].modifier == 11
    )
    named = {column.name: (types[column.type_oid].schema, types[column.type_oid].name) for column in relations["public.a"].columns[1:4]}
    assert named == {"m": ("public", "mood"), "n": ("pg_catalog", "numeric"), "ms": ("public", "_mood")}
    updates = [one for one in found if isinstance(one, pgoutput.Update)]
    assert [(one.key is not None, one.old is not None, one.new[-1] is None) for one in updates] == [
        (False, False, True),
        (True, False, True),
        (False, True, False),
    ]
    assert [len([one for one in found if isinstance(one, kind)]) for kind in (pgoutput.Insert, pgoutput.Delete, pgoutput.Truncate)] == [
        2,
        2,
        1,
    ]
    truncate = next(one for one in found if isinstance(one, pgoutput.Truncate))
    assert truncate.restart and truncate.cascade and len(truncate.relations) == 2
    messages = [one for one in found if isinstance(one, pgoutput.Message)]
    assert {(one.transactional, one.content) for one in messages} == {(True, b"fence:1"), (False, b"outside"), (True, b"fence:2")}
    origins = [one for one in found if isinstance(one, pgoutput.Origin)]
    assert [(one.name, one.lsn) for one in origins] == [("elsewhere", 0x99)]


class Writer:
    """Transactions of random changes: keys that come back, unique values that wander, columns that stay out of line."""

    def __init__(self, conn: psycopg.Connection[tuple[object, ...]], seed: int) -> None:
        self.conn, self.random = conn, random.Random(seed)

    def run(self, transactions: int) -> None:
        for _unused in range(transactions):
            with self.conn.transaction(force_rollback=self.random.random() < 0.1):
                for _number in range(self.random.randint(1, 8)):
                    self.step()

    def step(self) -> None:
        pick, key = self.random.random(), self.random.randint(1, 40)
        table, where = self.random.choice(
            [("keyed", f"id = {key}"), ("paired", f"a = {key % 7} AND b = '{key % 5}'"), ("loose", f"n = {key}")]
        )
        values = {
            "keyed": f"({key}, {self.random.randint(1, 60)}, repeat('{key}', {self.random.choice([1, 4000])}), {self.random.random()})",
            "paired": f"({key % 7}, '{key % 5}', {key})",
            "loose": f"({key}, {self.random.choice(['NULL', chr(39) + 'v' + chr(39)])})",
        }[table]
        conflict = "" if table == "loose" else " ON CONFLICT DO NOTHING"
        changed = {
            "keyed": self.random.choice(
                ["f = f + 1", "big = big || 'x'", f"id = {self.random.randint(1, 40)}", f"u = {self.random.randint(1, 60)}", "f = NULL"]
            ),
            "paired": self.random.choice(["c = c + 1", "b = b || '.'"]),
            "loose": self.random.choice(["v = 'w'", "n = n + 1"]),
        }[table]
        if pick < 0.4:
            sql = f"INSERT INTO {table} VALUES {values}{conflict}"
        elif pick < 0.8:
            sql = f"UPDATE {table} SET {changed} WHERE {where}"
        else:
            sql = f"DELETE FROM {table} WHERE {where}"
        try:
            with self.conn.transaction():
                self.conn.execute(sql)
        except psycopg.errors.UniqueViolation:
            return

    def swap(self) -> None:
        """Two rows exchange what must be unique: 101 and 102."""
        with self.conn.transaction():
            for statement in ("u = -u - 1000 WHERE id = 101", "u = 203 - u WHERE id = 102", "u = 1203 + u WHERE id = 101"):
                self.conn.execute(f"UPDATE keyed SET {statement}")


RANDOM = (
    "CREATE TABLE keyed (id int PRIMARY KEY, u int UNIQUE, big text, f float8)",
    "ALTER TABLE keyed ALTER big SET STORAGE external",
    "CREATE TABLE paired (a int, b text, c int, PRIMARY KEY (b, a))",
    "CREATE TABLE loose (n int, v text)",
    "CREATE INDEX ON loose (n)",
)


@pytest.mark.parametrize(
    ("identity", "limits"),
    [("default", Limits()), ("full", Limits(changes=3)), ("default", Limits(size=3000))],
    ids=["large", "by_changes", "by_size"],
)
def test_random_transactions_in_batches_of_any_size(stream: Stream, monkeypatch: pytest.MonkeyPatch, identity: str, limits: Limits) -> None:
    stream.limits = limits
    # Also with statements that are let go of and made again all the time.
    monkeypatch.setattr(Link, "most_prepared", 3)
    stream.pair.on_both(*RANDOM)
    stream.pair.on_source("ALTER TABLE loose REPLICA IDENTITY FULL")
    if identity == "full":
        stream.pair.on_source("ALTER TABLE keyed REPLICA IDENTITY FULL", "ALTER TABLE paired REPLICA IDENTITY FULL")
    with stream.pair.source_server.connect(stream.pair.dbname) as conn:
        writer = Writer(conn, 4711)
        conn.execute("INSERT INTO keyed VALUES (101, 101, 'a', 0), (102, 102, 'b', 0)")
        writer.run(50)
        stream.copy()
        for _unused in range(2):
            writer.run(150)
            writer.swap()
            applied_equal(stream)
    assert stream.row.transactions > 150
    # What was exchanged cannot be written at once: such a batch is done again change by change, and what comes after it is not.
    assert 2 <= stream.exact <= (60 if limits.changes == 3 else stream.row.transactions)


def applying(config: Config, position: int, found: Any) -> None:
    """A process of its own: apply up to a position, then tell the most memory it ever had, in MB."""

    def reached() -> bool:
        time.sleep(0.01)
        with closing(session.connect(config.receiving, application_name="test", read_only=True)) as conn:
            row = state.read(conn, config.direction)
        return row is not None and row.applied >= position

    applier.run(config, reached)
    status = Path("/proc/self/status").read_text()
    found.put(next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM:")))


def test_memory_does_not_grow_with_the_transaction(pair: Pair, tmp_path: Path) -> None:
    """Measured with 20,000 and 160,000 rows in one transaction; what is held is two batches, so that 2,000,000 rows hold no more."""
    context = multiprocessing.get_context("spawn")
    peaks = []
    pair.on_both("CREATE TABLE t (id int PRIMARY KEY, a text, b text, n int)")
    made = Stream(pair, tmp_path / "spool")
    try:
        made.copy()
        made.apply_once()
        for place, count in enumerate((20_000, 160_000)):
            pair.on_source(
                f"BEGIN; INSERT INTO t SELECT {place} * 1000000 + g, repeat('a', 60), md5(g::text), g FROM generate_series(1, {count}) g;"
                f" UPDATE t SET n = n + 1 WHERE id > {place} * 1000000 AND id % 4 = 0; COMMIT"
            )
            made.pump()
            with closing(Reader(made.folder)) as reader:
                position = reader.spooled()
            answers: Any = context.Queue()
            process = context.Process(target=applying, args=(made.config, position, answers))
            process.start()
            peaks.append(answers.get(timeout=120))
            process.join(30)
        assert pair.on_target("SELECT count(*), sum(n) FROM t") == pair.on_source("SELECT count(*), sum(n) FROM t")
        assert peaks[1] < 120 and peaks[1] < peaks[0] + 15, peaks
    finally:
        made.drop_slot()
