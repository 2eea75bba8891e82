# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How a stream stands, from what its processes and its row say: as data, and as text for Prometheus. Pure.

Positions of the sender's log are compared with what concerns the receiver: where nothing is left to apply, everything that is spooled counts as applied,
for most of it may be writes of others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from .pgoutput import lsn_number, lsn_text
from .state import Stream

# The processes write their files once a second; older ones are history.
FRESH_SECONDS = 15.0
# So little log is written by an idle server's own housekeeping before its next message.
_QUIET_BYTES = 1024 * 1024
_RECEIVING = ("streaming", "in_danger")
_STANDING = ("fenced", "held", "paused", "waiting_for_copy", "waiting_for_begin", "waiting_for_room", "reconnecting")


@dataclass(frozen=True)
class Sample:
    """Positions at a time (seconds, any clock that only goes forward). reached: everything below it that concerns the receiver is applied."""

    at: float
    sender: int
    reached: int


@dataclass(frozen=True)
class View:
    """What there is to judge. receiver, applier: their files, {} without; stream: the row, None when it cannot be read or is not there; now: seconds
    since 1970; processes: {receiver, applier: starts since the service began}; segments, spool_bytes, free_bytes: of the spool's disk, None unknown
    """

    direction: str
    slot: str
    now: float
    receiver: Mapping[str, Any] = field(default_factory=dict)
    applier: Mapping[str, Any] = field(default_factory=dict)
    stream: Stream | None = None
    starts: Mapping[str, int] = field(default_factory=dict)
    segments: int | None = None
    spool_bytes: int | None = None
    free_bytes: int | None = None

    def alive(self, told: Mapping[str, Any]) -> bool:
        """Whether a process writes its file."""
        return self.now - float(told.get("updated") or 0.0) <= FRESH_SECONDS

    @property
    def applied(self) -> int | None:
        """End of the last applied transaction, None unknown."""
        return self.stream.applied if self.stream else _position(self.applier, "applied_lsn")

    @property
    def pending(self) -> bool:
        """Whether whole transactions are spooled and not applied."""
        commit = _position(self.receiver, "commit_lsn")
        return self.applied is not None and commit is not None and commit > self.applied

    @property
    def reached(self) -> int | None:
        """Everything below it that concerns the receiver is applied."""
        if self.applied is None:
            return None
        return self.applied if self.pending else max(self.applied, _position(self.receiver, "spooled_lsn") or 0)

    @property
    def source_time(self) -> float | None:
        """Commit of the last applied transaction, seconds since 1970 on the sender's clock."""
        if self.stream is not None and self.stream.source_time is not None:
            return self.stream.source_time.timestamp()
        told = self.applier.get("source_time")
        return float(told) if told else None

    def sample(self, at: float) -> Sample | None:
        """Positions for a rate, None while some are unknown."""
        sender = _position(self.receiver, "sender_lsn")
        return None if sender is None or self.reached is None else Sample(at, sender, self.reached)


def status(view: View, samples: Sequence[Sample] = ()) -> dict[str, Any]:
    """How a stream stands.

    samples: earlier ones in order, for rates; a second apart at least, the last of them of now
    state: the worst that holds: failed, receiver_down, applier_down, what the receiver or the applier waits for, in_danger or streaming
    lag_bytes: log of the sender that is not applied; lag_seconds: how old the receiver's contents are, 0 when nothing is missing
    rate, write_rate: log applied and written, bytes a second; eta_seconds: until nothing is missing, 0 when nothing is, None unknown or never
    catching_up: whether more is applied than is written, None unknown
    """
    sender, reached = _position(view.receiver, "sender_lsn"), view.reached
    lag = max(0, sender - reached) if sender is not None and reached is not None else None
    rate, write_rate = rates(samples)
    missing = view.pending or (lag is not None and lag > _QUIET_BYTES)
    eta, catching_up = _prospect(lag, missing, rate, write_rate)
    problem = view.receiver.get("problem") or view.applier.get("problem") or (view.stream.problem if view.stream else None)
    return {
        "state": _state(view),
        "direction": view.direction,
        "slot": view.slot,
        "lag_bytes": lag,
        "lag_seconds": _age(view, missing),
        "rate": rate,
        "write_rate": write_rate,
        "eta_seconds": eta,
        "catching_up": catching_up,
        "received_lsn": view.receiver.get("received_lsn"),
        "spooled_lsn": view.receiver.get("spooled_lsn"),
        "applied_lsn": lsn_text(view.applied) if view.applied is not None else None,
        "transactions": view.stream.transactions if view.stream else None,
        "changes": view.stream.changes if view.stream else None,
        "slot_health": view.receiver.get("slot_health"),
        "problem": dict(problem) if problem else None,
    }


def rates(samples: Sequence[Sample]) -> tuple[float | None, float | None]:
    """(bytes of log applied, written) per second between the first and the last sample, None while there are not two half a second apart."""
    if len(samples) < 2 or samples[-1].at - samples[0].at < 0.5:
        return None, None
    first, last = samples[0], samples[-1]
    seconds = last.at - first.at
    return round(max(0, last.reached - first.reached) / seconds, 1), round(max(0, last.sender - first.sender) / seconds, 1)


def _prospect(lag: int | None, missing: bool, rate: float | None, write_rate: float | None) -> tuple[float | None, bool | None]:
    """(seconds until nothing is missing, whether that comes nearer)."""
    if lag is not None and not missing:
        return 0.0, True
    if lag is None or rate is None or write_rate is None:
        return None, None
    gain = rate - write_rate
    return (round(lag / gain, 1), True) if gain > 0 else (None, False)


def _state(view: View) -> str:
    receiver, applier = str(view.receiver.get("state")), str(view.applier.get("state"))
    for told in (receiver, applier):
        if told == "failed":
            return told
    if not view.alive(view.receiver):
        return "receiver_down"
    if not view.alive(view.applier):
        return "applier_down"
    if receiver not in _RECEIVING:
        return receiver
    return applier if applier in _STANDING else receiver


def _age(view: View, missing: bool) -> float | None:
    """Without a receiver that hears the sender, nobody knows what is missing: the age is then that of the last thing heard, at least."""
    age = 0.0
    if missing:
        if view.source_time is None:
            return None
        age = view.now - view.source_time
    if not view.alive(view.receiver) or view.receiver.get("state") not in _RECEIVING:
        heard = view.receiver.get("last_message")
        if not heard:
            return None
        age = max(age, view.now - float(heard))
    return round(max(0.0, age), 3)


def _position(told: Mapping[str, Any], name: str) -> int | None:
    return lsn_number(str(told[name])) if told.get(name) else None


Labelled: TypeAlias = "tuple[Mapping[str, str], float | int | None]"


def prometheus(view: View, found: Mapping[str, Any]) -> str:
    """Figures in Prometheus' text format. found: of :func:`status`. What is unknown has no line."""
    receiver, applier, health = view.receiver, view.applier, view.receiver.get("slot_health") or {}
    problem = found.get("problem")
    families: list[tuple[str, str, str, list[Labelled]]] = [
        (
            "up",
            "gauge",
            "Whether the process writes its state.",
            [({"process": name}, int(view.alive(told))) for name, told in _processes(view)],
        ),
        ("state", "gauge", "1 for the state the stream is in.", [({"state": str(found["state"])}, 1)]),
        (
            "problem",
            "gauge",
            "1 for the problem it stands still for, or tries again.",
            [({"kind": str(problem.get("kind"))}, 1)] if problem else [],
        ),
        ("lag_bytes", "gauge", "Log of the sender that is not applied.", [({}, found["lag_bytes"])]),
        ("lag_seconds", "gauge", "Age of the receiver's contents, 0 when nothing is missing.", [({}, found["lag_seconds"])]),
        ("applied_bytes_per_second", "gauge", "Log of the sender applied.", [({}, found["rate"])]),
        ("written_bytes_per_second", "gauge", "Log of the sender written.", [({}, found["write_rate"])]),
        ("eta_seconds", "gauge", "Until nothing is missing; none while it comes no nearer.", [({}, found["eta_seconds"])]),
        ("catching_up", "gauge", "Whether more is applied than is written.", [({}, _flag(found["catching_up"]))]),
        (
            "position_bytes",
            "gauge",
            "Positions in the sender's log.",
            [
                *(({"of": name}, _position(receiver, f"{name}_lsn")) for name in ("sender", "received", "spooled", "synced", "commit")),
                ({"of": "applied"}, view.applied),
            ],
        ),
        ("received_bytes_total", "counter", "Bytes received since the receiver started.", [({}, receiver.get("bytes"))]),
        (
            "received_transactions_total",
            "counter",
            "Transactions received since the receiver started.",
            [({}, receiver.get("transactions"))],
        ),
        ("received_bytes_per_second", "gauge", "Bytes received.", [({}, receiver.get("rate"))]),
        ("applied_transactions_total", "counter", "Transactions applied since the stream began.", [({}, found["transactions"])]),
        ("applied_changes_total", "counter", "Changes applied since the stream began.", [({}, found["changes"])]),
        ("last_message_timestamp_seconds", "gauge", "Last message of the sender.", [({}, receiver.get("last_message"))]),
        ("source_timestamp_seconds", "gauge", "Commit of the last applied transaction, on the sender's clock.", [({}, view.source_time)]),
        ("slot_retained_bytes", "gauge", "Log that the sender holds back for the slot.", [({}, health.get("retained_bytes"))]),
        ("slot_safe_bytes", "gauge", "Log that may be written before the slot is in danger.", [({}, health.get("safe_wal_bytes"))]),
        ("slot_in_danger", "gauge", "Whether the sender may soon give the slot up.", [({}, int(receiver.get("state") == "in_danger"))]),
        ("spool_bytes", "gauge", "Size of the spool.", [({}, view.spool_bytes)]),
        ("spool_segments", "gauge", "Files of the spool.", [({}, view.segments)]),
        ("spool_free_bytes", "gauge", "Room on the spool's disk.", [({}, view.free_bytes)]),
        (
            "reconnects_total",
            "counter",
            "Lost connections.",
            [({"process": name}, told.get("reconnects")) for name, told in _processes(view)],
        ),
        (
            "process_starts_total",
            "counter",
            "Starts of the process.",
            [({"process": name}, count) for name, count in sorted(view.starts.items())],
        ),
        ("exact_batches_total", "counter", "Batches applied change by change.", [({}, applier.get("exact_batches"))]),
    ]
    common = {"direction": view.direction, "slot": view.slot}
    return "".join(_family(name, kind, help_text, values, common) for name, kind, help_text, values in families)


def _processes(view: View) -> Iterable[tuple[str, Mapping[str, Any]]]:
    return ("receiver", view.receiver), ("applier", view.applier)


def _flag(value: bool | None) -> int | None:
    return None if value is None else int(value)


def _family(name: str, kind: str, help_text: str, values: Iterable[Labelled], common: Mapping[str, str]) -> str:
    lines = [
        f"cutover_stream_{name}{{{','.join(f'{key}={_quoted(text)}' for key, text in {**common, **labels}.items())}}} {value!r}\n"
        for labels, value in values
        if value is not None
    ]
    return "".join((f"# HELP cutover_stream_{name} {help_text}\n", f"# TYPE cutover_stream_{name} {kind}\n", *lines)) if lines else ""


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
