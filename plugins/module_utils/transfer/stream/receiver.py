# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From the sending server's slot to the spool. Confirms what is safe on this machine's disk, and nothing about what is applied."""

from __future__ import annotations

import os
import select
import struct
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import predecessor, session, slots
from ..errors import TransferError
from . import files, sender, standbys
from .config import Config
from .pgoutput import lsn_number
from .records import COMMIT
from .spool import Writer
from .standing import Standing

if TYPE_CHECKING:
    import psycopg

_DATA, _KEEPALIVE = b"wk"
_POSITION = struct.Struct(">Q").unpack_from
_ALIVE = struct.Struct(">QqB").unpack_from
_HEAD = 25
# What is taken from the connection at a time: while it is, feedback waits.
_BATCH_BYTES, _BATCH_MESSAGES = 256 * 1024, 2000
_FLUSH_SECONDS = 0.02
# Between two looks whether the standbys have a commit, and the position of an idle sender.
_STANDBY_SECONDS, _IDLE_SECONDS = 0.002, 0.02
_TIMELINE = "timeline.json"
# Room that a full disk must have again: so many bytes, on a small one this part of it.
_ROOM_BYTES, _ROOM_PART = 64 * 1024 * 1024, 0.05
# Kinds that time may heal, beside a lost connection.
_PATIENT = ("unknown_host", "no_wal_sender")


@dataclass(frozen=True)
class Timing:
    """Seconds. feedback: at most between two reports to the sender; sync: at least between two syncs while data comes; idle: without data before a sync;
    position: at least between two syncs of a position only; watch: between two looks at the slot; silence: of the sender before the link counts as dead
    busy: how long another reader of the slot is waited for; sender_timeout: wanted of the sender, None for its own; first_pause, longest_pause: before
    another attempt
    """

    feedback: float = 10.0
    sync: float = 0.2
    idle: float = 0.01
    position: float = 1.0
    watch: float = 2.0
    silence: float = 600.0
    busy: float = 90.0
    sender_timeout: float | None = 60.0
    first_pause: float = 0.2
    longest_pause: float = 10.0


def run(config: Config, stop: Callable[[], bool], timing: Timing | None = None) -> None:
    """Receive until ``stop()``, which is asked about twice a second or more often. Lost connections are made again without end.

    Raises TransferError for what a person must mend: slot_lost, slot_in_use, other_slot, other_spool, spool_gap, sender_behind, wrong_password, ...
    """
    timing = timing or Timing()
    config.spool.mkdir(mode=0o700, parents=True, exist_ok=True)
    standing = Standing(config.spool / "receiver.json", config.direction, config.slot)
    pause, full = timing.first_pause, 0.0
    standing.say("connecting")
    try:
        while not stop():
            began = time.monotonic()
            try:
                _Session(config, stop, timing, standing).run()
            except (TransferError, session.psycopg.Error) as error:
                state = _forgiven(error)
                if state is None:
                    raise
                if time.monotonic() - began > 2 * timing.longest_pause:
                    pause, full = timing.first_pause, 0.0
                standing.reconnects += 1
                standing.say(state, error, final=True)
                if state == "disk_full":
                    full = min(max(2 * full, 1.0), 6 * timing.longest_pause)
                    _await_room(config, stop, standing, full)
                else:
                    full = 0.0
                    _sleep(pause, stop, standing)
                    pause = min(pause * 2, timing.longest_pause)
        standing.say("stopped", final=True)
    except Exception as error:
        standing.say("failed", error, final=True)
        raise


def _forgiven(error: TransferError | session.psycopg.Error) -> str | None:
    """State while waiting for better times, None for a problem that does not pass by itself. Pure."""
    kind = error.details.get("kind") if isinstance(error, TransferError) else None
    if kind == "disk_full":
        return "disk_full"
    return "reconnecting" if session.is_lost(error) or kind in _PATIENT else None


def _sleep(seconds: float, stop: Callable[[], bool], standing: Standing) -> None:
    deadline = time.monotonic() + seconds
    while not stop() and (left := deadline - time.monotonic()) > 0:
        standing.beat()
        time.sleep(min(left, 0.2))


def _await_room(config: Config, stop: Callable[[], bool], standing: Standing, seconds: float) -> None:
    """Cut off the half transaction, whose room is wanted, and wait until there is some."""
    meta = files.load(config.spool / "meta.json")
    if meta:
        meta.pop("version", None)
        try:
            Writer(config.spool, meta).close()
        except TransferError as error:
            if error.details.get("kind") not in ("disk_full", "disk"):
                raise
    while True:
        _sleep(seconds, stop, standing)
        disk = os.statvfs(config.spool)
        if stop() or disk.f_bavail >= min(_ROOM_BYTES / disk.f_frsize, _ROOM_PART * disk.f_blocks):
            return


class _Session:
    """One connection to the sender, from the checks to its loss."""

    def __init__(self, config: Config, stop: Callable[[], bool], timing: Timing, standing: Standing) -> None:
        self.config, self.stop, self.timing, self.standing = config, stop, timing, standing
        self.where = config.sending.describe()
        # For libpq, which two threads use: this one, and the one that sends feedback while this one waits for a disk.
        self.lock = threading.Lock()
        self.fed = self.heard = time.monotonic()
        self.asked = self.ended = False
        self.counted = 0
        # Where an idle sender is, as soon as its standbys are there.
        self.idle = 0

    def run(self) -> None:
        """Until ``stop()``. Raises whatever ends the connection."""
        sending = self.config.sending
        try:
            with ExitStack() as stack:
                watch = stack.enter_context(
                    closing(session.connect(sending, application_name=f"{sender.APPLICATION} check", read_only=True))
                )
                found = self._slot(watch)
                if found is None:
                    return
                conn = stack.enter_context(
                    closing(session.connect(sending, application_name=predecessor.named(sender.APPLICATION), replication=True))
                )
                me = sender.identify(conn)
                sender.check_slot(watch, found, me.database)
                self.writer = Writer(self.config.spool, {"system": me.system, "database": me.database, "slot": self.config.slot})
                stack.callback(self.writer.close)
                self._check(conn, watch, me)
                if self._started(conn, watch):
                    watch.close()
                    self._stream(conn)
        except session.psycopg.Error as error:
            raise sender.explained(error, sending, self.config.slot) from error

    def _slot(self, watch: psycopg.Connection[Any]) -> slots.Health | None:
        """The slot, once it is there and finished; None when it is time to stop. A slot that was there before and is not any more is lost."""
        while not self.stop():
            found = slots.health(watch, self.config.slot)
            if not found.usable and (found.exists or (self.config.spool / "meta.json").exists()):
                slots.require(found)
            if found.confirmed_lsn is not None:
                return found
            self.standing.say("waiting_for_slot")
            time.sleep(0.3)
        return None

    def _check(self, conn: psycopg.Connection[Any], watch: psycopg.Connection[Any], me: sender.Identity) -> None:
        """Whether slot, spool and sender belong together; a new spool begins where the slot does."""
        # Only now: what a reader before us confirmed while we waited for it counts.
        found = slots.health(watch, self.config.slot)
        noted = (files.load(self.config.spool / _TIMELINE) or {}).get("timeline")
        sender.check_positions(found, me, self.writer.spooled)
        sender.check_timeline(conn, me, noted, self.writer.spooled)
        sender.check_snapshot(watch, self.config.slot, noted, me.timeline)
        if noted != me.timeline:
            self._note(me.timeline)
        if not self.writer.spooled:
            self.writer.advance(lsn_number(found.confirmed_lsn or "0/0"))
            self.writer.sync()
        self.standing.sender, self.standing.health = max(self.standing.sender, me.position), found

    def _note(self, timeline: int) -> None:
        try:
            files.replace(self.config.spool / _TIMELINE, f'{{"timeline": {timeline}}}\n', durable=True)
        except OSError as error:
            raise files.explained(error, "noting the sender's timeline", self.config.spool) from error

    def _started(self, conn: psycopg.Connection[Any], watch: psycopg.Connection[Any]) -> bool:
        """Begin the stream; one that an earlier process of this machine has left behind a dead link is ended. False when it is time to stop."""
        if self.timing.sender_timeout is not None:
            # A server that does not let us keeps its own.
            with suppress(session.psycopg.errors.InsufficientPrivilege):
                conn.execute(f"SET wal_sender_timeout = '{int(self.timing.sender_timeout * 1000)}ms'")
        row = conn.execute("SELECT setting::int FROM pg_settings WHERE name = 'wal_sender_timeout'").fetchone()
        limit = row[0] / 1000 if row and row[0] else float("inf")
        self.beat = min(self.timing.feedback, limit / 4)
        deadline = time.monotonic() + self.timing.busy
        while not self.stop():
            if sender.start(conn, self.config.slot, self.config.publication, self.writer.spooled):
                return True
            pid = slots.health(watch, self.config.slot).active_pid
            if pid is not None and predecessor.end(watch, pid):
                continue
            if time.monotonic() > deadline:
                raise TransferError(
                    f"replication slot {self.config.slot} on {self.where} is being read by pid {pid}, for {self.timing.busy:.0f} s at least",
                    f"Stop the other reader, or end it there with SELECT pg_terminate_backend({pid}).",
                    kind="slot_in_use",
                    slot=self.config.slot,
                    pid=pid,
                )
            self.standing.say("slot_busy")
            time.sleep(0.3)
        return False

    def _stream(self, conn: psycopg.Connection[Any]) -> None:
        sending = self.config.sending
        watch = sender.Watch(sending, self.config.slot, self.timing.watch)
        looking = session.connect(sending, application_name=standbys.APPLICATION, read_only=True)
        self.standbys = standbys.Standbys(looking)
        over = threading.Event()
        pulse = threading.Thread(target=self._pulse, args=(conn, over), name="pulse", daemon=True)
        watch.start()
        pulse.start()
        try:
            self._feed(conn)
            self._receive(conn, watch)
            # Confirm what is whole before the connection is closed.
            self.writer.sync()
            self._note_positions()
            self._feed(conn)
        finally:
            over.set()
            watch.stop()
            pulse.join(5)
            looking.close()

    def _receive(self, conn: psycopg.Connection[Any], watch: sender.Watch) -> None:
        """Take in what comes until ``stop()``. Readers see it when nothing more has come or after some milliseconds, the sender hears when it is safe."""
        writer, timing = self.writer, self.timing
        ready = select.poll()
        ready.register(conn.pgconn.socket, select.POLLIN)
        # Under TLS a rest may have been read that no socket tells of.
        longest = 0.05 if conn.pgconn.ssl_in_use else 0.5
        flushed = synced = time.monotonic()
        while not self.stop():
            batch = self._gather(conn)
            self._take(batch)
            if self.idle and self.standbys.have(self.idle):
                writer.advance(self.idle)
                self.idle = 0
            now = time.monotonic()
            if not batch or now - flushed >= _FLUSH_SECONDS:
                writer.flush()
                flushed = now
            # A transaction is to be confirmed soon, a mere position may wait longer.
            wait = timing.sync if writer.commit > writer.synced else timing.position
            quiet = not batch and writer.commit > writer.synced and not ready.poll(timing.idle * 1000)
            if writer.spooled > writer.synced and (quiet or now - synced >= wait):
                writer.sync()
                synced = time.monotonic()
                self._feed(conn)
            if self.asked:
                if not writer.inside:
                    writer.sync()
                self.asked = False
                self._feed(conn)
            self._tell(watch)
            if not batch:
                due = min(wait, longest) if writer.spooled > writer.synced else longest
                if self.idle:
                    due = _IDLE_SECONDS
                if not ready.poll(due * 1000):
                    self._mind_silence(conn)

    def _gather(self, conn: psycopg.Connection[Any]) -> list[memoryview]:
        """Messages that have come, [] when there are none. Raises psycopg's error when the server has ended the stream."""
        pgconn = conn.pgconn
        get = pgconn.get_copy_data
        batch: list[memoryview] = []
        size = 0
        with self.lock:
            for last in (False, True):
                while not self.ended and size < _BATCH_BYTES and len(batch) < _BATCH_MESSAGES:
                    count, data = get(1)
                    if count <= 0:
                        # libpq says this once; what came before it is taken in first.
                        self.ended = count < 0
                        break
                    batch.append(data)
                    size += count
                if batch or last:
                    break
                if self.ended:
                    raise _ended(conn)
                pgconn.consume_input()
        self.standing.bytes += size
        return batch

    def _take(self, batch: list[memoryview]) -> None:
        append = self.writer.append
        for data in batch:
            if data[0] == _DATA:
                position = _POSITION(data, 1)[0]
                if data[_HEAD] == COMMIT and not self._kept(position):
                    return
                append(position, data[_HEAD:])
            elif data[0] == _KEEPALIVE:
                position, _clock, reply = _ALIVE(data, 1)
                self.idle = position
                self.standing.sender = max(self.standing.sender, position)
                self.asked = self.asked or bool(reply)
        if batch:
            self.heard = time.monotonic()
            self.standing.heard = time.time()
            if batch[-1][0] == _DATA:
                self.standing.received = max(self.standing.received, _POSITION(batch[-1], 1)[0])

    def _kept(self, position: int) -> bool:
        """Wait until a failover cannot take a commit back; False when it is time to stop before. It stays half, so nobody sees it, and comes again."""
        if self.standbys.have(position):
            return True
        self.writer.flush()
        while not self.standbys.have(position):
            if self.stop():
                return False
            self.standing.beat()
            time.sleep(_STANDBY_SECONDS)
        return True

    def _feed(self, conn: psycopg.Connection[Any], ask: bool = False) -> None:
        """Tell the sender how far we are."""
        with self.lock:
            conn.pgconn.put_copy_data(sender.feedback(self.writer.spooled, self.writer.synced, time.time(), ask))
            conn.pgconn.flush()
            self.fed = time.monotonic()

    def _pulse(self, conn: psycopg.Connection[Any], over: threading.Event) -> None:
        """In a thread: keep the sender patient also while the other one waits for the disk."""
        while not over.wait(max(0.05, min(self.fed + self.beat - time.monotonic(), 1.0))):
            if time.monotonic() - self.fed < self.beat:
                continue
            try:
                self._feed(conn)
            except session.psycopg.Error:
                # The other thread sees it too, and says so.
                return

    def _mind_silence(self, conn: psycopg.Connection[Any]) -> None:
        """A sender has something to say twice in its timeout, or when it is asked."""
        quiet = time.monotonic() - self.heard
        if quiet > self.timing.silence:
            raise TransferError(f"{self.where} has said nothing for {quiet:.0f} s", "Look at the network and at the server.", kind="lost")
        if quiet > self.timing.silence / 2 and time.monotonic() - self.fed > 1.0:
            self._feed(conn, ask=True)

    def _tell(self, watch: sender.Watch) -> None:
        if watch.problem is not None:
            raise watch.problem
        self._note_positions()
        standing = self.standing
        standing.sender = max(standing.sender, watch.position)
        health = standing.health = watch.health or standing.health
        standing.say("in_danger" if health is not None and sender.in_danger(health) else "streaming")

    def _note_positions(self) -> None:
        standing, writer = self.standing, self.writer
        standing.spooled, standing.synced, standing.commit = writer.spooled, writer.synced, writer.commit
        standing.received = max(standing.received, writer.spooled)
        standing.sender = max(standing.sender, standing.received)
        standing.transactions += writer.transactions - self.counted
        self.counted = writer.transactions


def _ended(conn: psycopg.Connection[Any]) -> session.psycopg.Error:
    """Why the server has ended the stream."""
    result = conn.pgconn.get_result()
    if result is not None and result.status == session.pq.ExecStatus.FATAL_ERROR:
        return session.psycopg.errors.error_from_result(result)
    return session.psycopg.OperationalError("server closed the connection: it ended the stream")
