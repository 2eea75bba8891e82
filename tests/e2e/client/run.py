"""The writer and the reader: fixed rates, bounded in number and time."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
import uuid
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from .hosts import HostsFile
from .http import Http
from .log import Log

WRITERS = 8
RETRY_SECONDS = 0.2
# A request may take this long, one booking is tried this long, and what is under way at the end gets this long.
REQUEST_SECONDS, BOOKING_SECONDS, GRACE_SECONDS, START_SECONDS = 5.0, 900.0, 10.0, 30.0
# Recent bookings are read again; one that is younger may have been asked for at the address before a change.
READ_AFTER_SECONDS = 2.0


class StartError(Exception):
    """The application cannot be used at all; says what was found."""


@dataclass(frozen=True)
class Settings:
    """What a run does: writes and reads a second, how long, where its logs go."""

    url: str
    hosts_file: Path
    rate: float
    readers: float
    log: Path
    seconds: float


@dataclass
class State:
    """What the writer and the reader share."""

    services: list[int]
    staff: list[int]
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    recent: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=200))
    acknowledged: int = 0
    unacknowledged: int = 0
    rejected: int = 0
    reads: int = 0
    failed_reads: int = 0


class Pace:
    """Ticks at a fixed rate, shared by several tasks. Ticks missed while all were busy are left out, not caught up."""

    def __init__(self, rate: float) -> None:
        self._step = 1 / rate
        self._next = time.monotonic()

    async def wait(self) -> None:
        now = time.monotonic()
        mine = max(self._next, now - self._step)
        self._next = mine + self._step
        await asyncio.sleep(max(0.0, mine - now))


async def _stopped(stop: asyncio.Event, seconds: float) -> bool:
    """Sleeps; True at once when the run is to end."""
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return False
    return True


def booking(state: State, request_id: str, chance: random.Random) -> dict[str, object]:
    """A booking; its comment holds its own id, so that a copy under another request id is found too."""
    starts = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(hours=chance.randrange(24, 24 * 60))
    return {
        "request_id": request_id,
        "phone": f"+7988{chance.randrange(2000):07d}",
        "name": chance.choice(["Анна К.", "José", "O'Brien", "李娜"]),
        "service_id": chance.choice(state.services),
        "staff_id": chance.choice(state.staff),
        "starts_at": starts.isoformat(),
        "comment": f"load {request_id}",
    }


async def _write_one(http: Http, state: State, attempts: Log, acknowledged: Log, wanted: dict[str, object]) -> None:
    """Sends one booking until it is acknowledged, refused for good, or out of time; always with the same request id."""
    request_id = str(wanted["request_id"])
    give_up = time.monotonic() + BOOKING_SECONDS
    ending: float | None = None
    tries = 0
    while time.monotonic() < give_up and (ending is None or time.monotonic() < ending):
        tries += 1
        answer = await http.request("POST", "/api/bookings", wanted)
        row = answer.body.get("booking") if isinstance(answer.body, dict) else None
        good = answer.status in (200, 201) and isinstance(row, dict) and row.get("request_id") == request_id
        attempts.write(t=answer.t, id=request_id, status=answer.status, ms=answer.ms, address=answer.address, error=answer.error)
        if good and row is not None:
            acknowledged.write(t=answer.t, id=request_id, booking=row["id"], receipt=row["receipt_no"], address=answer.address, tries=tries)
            state.acknowledged += 1
            state.recent.append((time.monotonic(), request_id))
            return
        if answer.status in (400, 422):
            state.rejected += 1
            return
        if await _stopped(state.stop, RETRY_SECONDS):
            ending = ending or time.monotonic() + GRACE_SECONDS
            await asyncio.sleep(RETRY_SECONDS)
    state.unacknowledged += 1


async def _write(http: Http, state: State, pace: Pace, attempts: Log, acknowledged: Log, chance: random.Random) -> None:
    while not state.stop.is_set():
        await pace.wait()
        if state.stop.is_set():
            return
        await _write_one(http, state, attempts, acknowledged, booking(state, str(uuid.uuid4()), chance))


async def _read(http: Http, state: State, rate: float, reads: Log) -> None:
    """Lists, reads an acknowledged booking back, and asks for health, in turn."""
    pace, turn = Pace(rate), 0
    while not state.stop.is_set():
        await pace.wait()
        turn += 1
        old = [key for moment, key in state.recent if moment < time.monotonic() - READ_AFTER_SECONDS]
        path = ("/health", "/api/bookings?limit=20", f"/api/bookings/{old[-1]}" if old else "/api/bookings?limit=1")[turn % 3]
        answer = await http.request("GET", path)
        good = answer.status == 200 and isinstance(answer.body, dict)
        if good and path.startswith("/api/bookings/"):
            good = answer.body["booking"]["request_id"] == old[-1]
        state.reads += 1
        state.failed_reads += not good
        reads.write(t=answer.t, path=path, status=answer.status, ms=answer.ms, ok=good, address=answer.address, error=answer.error)


async def _catalog(http: Http) -> tuple[list[int], list[int]]:
    deadline = time.monotonic() + START_SECONDS
    while True:
        answer = await http.request("GET", "/api/catalog")
        if answer.status == 200:
            services, staff = ([int(row["id"]) for row in answer.body[name]] for name in ("services", "staff"))
            if services and staff:
                return services, staff
        if time.monotonic() > deadline:
            found = answer.error or f"status {answer.status}: {str(answer.body)[:200]}"
            raise StartError(f"GET /api/catalog at {answer.address} gave no services and staff within {START_SECONDS:.0f} s: {found}")
        await asyncio.sleep(0.5)


async def run(settings: Settings) -> dict[str, object]:
    """Writes and reads until the time is over or SIGTERM or SIGINT comes. Returns counts. Raises StartError."""
    settings.log.mkdir(parents=True, exist_ok=True)
    hosts = HostsFile(settings.hosts_file)
    async with Http(settings.url, hosts, REQUEST_SECONDS) as http:
        state = State(*await _catalog(http))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, state.stop.set)
        loop.call_later(settings.seconds, state.stop.set)
        with (
            Log(settings.log / "attempts.jsonl") as attempts,
            Log(settings.log / "acknowledged.jsonl") as acknowledged,
            Log(settings.log / "reads.jsonl") as reads,
            Log(settings.log / "client.jsonl") as events,
        ):
            events.write(
                t=time.time(), event="started", pid=os.getpid(), rate=settings.rate, readers=settings.readers, seconds=settings.seconds
            )
            pace, chance = Pace(settings.rate), random.Random()
            async with asyncio.TaskGroup() as group:
                for _unused in range(WRITERS):
                    group.create_task(_write(http, state, pace, attempts, acknowledged, chance))
                if settings.readers:
                    group.create_task(_read(http, state, settings.readers, reads))
            counts: dict[str, object] = {
                name: getattr(state, name) for name in ("acknowledged", "unacknowledged", "rejected", "reads", "failed_reads")
            }
            events.write(t=time.time(), event="ended", pid=os.getpid(), **counts)
    return counts
