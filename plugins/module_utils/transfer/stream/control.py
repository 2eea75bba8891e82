# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A stream brought into a wanted state on the mover: started, stopped, absent. Each step is done or left as it was; a second run changes nothing."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import cutover_state, session, slots
from ..endpoint import Endpoint
from ..errors import TransferError
from . import config_file, mending, prerequisites, publication, sight, state, unit, waiting
from .config import FORWARD, REVERSE, Config
from .pgoutput import lsn_text

NONE, SPOOLING, CAUGHT_UP = "none", "spooling", "caught_up"
_LOOK_SECONDS = 0.5
_SAMPLE_SECONDS = 1.0


@dataclass(frozen=True)
class Wish:
    """config: of the stream; path: where its file goes; unit: of systemd; home: folder of the spools, whose owner is the service's user

    full_identity: tables without a key may get REPLICA IDENTITY FULL; wait: NONE, SPOOLING or CAUGHT_UP, for at most timeout seconds
    max_lag_bytes: with so little missing it has caught up; force: remove a stream that is still needed, or what can be reached of it
    mend: patterns of the migration source's names for tables, whose rows are made equal at last
    tell: gets a line of :func:`.waiting.as_text` about twice a second while it waits
    """

    config: Config
    path: Path
    unit: str
    home: Path
    full_identity: bool = True
    wait: str = NONE
    timeout: float = 300.0
    max_lag_bytes: int = 1024 * 1024
    force: bool = False
    mend: tuple[str, ...] = ()
    tell: Callable[[str], None] | None = None


@dataclass
class Outcome:
    """What was done, or would be. facts: for the result; before, after: lines for a diff."""

    changed: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)

    def note(self, before: str, after: str) -> None:
        """A line of the diff; a change when they differ."""
        self.before.append(before)
        self.after.append(after)
        self.changed = self.changed or before != after


def started(wish: Wish, run: unit.Run, check: bool = False) -> Outcome:
    """Publish, configure, start; then wait as wished. Makes no slot: the copy makes it with its snapshot, and the receiver waits for it.

    run: runs a command on this machine, see :data:`.unit.Run`. Raises TransferError of the kinds of :mod:`.prerequisites` and :mod:`.publication`,
    not_installed, unit, replica (of the receiving database), or, while waiting, timeout and whatever stops the stream; of :mod:`.mending` at last.
    """
    config, done = wish.config, Outcome()
    found = _unit(wish, run, check)
    owner = _owner(wish, found, check, done)
    with closing(session.connect(config.sending, application_name=sight.APPLICATION, read_only=True)) as conn:
        done.warnings += prerequisites.sending(conn, config.sending, config.slot)
    # Refuses a role that could not apply: the session must be one of a replica.
    session.connect(config.receiving, application_name=sight.APPLICATION, replica=True).close()
    with closing(session.connect(config.sending, application_name=sight.APPLICATION, read_only=check)) as conn:
        made = publication.create(conn, config.sent, config.publication, wish.full_identity, check)
    _told(done, made, config.publication)
    renewed, before, after = config_file.write(wish.path, config, owner, check)
    done.before += before
    done.after += after
    done.changed = done.changed or renewed
    done.note(found.plain(), unit.Unit(found.name, active=True, enabled=True).plain())
    if found.active and not renewed and _look(wish, run).stuck():
        # Whoever asks for it to be started has mended what stopped it, and does not want to wait for the next attempt.
        done.note("stands still", "tries again")
        renewed = True
    if not check:
        began = time.time()
        again = unit.bring_up(run, found, restart=renewed)
        _wait(wish, run, began if again else 0.0)
        if wish.mend:
            done.facts["mended"] = mending.mend_named(config, wish.mend)
            done.changed = done.changed or bool(done.facts["mended"])
    elif wish.mend:
        done.warnings.append("Check mode does not look whether rows of the tables of mend differ: that takes a slot for a moment.")
    _report(wish, run, done, check)
    return done


def stopped(wish: Wish, run: unit.Run, check: bool = False) -> Outcome:
    """Stop the service. It starts again at boot, and what the sender must keep for it meanwhile is told."""
    done = Outcome()
    found = _unit(wish, run, check)
    done.note(found.plain(), unit.Unit(found.name, active=False, enabled=found.enabled).plain())
    if not check:
        unit.bring_down(run, found, disable=False)
    _report(wish, run, done, check)
    slot = done.facts.get("slot")
    if slot and slot["exists"]:
        limit = "it keeps all of it until the stream is started again or absent"
        if slot["safe_wal_bytes"] is not None:
            limit = f"after {_size(slot['safe_wal_bytes'])} more it gives the slot up, and the copy has to begin again"
        done.warnings.append(
            f"The sending server holds {_size(slot['retained_bytes'])} of its log for slot {slot['name']} while the stream is stopped; {limit}."
        )
    return done


def absent(wish: Wish, run: unit.Run, check: bool = False) -> Outcome:
    """Remove the stream from this machine and from both databases: service, slot, publication with every replica identity put back, configuration,
    spool, the stream's row. Raises TransferError of kind needed for a way back that may still be wanted, or of what could not be reached.
    """
    config, done = wish.config, Outcome()
    # Both first: what is removed from one side only is no stream any more, and no clean end either.
    lost = {side: error for side, endpoint in _sides(config) if (error := _reach(endpoint)) is not None}
    if lost and not wish.force:
        side, error = next(iter(lost.items()))
        raise TransferError(
            f"the {side} database cannot be reached: {error.message}",
            f"{error.remedy} With force: true the rest is removed; then drop slot {config.slot} and publication {config.publication} by hand.",
            **error.details,
        )
    _refuse_needed(wish, lost)
    found = _unit(wish, run, check)
    done.note(found.plain(), unit.Unit(found.name).plain())
    if not check:
        unit.bring_down(run, found, disable=True)
    if "sending" not in lost:
        with closing(session.connect(config.sending, application_name=sight.APPLICATION, read_only=check)) as conn:
            _remove_from_sender(conn, config, check, done)
    if "receiving" not in lost:
        with closing(session.connect(config.receiving, application_name=sight.APPLICATION, read_only=check)) as conn:
            row = state.read(conn, config.direction)
            if row is not None and row.slot == config.slot:
                done.note(f"row in cutover.stream: applied to {lsn_text(row.applied)}", "row in cutover.stream: none")
                if not check:
                    _patiently(lambda: state.drop(conn, config.direction))
    for what, path in (("configuration", wish.path), ("spool", config.spool)):
        if os.path.lexists(path):
            done.note(f"{what}: {path}", f"{what}: none")
            if not check:
                _erase(path)
    for side, error in lost.items():
        done.warnings.append(f"The {side} database could not be reached ({error.message}); what the stream left there is still there.")
    done.facts = {"state": "absent"} if not check else sight.plain(_look(wish, run))
    return done


def status(wish: Wish, run: unit.Run) -> Outcome:
    """How the stream stands. Changes nothing, and works as far as anything can be reached."""
    done = Outcome()
    _report(wish, run, done, check=True)
    return done


def _report(wish: Wish, run: unit.Run, done: Outcome, check: bool) -> None:
    """Two looks, so that there are rates, and what is streamed. What this run would do is not in it in check mode."""
    with sight.Sight(wish.config, wish.unit, wish.path.exists(), run) as looking:
        seen = looking.look()
        facts = sight.plain(seen)
        if seen.working and facts["lag_bytes"] and not seen.unseen:
            time.sleep(_SAMPLE_SECONDS)
            seen = looking.look()
            facts = sight.plain(seen, looking.samples)
    done.facts |= facts
    if "streamed" not in done.facts:
        _members(wish, done, seen.published)


def _members(wish: Wish, done: Outcome, published: bool | None) -> None:
    config = wish.config
    done.facts |= {"streamed": [], "not_streamed": [], "drift": {}}
    if published is None:
        return
    try:
        with closing(session.connect(config.sending, application_name=sight.APPLICATION, read_only=True)) as conn:
            planned = publication.plan(conn, config.sent, config.publication, full_identity=wish.full_identity)
            moved = publication.drift(conn, config.sent, config.publication) if published else publication.Drift()
    except (TransferError, session.psycopg.Error) as error:
        done.warnings.append(f"What is published could not be looked at: {error}")
        return
    done.facts["streamed"] = planned.names() if published else []
    done.facts["not_streamed"] = [one.plain() for one in planned.not_streamed]
    done.facts["drift"] = {name: list(found) for name, found in vars(moved).items() if isinstance(found, tuple) and found}
    if moved.any:
        done.warnings += moved.sentences()


def _told(done: Outcome, made: publication.Made, name: str) -> None:
    outlook = made.outlook
    for line in made.identities:
        table, _unused, change = line.partition(": ")
        before, _unused, after = change.partition(" -> ")
        done.note(f"{table}: replica identity {before}", f"{table}: replica identity {after}")
    members = f"publication {name}: {', '.join(outlook.names())}"
    there = members if outlook.state in ("equal", "usable") else f"publication {name}: {'none' if outlook.state == 'absent' else 'differs'}"
    done.note(there, members)
    done.changed = done.changed or made.changed
    done.warnings += outlook.warnings
    if made.added:
        done.warnings.append(
            f"{', '.join(made.added)} came into a publication that was there before: rows written until now are not in the stream. Copy them with"
            " pg_row_copy under the same slot."
        )
    done.facts |= {
        "streamed": outlook.names(),
        "not_streamed": [one.plain() for one in outlook.not_streamed],
        "identities": list(made.identities),
        "drift": {},
    }


def _unit(wish: Wish, run: unit.Run, check: bool) -> unit.Unit:
    """The service; in a check of a machine where systemd is still to come, one that is not loaded."""
    try:
        return unit.look(run, wish.unit)
    except TransferError:
        if not check:
            raise
        return unit.Unit(wish.unit)


def _owner(wish: Wish, found: unit.Unit, check: bool, done: Outcome) -> tuple[int, int] | None:
    """User and group of the service; None in a check of a machine that the role has not been on."""
    try:
        unit.need(found)
        there = wish.home.stat()
        if not wish.path.parent.is_dir():
            raise FileNotFoundError(2, "No such file or directory", str(wish.path.parent))
    except (TransferError, OSError) as error:
        told = error.message if isinstance(error, TransferError) else f"{error.filename}: {error.strerror}"
        if check:
            done.warnings.append(f"{told}. {unit.NOT_INSTALLED}")
            return None
        raise TransferError(told, unit.NOT_INSTALLED, kind="not_installed") from error
    for endpoint in (wish.config.source, wish.config.target):
        prerequisites.readable(endpoint, there.st_uid, frozenset({there.st_gid}))
    return there.st_uid, there.st_gid


def _wait(wish: Wish, run: unit.Run, began: float) -> None:
    """began: what the processes said before is about an earlier life of theirs."""
    if wish.wait == NONE:
        return
    deadline = time.monotonic() + wish.timeout
    with sight.Sight(wish.config, wish.unit, True, run) as looking:
        while True:
            seen = looking.look()
            facts = sight.plain(seen, looking.samples)
            if wish.tell is not None:
                wish.tell(waiting.as_text(waiting.of(facts)))
            lag = facts["lag_bytes"]
            caught = seen.following(began) and lag is not None and lag <= wish.max_lag_bytes
            if caught or (wish.wait == SPOOLING and seen.arriving(began)):
                return
            if seen.stuck(began) and seen.problem is not None:
                told = dict(seen.problem)
                message, remedy = str(told.pop("message", "it gives no reason")), str(told.pop("remedy", ""))
                raise TransferError(f"the {wish.config.direction} stream stands still: {message}", remedy, **told)
            if time.monotonic() > deadline:
                raise _too_late(wish, seen)
            time.sleep(_LOOK_SECONDS)


def _too_late(wish: Wish, seen: sight.Seen) -> TransferError:
    facts = sight.plain(seen)
    told = f"receiver {facts['receiver']}, applier {facts['applier']}" + (f" ({facts['detail']})" if facts["detail"] else "")
    remedy = f"See journalctl --unit {wish.unit} and state=status, then wait again with a longer timeout."
    if facts["receiver"] == "waiting_for_slot":
        maker = "pg_row_copy with this slot makes it" if wish.config.direction == FORWARD else "the cutover makes it"
        remedy = f"Slot {wish.config.slot} does not exist yet: {maker}. Wait for the stream after that."
    elif facts["applier"] == "waiting_for_copy":
        remedy = "Let pg_row_copy finish, then wait again."
    elif facts["lag_bytes"] is not None:
        told += f", {_size(facts['lag_bytes'])} behind"
    return TransferError(
        f"the {wish.config.direction} stream is not {wish.wait} after {wish.timeout:.0f} s: {told}",
        remedy,
        kind="timeout",
        seen=facts,
    )


def _look(wish: Wish, run: unit.Run) -> sight.Seen:
    with sight.Sight(wish.config, wish.unit, wish.path.exists(), run) as looking:
        return looking.look()


def _sides(config: Config) -> tuple[tuple[str, Endpoint], tuple[str, Endpoint]]:
    return ("sending", config.sending), ("receiving", config.receiving)


def _reach(endpoint: Endpoint) -> TransferError | None:
    try:
        session.connect(endpoint, application_name=sight.APPLICATION, read_only=True).close()
    except TransferError as error:
        return error
    return None


def _refuse_needed(wish: Wish, lost: Mapping[str, TransferError]) -> None:
    """The way back is needed as long as the target is in service; only the target knows."""
    if wish.config.direction != REVERSE or wish.force or "sending" in lost:
        return
    with closing(session.connect(wish.config.target, application_name=sight.APPLICATION, read_only=True)) as conn:
        decision = cutover_state.current(conn).state
    if decision in (cutover_state.CUT_OVER, cutover_state.ROLLING_BACK):
        raise TransferError(
            "the target is in service, and without the reverse stream there is no way back that loses nothing",
            "Run pg_cutover with state=finalized when no way back is wanted any more, or set force: true.",
            kind="needed",
            state=decision,
        )


def _remove_from_sender(conn: Any, config: Config, check: bool, done: Outcome) -> None:
    health = slots.health(conn, config.slot)
    if health.exists:
        done.note(f"slot {config.slot}: holds {_size(health.retained_bytes)}", f"slot {config.slot}: none")
        if not check:
            slots.drop(conn, config.slot)
    gone = publication.remove(conn, config.publication, check)
    if gone.dropped:
        done.note(f"publication {config.publication}: there", f"publication {config.publication}: none")
    for table in gone.restored:
        done.note(f"{table}: replica identity of the stream", f"{table}: replica identity as before")
    done.changed = done.changed or gone.changed
    if gone.kept:
        done.warnings.append(f"Somebody has changed the replica identity of {', '.join(gone.kept)} since; it stays as it is.")


def _patiently(action: Callable[[], object], seconds: float = 10.0) -> None:
    """An applier that has just ended takes a moment to let go of its lock."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            action()
            return
        except TransferError as error:
            if error.details.get("kind") != "in_use" or time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def _erase(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _size(count: int) -> str:
    return f"{count / 1024**3:.1f} GiB" if count >= 1024**3 else f"{count / 1024**2:.1f} MiB"
