"""A receiver, run in a process of its own as the service does, and what another slot says that it should have received."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream import receiver, spool
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.config import Config
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.pgoutput import lsn_number
from integration.conftest import Pair, Server
from integration.transfer.cases import wait_until

PUBLICATION = "moved"
Messages = list[tuple[int, bytes]]
Restart = Callable[[signal.Signals], None]


def slot_of(pair: Pair, suffix: str = "") -> str:
    """Slots belong to the whole server, databases to one test."""
    return f"{pair.dbname}{suffix}"


def config_of(pair: Pair, folder: Path, **more: Any) -> Config:
    given = {
        "direction": "forward",
        "source": pair.source_server.args(pair.dbname),
        "target": pair.target_server.args(pair.dbname),
        "slot": slot_of(pair),
        "publication": PUBLICATION,
        "spool": str(folder),
    }
    return Config.from_args({**given, **more})


def make_slots(pair: Pair, tables: str = "ALL TABLES") -> None:
    """The publication, the receiver's slot, and one that is read afterwards for comparison."""
    pair.on_source(f"CREATE PUBLICATION {PUBLICATION} FOR {tables}")
    for suffix in ("", "_twin"):
        pair.on_source(f"SELECT pg_create_logical_replication_slot('{slot_of(pair, suffix)}', 'pgoutput')")


@contextmanager
def slots_dropped(server: Server, dbname: str) -> Iterator[None]:
    """A database with slots cannot be dropped."""
    try:
        yield
    finally:
        with server.connect() as conn:
            conn.execute("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = %s AND active", (dbname,))
            wait_until(
                lambda: not conn.execute("SELECT FROM pg_replication_slots WHERE database = %s AND active", (dbname,)).fetchall(),
                "the end of the slots' readers",
            )
            conn.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = %s", (dbname,))


class Running:
    """A receiver in a process of its own."""

    def __init__(self, config: Config, timing: receiver.Timing | None = None, before: Callable[[], None] | None = None) -> None:
        """before: done in the process first."""
        self.config, self.timing, self.before = config, timing, before
        self.process: multiprocessing.process.BaseProcess | None = None

    def start(self) -> Running:
        self.process = multiprocessing.get_context("fork").Process(target=self._life)
        self.process.start()
        return self

    def _life(self) -> None:
        stop = threading.Event()
        signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
        code = 3
        try:
            if self.before is not None:
                self.before()
            receiver.run(self.config, stop.is_set, self.timing)
            code = 0
        except TransferError:
            code = 2
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    @property
    def pid(self) -> int:
        assert self.process is not None and self.process.pid is not None
        return self.process.pid

    def end(self, number: signal.Signals = signal.SIGTERM) -> int | None:
        """Exit code after a signal."""
        assert self.process is not None
        if self.process.is_alive():
            os.kill(self.pid, number)
        return self.over()

    def over(self, seconds: float = 30.0) -> int | None:
        """Exit code of a process that ends by itself."""
        assert self.process is not None
        self.process.join(seconds)
        assert not self.process.is_alive(), f"the receiver did not end within {seconds} s"
        return self.process.exitcode

    @property
    def facts(self) -> dict[str, Any]:
        path = self.config.spool / "receiver.json"
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return found

    def wait(self, state: str, seconds: float = 30.0) -> dict[str, Any]:
        try:
            wait_until(lambda: self.facts.get("state") == state, f"state {state}", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.facts}") from error
        return self.facts


@contextmanager
def running(config: Config, timing: receiver.Timing | None = None, before: Callable[[], None] | None = None) -> Iterator[Running]:
    """Ended by SIGKILL if it has not ended before."""
    found = Running(config, timing, before).start()
    try:
        yield found
    finally:
        found.end(signal.SIGKILL)


def received(folder: Path, applied: int = 0) -> Messages:
    """Messages of the whole transactions in a spool, without descriptions, which depend on the connection."""
    reader = spool.Reader(folder)
    try:
        reader.seek(applied or begins(folder))
        return [(position, data) for position, data in reader.transactions() if data[:1] not in (b"R", b"Y")]
    finally:
        reader.close()


def begins(folder: Path) -> int:
    return min(int(path.stem, 16) for path in folder.glob("*.seg"))


def wanted(pair: Pair) -> Messages:
    """The same as the other slot tells it, from its position to now."""
    rows = pair.on_source(
        f"""SELECT lsn::text, data FROM pg_logical_slot_peek_binary_changes('{slot_of(pair, "_twin")}', NULL, NULL,
                'proto_version', '1', 'publication_names', '{PUBLICATION}', 'messages', 'true')"""
    )
    return [(lsn_number(lsn), data) for lsn, data in rows if data[:1] not in (b"R", b"Y") and data[:2] != b"M\0"]


def end_of_log(pair: Pair) -> int:
    # The servers of the tests do not wait for the disk at commit, so what was written may be less.
    return lsn_number(pair.on_source("SELECT pg_current_wal_insert_lsn()::text")[0][0])


def confirmed(pair: Pair) -> int:
    return lsn_number(
        pair.on_source(f"SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{slot_of(pair)}'")[0][0]
    )


def wait_for_all(pair: Pair, folder: Path, seconds: float = 60.0) -> None:
    """Until the spool has everything up to now, as keepalives tell too."""
    end = end_of_log(pair)
    reader = spool.Reader(folder)
    try:
        wait_until(lambda: reader.spooled() >= end, f"{end:X} in the spool", seconds)
    except AssertionError as error:
        raise AssertionError(f"{error}: {(folder / 'receiver.json').read_text()}") from error
    finally:
        reader.close()


class Load:
    """Sessions that insert, update and delete as fast as they can, each transaction of several changes."""

    def __init__(self, pair: Pair, sessions: int = 2) -> None:
        self.pair = pair
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self._write, args=(number,)) for number in range(sessions)]

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_unused: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()

    def _write(self, session: int) -> None:
        with psycopg.connect(
            host=str(self.pair.source_server.home), port=self.pair.source_server.port, dbname=self.pair.dbname, user="postgres"
        ) as conn:
            number = 0
            while not self.over.is_set():
                number += 1
                conn.execute(
                    "INSERT INTO load SELECT %s, %s, g, repeat('x', 50) FROM generate_series(1, 5) g", (session, number), prepare=True
                )
                conn.execute(
                    "UPDATE load SET note = 'updated' WHERE session = %s AND number = %s AND part < 3", (session, number), prepare=True
                )
                conn.execute("DELETE FROM load WHERE session = %s AND number = %s", (session, number - 10), prepare=True)
                conn.commit()

    TABLE = "CREATE TABLE load (session int, number int, part int, note text, PRIMARY KEY (session, number, part))"


QUICK = receiver.Timing(busy=2.0, watch=0.3)
WORK = (
    "INSERT INTO t (m, note) SELECT 'calm', 'note ' || g FROM generate_series(1, 300) g",
    "UPDATE t SET note = NULL WHERE id % 3 = 0",
    "UPDATE big SET n = n + 1",
    "DELETE FROM t WHERE id % 5 = 0",
    "SELECT pg_logical_emit_message(true, 'cutover', 'fence:1')",
    "SELECT pg_logical_emit_message(false, 'other', 'for nobody')",
    "TRUNCATE t",
    "ALTER TABLE t ADD COLUMN more int DEFAULT 5",
    "INSERT INTO t (m, more) VALUES ('wild', 7)",
)
TABLES = (
    "CREATE TYPE mood AS ENUM ('calm', 'wild')",
    "CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, m mood, note text)",
    "CREATE TABLE big (id int PRIMARY KEY, n int, data bytea)",
    "ALTER TABLE big ALTER data SET STORAGE EXTERNAL",
    "INSERT INTO big VALUES (1, 0, decode(repeat('00ff', 50000), 'hex'))",
    Load.TABLE,
)


def spooled(folder: Path) -> int:
    reader = spool.Reader(folder)
    try:
        return reader.spooled()
    finally:
        reader.close()


def reader_of(pair: Pair) -> int | None:
    found = pair.on_source(f"SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{slot_of(pair)}'")[0][0]
    return None if found is None else int(found)
