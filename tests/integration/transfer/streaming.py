"""A stream between two databases of a test: spooled from a real slot, applied by the applier as the service runs it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import session
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.copy import copy
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Rename
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream import applier, state
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.config import Config
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.feed import Limits
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.pgoutput import lsn_number, lsn_text
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.spool import Reader, Writer
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.verify import VerifyResult, verify
from integration.conftest import Pair
from integration.transfer.cases import wait_until

PUBLICATION = "p"
OPTIONS = f"'proto_version', '1', 'publication_names', '{PUBLICATION}', 'messages', 'true'"
IMPATIENT = applier.Timing(look=0.2, beat=0.2, keep=0.5, unattended=1.0, first_pause=0.05)


@dataclass
class Stream:
    """From ``pair.source`` to ``pair.target``, or back. Messages go to the spool when :meth:`pump` is called, or all the time between start and stop."""

    pair: Pair
    folder: Path
    direction: str = "forward"
    rename: Rename = field(default_factory=Rename)
    exclude: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    timing: applier.Timing = IMPATIENT
    error: BaseException | None = None
    exact: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    @property
    def slot(self) -> str:
        return f"{self.pair.dbname}_{self.direction}"

    @property
    def config(self) -> Config:
        return Config(
            self.direction, self.pair.source, self.pair.target, self.slot, PUBLICATION, self.folder, (), self.exclude, self.rename
        )

    def on_sender(self, *statements: str) -> list[tuple[Any, ...]]:
        return (self.pair.on_source if self.direction == "forward" else self.pair.on_target)(*statements)

    def on_receiver(self, *statements: str) -> list[tuple[Any, ...]]:
        return (self.pair.on_target if self.direction == "forward" else self.pair.on_source)(*statements)

    @property
    def figures(self) -> dict[str, Any]:
        """What the applier last wrote of itself."""
        found: dict[str, Any] = json.loads((self.folder / "applier.json").read_text())
        return found

    def drop_slot(self) -> None:
        """A database with a slot cannot be dropped."""
        self.on_sender(
            f"SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{self.slot}' AND active",
            f"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{self.slot}'",
        )

    @property
    def begun(self) -> state.Stream | None:
        """Its row, None before there is one."""
        with session.connect(self.config.receiving, application_name="test", read_only=True) as conn:
            return state.read(conn, self.direction)

    @property
    def row(self) -> state.Stream:
        """Its row."""
        found = self.begun
        assert found is not None
        return found

    def copy(self) -> None:
        """Publish everything and copy it under the slot."""
        self.on_sender(f"CREATE PUBLICATION {PUBLICATION} FOR ALL TABLES WITH (publish_via_partition_root = true)")
        copy(self.pair.source, self.pair.target, self.config.selection, workers=1, slot=self.slot)

    def pump(self) -> int:
        """Bring what the slot has to the spool; how many messages."""
        with self._reading() as conn:
            # A commit that is waited for brings those before it to the log, too.
            conn.execute("SET synchronous_commit = on")
            conn.execute("SELECT pg_logical_emit_message(true, 'test', '')")
            return self._pump(conn)

    def _reading(self) -> psycopg.Connection[Any]:
        """With the settings that the receiver has: values are printed under them."""
        return session.connect(self.config.sending, application_name="test pump")

    def _pump(self, conn: psycopg.Connection[Any]) -> int:
        writer = Writer(self.folder, {"system": "test", "database": self.pair.dbname, "slot": self.slot})
        try:
            if not writer.spooled and self.direction == "reverse" and self.begun is None:
                return 0
            rows = conn.execute(
                f"SELECT lsn::text, data FROM pg_logical_slot_get_binary_changes('{self.slot}', NULL, NULL, {OPTIONS})", binary=True
            ).fetchall()
            if not writer.spooled:
                begin = self.row.begin if self.direction == "reverse" else lsn_number(self.begin())
                writer.advance(begin)
            for position, data in rows:
                writer.append(lsn_number(position), bytes(data))
            writer.advance(self._confirmed(conn))
            writer.sync()
        finally:
            writer.close()
        return len(rows)

    def begin(self) -> str:
        """Position of the first copy."""
        return str(self.on_receiver(f"SELECT min(snapshot_lsn)::text FROM cutover.run WHERE slot = '{self.slot}'")[0][0])

    def _confirmed(self, conn: psycopg.Connection[Any]) -> int:
        row = conn.execute("SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s", (self.slot,)).fetchone()
        assert row is not None
        return lsn_number(row[0])

    def apply_once(self) -> None:
        """Pump, and apply until nothing is left. Raises what the applier raises."""
        self.pump()
        with closing(Reader(self.folder)) as reader:
            spooled = reader.spooled()
        applier.run(self.config, self.until(spooled), replace(self.timing, beat=0.02, rest=0.01), self.limits)
        self.exact += self.figures["exact_batches"]

    def until(self, position: int, seconds: float = 60.0) -> Callable[[], bool]:
        """Becomes true when the position has been applied."""
        deadline = time.monotonic() + seconds
        looked, done = 0.0, False

        def reached() -> bool:
            nonlocal looked, done
            if done:
                return True
            assert time.monotonic() < deadline, f"{lsn_text(position)} was not applied"
            if time.monotonic() - looked < 0.05:
                return False
            looked = time.monotonic()
            with session.connect(self.config.receiving, application_name="test", read_only=True) as conn:
                found = state.read(conn, self.direction)
            done = found is not None and found.applied >= position
            return done

        return reached

    @contextmanager
    def running(self, pump: bool = True) -> Iterator[None]:
        """Applier, and what fills the spool, in threads of this process. What it raised is raised at the end. pump: False without a copy, too."""
        self.error = None
        self._stop.clear()

        def applying() -> None:
            try:
                applier.run(self.config, self._stop.is_set, self.timing, self.limits)
            except BaseException as error:
                self.error = error

        def pumping() -> None:
            with self._reading() as conn:
                while not self._stop.is_set():
                    # Of the way back there is no slot before the switch.
                    there = conn.execute("SELECT FROM pg_replication_slots WHERE slot_name = %s", (self.slot,)).rowcount
                    try:
                        moved = self._pump(conn) if there else 0
                    except TransferError as error:
                        # A process that is just being started holds the lock of the one that starts it for a moment.
                        if kind_of(error) != "spool_in_use":
                            raise
                        moved = 0
                    if not moved:
                        time.sleep(0.005)

        threads = [threading.Thread(target=applying), *([threading.Thread(target=pumping)] if pump else [])]
        for thread in threads:
            thread.start()
        try:
            if pump and self.direction == "forward":
                wait_until(lambda: self.error is not None or self.begun is not None, "the beginning of the stream")
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(30)
        if self.error is not None:
            raise self.error

    def caught_up(self, seconds: float = 60.0) -> None:
        """Wait until everything written so far is applied."""
        position = lsn_number(self.on_sender("SET synchronous_commit = on", "SELECT pg_current_wal_insert_lsn()::text")[0][0])
        self.on_sender("SET synchronous_commit = on", "SELECT pg_logical_emit_message(true, 'test', '')")
        reached = self.until(position, seconds)
        while not reached():
            if self.error is not None:
                raise self.error
            time.sleep(0.01)

    def verified(self) -> VerifyResult:
        """Both sides compared as a whole."""
        return verify(self.pair.source, self.pair.target, self.config.selection, workers=1)


def kind_of(error: TransferError) -> object:
    """Of an error."""
    return error.details.get("kind")


def applied_equal(made: Stream) -> None:
    """Apply everything and compare both sides as a whole."""
    made.apply_once()
    result = made.verified()
    assert result.equal, [
        (table.name, table.missing_count, table.extra_count, table.changed[:3]) for table in result.tables if not table.equal
    ]


def refused(made: Stream, kind: str, *words: str) -> TransferError:
    """What the applier stops with, which its row and its file tell as well. words: in the message or the remedy."""
    with pytest.raises(TransferError) as caught:
        made.apply_once()
    error = caught.value
    assert kind_of(error) == kind and all(word in f"{error.message} {error.remedy}" for word in words), (error, error.remedy)
    problem = made.row.problem
    assert problem is not None and problem["kind"] == kind and problem["message"] == error.message and problem["remedy"] == error.remedy
    assert made.figures["state"] == "failed" and made.figures["problem"]["message"] == error.message
    return error
