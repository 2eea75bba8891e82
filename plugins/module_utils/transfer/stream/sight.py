# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A stream seen from outside: its unit, its spool's files, both databases. Writes nothing; what cannot be seen is said, not guessed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .. import cutover_state, session, slots
from ..endpoint import Endpoint
from ..errors import TransferError, certain
from . import figures, files, metrics, publication, state, unit
from .config import FORWARD, REVERSE, Config

if TYPE_CHECKING:
    import psycopg

    Conn = psycopg.Connection[Any]

APPLICATION = "cutover control"
# Looks over which rates are taken.
_SAMPLES = 40
_WORKING = ("applying", "idle")
_SPOOLING = ("streaming", "in_danger")


@dataclass(frozen=True)
class Seen:
    """One look. view: the processes' files and the stream's row, with the sender's position as it was read just now, if it was reached

    slot: None when the sender was not reached; published: whether the publication is there, None when unknown; decision: of the cutover's state
    unseen: one sentence for each thing that could not be looked at
    """

    unit: unit.Unit
    view: metrics.View
    configured: bool = False
    slot: slots.Health | None = None
    published: bool | None = None
    decision: str | None = None
    unseen: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        """started, stopped or absent."""
        if self.unit.active:
            return "started"
        left = self.configured or self.published or self.view.stream is not None or (self.slot is not None and self.slot.exists)
        return "stopped" if left else "absent"

    def _says(self, told: Mapping[str, Any]) -> str:
        return str(told.get("state")) if self.unit.active and self.view.alive(told) else "stopped"

    @property
    def receiver(self) -> str:
        """What the process that spools says, stopped when it is not there to say anything."""
        return self._says(self.view.receiver)

    @property
    def applier(self) -> str:
        """The same of the process that applies."""
        return self._says(self.view.applier)

    @property
    def working(self) -> bool:
        """Whether it applies, or waits for nothing but changes."""
        return self.applier in _WORKING

    @property
    def spooling(self) -> bool:
        """Whether it takes in what the sender writes."""
        return self.receiver in _SPOOLING

    @property
    def problem(self) -> dict[str, Any] | None:
        """Why it stands still, or why it has to try again. What the receiving database remembers counts until something is applied again."""
        for told in (self.view.receiver, self.view.applier):
            if told.get("problem"):
                return dict(told["problem"])
        return self.view.stream.problem if self.view.stream is not None and not self.working else None

    def arriving(self, began: float = 0.0) -> bool:
        """Whether it takes in what the sender writes, as told after a time (seconds since 1970)."""
        return self.spooling and _told_after(self.view.receiver, began)

    def following(self, began: float = 0.0) -> bool:
        """Whether it also applies, as told after a time, and has got past what it once stood still for: only applying that takes the problem away."""
        stream = self.view.stream
        return (
            self.arriving(began)
            and self.working
            and _told_after(self.view.applier, began)
            and stream is not None
            and stream.problem is None
        )

    def stuck(self, began: float = 0.0) -> bool:
        """Whether a person has to mend something, as told after a time (seconds since 1970)."""
        return any(told.get("state") == "failed" and _told_after(told, began) for told in (self.view.receiver, self.view.applier))


def _told_after(told: Mapping[str, Any], began: float) -> bool:
    return float(told.get("updated") or 0.0) > began


class Sight:
    """Looks, again and again, over connections that are opened when first needed and anew when they were lost."""

    def __init__(self, config: Config, unit_name: str, configured: bool, run: unit.Run) -> None:
        self.config, self.unit_name, self.configured, self.run = config, unit_name, configured, run
        self.samples: list[metrics.Sample] = []
        self._open: dict[str, Conn] = {}

    def __enter__(self) -> Sight:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for conn in self._open.values():
            conn.close()

    def look(self) -> Seen:
        """Everything that can be seen now."""
        found: dict[str, Any] = {}
        unseen: list[str] = []
        for side, endpoint, read in (
            ("sending", self.config.sending, self._sender),
            ("receiving", self.config.receiving, self._receiver),
        ):
            try:
                found |= read(self._session(side, endpoint))
            except (TransferError, session.psycopg.Error) as error:
                lost = self._open.pop(side, None)
                if lost is not None:
                    lost.close()
                told = figures.told(error)
                unseen.append(f"the {side} database: {told['message']}")
        try:
            service = unit.look(self.run, self.unit_name)
        except TransferError as error:
            service = unit.Unit(self.unit_name)
            unseen.append(f"the service: {error.message}")
        receiver, sent = self._file("receiver.json"), found.pop("sent", None)
        if receiver and sent is not None:
            receiver["sender_lsn"] = sent
        config = self.config
        view = metrics.View(config.direction, config.slot, time.time(), receiver, self._file(figures.NAME), found.pop("stream", None))
        sample = view.sample(time.monotonic())
        if sample is not None:
            self.samples = [*self.samples[-_SAMPLES:], sample]
        return Seen(service, view, self.configured, unseen=tuple(unseen), **found)

    def _file(self, name: str) -> dict[str, Any]:
        told = files.load(self.config.spool / name) or {}
        return told if told.get("slot") == self.config.slot else {}

    def _session(self, side: str, endpoint: Endpoint) -> Conn:
        if side not in self._open:
            conn = self._open[side] = session.connect(endpoint, application_name=APPLICATION, read_only=True)
            conn.execute("SET statement_timeout = '30s'")
        return self._open[side]

    def _sender(self, conn: Conn) -> dict[str, Any]:
        row = certain(
            conn.execute(
                "SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END)::text"
            ).fetchone(),
            "the position of the log",
        )
        return {
            "sent": row[0],
            "slot": slots.health(conn, self.config.slot),
            "published": publication.existing(conn, self.config.publication) is not None,
            **self._decision(conn, REVERSE),
        }

    def _receiver(self, conn: Conn) -> dict[str, Any]:
        return {"stream": state.read(conn, self.config.direction), **self._decision(conn, FORWARD)}

    def _decision(self, conn: Conn, direction: str) -> dict[str, Any]:
        """Which side is in service is written in the target of the move, whichever part it has in this stream."""
        return {"decision": cutover_state.current(conn).state} if self.config.direction == direction else {}


def plain(seen: Seen, samples: Sequence[metrics.Sample] = ()) -> dict[str, Any]:
    """A look for a module's result. samples: of this look and earlier ones, for rates."""
    found = metrics.status(seen.view, samples)
    slot = seen.slot
    told = ("lag_bytes", "lag_seconds", "rate", "write_rate", "eta_seconds", "received_lsn", "spooled_lsn", "applied_lsn")
    return {
        "state": seen.state,
        "health": found["state"] if seen.unit.active else seen.state,
        **{name: found[name] for name in told},
        "transactions": found["transactions"] or 0,
        "changes": found["changes"] or 0,
        "problem": seen.problem,
        "receiver": seen.receiver,
        "applier": seen.applier,
        "detail": seen.view.applier.get("detail", "") if seen.applier != "stopped" else "",
        "slot": {
            "name": slot.name,
            "exists": slot.exists,
            "active": slot.active_pid is not None,
            "wal_status": slot.wal_status,
            "retained_bytes": slot.retained_bytes,
            "safe_wal_bytes": slot.safe_wal_bytes,
            "confirmed_lsn": slot.confirmed_lsn,
        }
        if slot is not None
        else None,
        "unit": {"name": seen.unit.name, "active": seen.unit.state, "enabled": seen.unit.enabled, "restarts": seen.unit.restarts},
        "unseen": list(seen.unseen),
    }
