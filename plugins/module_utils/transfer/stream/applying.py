# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One connection's work: batches of whole transactions, each with the position that it reaches in its own transaction."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import session
from ..errors import TransferError, certain
from . import conflicts
from .batch import Batch, DisorderError
from .config import Config
from .feed import END, FULL, LIMIT, Feed, HaltError, Limits, Load
from .figures import Figures, told
from .link import Link, Outcome
from .progress import Asked, Progress
from .spool import Reader, remove_applied
from .statements import Bound, Statements
from .tracking import Tracker

if TYPE_CHECKING:
    import psycopg

# Others have settled it when it is tried again: deadlock, lock timeout, cancelled, no room or memory, a standby that is being promoted.
_PASSING = ("40001", "40P01", "55P03", "57014", "25006")
_NO_ROOM = ("53100", "53200")
_PATIENT = ("unknown_host", "spool_cut")
_STAND_SECONDS = 0.02


@dataclass(frozen=True)
class Timing:
    """Seconds. rest: at most without looking around while nothing comes; look: between two looks at what others ask for; beat: of the row's heartbeat
    while idle; keep: between two looks for segments to remove; unattended: a pause lasts without the session that asked for it
    lock: another applier is waited for; patience: for the server when it is time to stop; first_pause, longest_pause: before another attempt
    """

    rest: float = 0.05
    look: float = 1.0
    beat: float = 5.0
    keep: float = 10.0
    unattended: float = 10.0
    lock: float = 10.0
    patience: float = 10.0
    first_pause: float = 0.2
    longest_pause: float = 10.0


def forgiven(error: TransferError | session.psycopg.Error) -> str | None:
    """State while waiting for better times, None for a problem that does not pass by itself. Pure."""
    if isinstance(error, TransferError):
        return "reconnecting" if session.is_lost(error) or error.details.get("kind") in _PATIENT else None
    state = error.sqlstate or ""
    if state in _NO_ROOM:
        return "waiting_for_room"
    return "reconnecting" if session.is_lost(error) or state in _PASSING or state.startswith("53") else None


class StoppedError(Exception):
    """It is time to stop, and the server does not answer."""


@dataclass
class _FailedError(Exception):
    """A load did not go in. bound: of the statement, None for the commit; outcome: what became of it, None for changes that cannot be joined."""

    load: Load
    bound: Bound | None
    outcome: Outcome | None
    why: str = ""


class _WithdrawnError(Exception):
    """Somebody has asked for something that a load did not know of."""


@dataclass
class _Flight:
    """Sent, not answered. first: place of the first statement's outcome; known: the row before it, when the load ends with it."""

    load: Load
    bounds: list[Bound]
    first: int
    known: Asked | None


class Session:
    """Applies over one connection. While the server works on one batch, the next one is made."""

    def __init__(
        self,
        conn: psycopg.Connection[Any],
        config: Config,
        stop: Callable[[], bool],
        timing: Timing,
        limits: Limits,
        figures: Figures,
        tracker: Tracker,
        reader: Reader,
    ) -> None:
        self.config, self.stop, self.timing, self.limits, self.figures, self.reader = config, stop, timing, limits, figures, reader
        self.link = Link(conn, self._idle)
        self.progress = Progress(self.link, config.direction)
        self.asked = self.progress.read()
        self.applied = figures.applied = self.asked.applied
        self.feed = Feed(tracker.track)
        self.statements = Statements()
        self.messages: Iterator[tuple[int, bytes]] | None = None
        self.load: Load | None = None
        # A transaction is open at the server; the load sent last; the load whose COMMIT was sent, and what its row says then.
        self.open = False
        self.flight: _Flight | None = None
        self.committing: tuple[Load, Asked] | None = None
        # Change by change up to this commit; nothing from that one on.
        self.exact_until: int | None = None
        self.halt: HaltError | None = None
        self.looked = self.attended = self.kept = time.monotonic()
        self.beaten = self.looked - timing.beat
        self.waiting_since: float | None = None

    def run(self) -> None:
        """Until ``stop()``. What a person must mend is noted in the row before it is raised."""
        try:
            self.reader.seek(self.applied)
            while not self.stop():
                self._keep()
                self._guarded(self._turn)
            self._guarded(self._settle)
        except TransferError as error:
            if forgiven(error) is None and error.details.get("kind") != "no_stream":
                self._start_over(seek=False)
                self.progress.problem(told(error))
            raise

    def _guarded(self, action: Callable[[], None]) -> None:
        """Do something; what it could not do for a reason that passes is begun again."""
        try:
            action()
        except _WithdrawnError:
            self._start_over()
        except _FailedError as failed:
            self._redo(failed)
        except HaltError as halt:
            # Everything before the transaction that cannot be applied is applied first.
            self.halt = halt
            if not self.open:
                self._guarded(self._settle)
            self._start_over()

    def _turn(self) -> None:
        if self.asked.stands:
            self._stand()
        elif not self._step():
            self._rest()

    def _step(self) -> bool:
        """Take in what is there and send it; False when there was nothing to do."""
        # Before the messages are: what is spooled below it is among them.
        spooled = self.reader.spooled()
        if self.load is None:
            self.load = Load(self._batch())
        load = self.load
        if self.messages is None:
            self.messages = self.reader.transactions()
        why = self._take(load)
        if why == FULL:
            self._send(load, final=False)
            load.batch = self._batch(load)
            return True
        if why in (END, LIMIT):
            self.messages = None
        if load.transactions:
            self.load = None
            self._send(load, final=True)
            if load.fence is not None:
                self._settle()
            return True
        if not self.flight and not self.committing:
            return self._at_limit(spooled, why)
        self._settle()
        return True

    def _batch(self, load: Load | None = None) -> Batch:
        """An empty one. A transaction notes its keys in all of its batches or in none."""
        record = load.batch.record if load is not None else self.asked.dirty_from is not None
        return Batch(self.exact_until is not None, record)

    def _take(self, load: Load) -> str:
        messages = certain(self.messages, "what the spool has")
        exact = self.exact_until
        limits = [None if exact is None else exact + 1, self.asked.stop_at, None if self.halt is None else self.halt.final]
        given = [limit for limit in limits if limit is not None]
        try:
            return self.feed.take(
                messages, load, self.applied, min(given) if given else None, self.limits, self._push, single=exact is not None
            )
        except DisorderError as error:
            raise _FailedError(load, None, None, str(error)) from error

    def _at_limit(self, spooled: int, why: str) -> bool:
        """Nothing is under way, and nothing may go in or nothing is there: say why, if there is a reason."""
        if self.exact_until is not None and (why == LIMIT or self.applied > self.exact_until):
            self.exact_until = None
            return True
        if self.halt is not None and why == LIMIT:
            raise self.halt.error
        stop_at = self.asked.stop_at
        if stop_at is not None and (why == LIMIT or spooled >= stop_at):
            self.progress.paused(stop_at)
            self.asked = self.progress.read()
            self.attended = time.monotonic()
            return True
        self._beat(spooled)
        return False

    def _send(self, load: Load, *, final: bool) -> None:
        """Queue what was taken in, and the move of the position when it ends the load. What was sent before is looked at first."""
        self._check()
        first = 0
        if not self.open:
            self.link.plain(b"BEGIN")
            self.open, first = True, 1
        bounds = []
        for work in load.batch.works():
            bound = self.statements.bind(work)
            if self.exact_until is None:
                # Only its count matters from here on: what fails is taken in again.
                work.new, work.old = [], None
            self.link.run(bound)
            bound.params.clear()
            bounds.append(bound)
        load.changes += load.batch.changes
        if load.batch.record and self.asked.dirty_from is not None and load.final >= self.asked.dirty_from:
            self.progress.note_dirty(load.batch.touched)
        known = self.committing[1] if self.committing else self.asked
        if final:
            self.progress.queue(load, known)
        self.link.sync()
        self.flight = _Flight(load, bounds, first, known if final else None)
        self.figures.batches += 1
        self.figures.exact += self.exact_until is not None
        self.figures.say("applying")

    def _check(self) -> None:
        """Look at the answers to what was sent, and send the COMMIT of a load that is right in every count."""
        if self.committing is not None:
            load, asked = self.committing
            (outcome,) = self._collect()
            self.committing = None
            if outcome.error is not None:
                self._raise(load, None, outcome)
            self._committed(load, asked)
        if self.flight is None:
            return
        flight, self.flight = self.flight, None
        outcomes = self._collect()
        for place, outcome in enumerate(outcomes):
            number = place - flight.first
            bound = flight.bounds[number] if 0 <= number < len(flight.bounds) else None
            if outcome.error is not None:
                self._raise(flight.load, bound, outcome)
            if bound is not None and bound.rows is not None and outcome.count != bound.rows:
                raise _FailedError(flight.load, bound, outcome)
        if flight.known is not None:
            now = self.progress.result(outcomes[-1], flight.load, flight.known)
            if now is None or now.withdraws(flight.load):
                raise _WithdrawnError
            self.link.plain(b"COMMIT")
            self.link.sync()
            self.committing, self.open = (flight.load, now), False

    def _raise(self, load: Load, bound: Bound | None, outcome: Outcome) -> None:
        error = certain(outcome.error, "the error of a statement")
        if forgiven(error) is not None:
            raise error
        raise _FailedError(load, bound, outcome)

    def _collect(self) -> list[Outcome]:
        self.waiting_since = time.monotonic()
        try:
            return self.link.collect()
        finally:
            self.waiting_since = None

    def _settle(self) -> None:
        """Wait for everything that was sent; commits what is whole."""
        self._check()
        if self.committing is not None:
            self._check()

    def _committed(self, load: Load, asked: Asked) -> None:
        self.applied, self.asked = load.applied, asked
        figures = self.figures
        figures.applied = load.applied
        figures.transactions += load.transactions
        figures.changes += load.changes
        figures.ignored = self.feed.ignored
        figures.source_time = load.commit_time / 1e6 + 946_684_800
        self.looked = self.beaten = time.monotonic()

    def _start_over(self, *, seek: bool = True) -> None:
        """Drop everything that is not committed, and go back to where the stream stands."""
        while self.link.waiting:
            self.link.collect()
        self.flight = self.committing = self.load = self.messages = None
        self.link.plain(b"ROLLBACK")
        self.link.sync()
        self.link.collect()
        self.open = False
        self.asked = self.progress.read()
        self.applied = self.figures.applied = self.asked.applied
        if self.halt is not None and self.applied > self.halt.final:
            self.halt = None
        if seek:
            self.reader.seek(self.applied)

    def _redo(self, failed: _FailedError) -> None:
        """Once more change by change; what fails then is told."""
        if self.exact_until is None:
            # A load that was made meanwhile is after this one: it waits until these have gone in.
            self.exact_until = failed.load.final
            self._start_over()
            return
        load, bound, outcome = failed.load, failed.bound, failed.outcome
        self._start_over(seek=False)
        if outcome is None:
            raise conflicts.disordered(failed.why, None, load.place)
        if outcome.error is None and bound is not None:
            raise conflicts.missed(bound.work, load.place, outcome.count)
        error = certain(outcome.error, "the error of a statement")
        if bound is None:
            raise conflicts.uncommitted(load.place, error) from error
        raise conflicts.refused(bound.work, load.place, error) from error

    def _stand(self) -> None:
        """Nothing may be applied: wait until that is over."""
        self._settle()
        self.figures.say(self.asked.stands)
        time.sleep(_STAND_SECONDS)
        now = time.monotonic()
        if self._heard() and self.asked.stands == "paused":
            if self.progress.attended():
                self.attended = now
            elif now - self.attended > self.timing.unattended:
                self.asked = self.progress.unpause()
        elif self.asked.stands and now - self.beaten >= self.timing.beat:
            self.beaten = now
            self.asked = self.progress.beat()

    def _rest(self) -> None:
        """Wait for something to do."""
        self.figures.say("idle")
        self.reader.wait(self.timing.rest)
        self._heard()

    def _heard(self) -> bool:
        """Look at the row when somebody has said that there is something new in it, or now and then; whether that was done."""
        now = time.monotonic()
        if not self.link.notified() and now - self.looked < self.timing.look:
            return False
        self.looked = now
        self._learn(self.progress.read())
        return True

    def _learn(self, asked: Asked) -> None:
        """Take in what the row says while nothing is under way."""
        stood, self.asked = self.asked.stands, asked
        if asked.applied != self.applied or stood != asked.stands:
            # Somebody has moved the stream, or lets it go on: whatever was taken in and let go comes again.
            self._start_over()

    def _beat(self, spooled: int) -> None:
        """Show life while nothing comes. What others have written on the sender moves the position, too."""
        now = time.monotonic()
        if now - self.beaten >= self.timing.beat:
            self.beaten = now
            if self.asked.stop_at is not None or self.halt is not None:
                self._learn(self.progress.beat())
                return
            self.asked = self.progress.arrive(spooled)
            self.applied = self.figures.applied = self.asked.applied

    def _keep(self) -> None:
        now = time.monotonic()
        self.figures.beat()
        if now - self.kept >= self.timing.keep:
            self.kept = now
            remove_applied(self.config.spool, self.applied, self.config.keep_seconds)

    def _push(self) -> None:
        if self.link.waiting:
            self.link.push()
        self.figures.beat()

    def _idle(self) -> None:
        self.figures.beat()
        if self.waiting_since is not None and self.stop() and time.monotonic() - self.waiting_since > self.timing.patience:
            raise StoppedError
