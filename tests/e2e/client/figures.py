"""What the clients' logs say. Pure: lines and rows in, figures out."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Attempt:
    """One request of the writer. t: its end, seconds since 1970; status: None when no answer came."""

    t: float
    id: str
    status: int | None
    ms: float
    address: str | None


@dataclass(frozen=True)
class Acknowledged:
    """A booking that the application said is safe. booking, receipt: what it answered."""

    t: float
    id: str
    booking: int
    receipt: int
    address: str


@dataclass(frozen=True)
class Read:
    """One request of the reader; ok: the answer was the expected one."""

    t: float
    path: str
    status: int | None
    ms: float
    ok: bool
    address: str | None


@dataclass(frozen=True)
class Stored:
    """One booking found in the database, by the id in its own comment and by its request id."""

    id: str
    booking: int
    receipt: int


class LogError(Exception):
    """A log is not what the client writes; names file and line."""


def parse_lines(name: str, text: str) -> list[dict[str, object]]:
    """JSON lines as dicts. A last line that breaks off is left out: its writer was killed. Any other bad line raises LogError."""
    lines = text.split("\n")
    found = []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise LogError(f"{name}:{number}: not JSON ({error}); expected the log of `python -m client run`") from error
        if not isinstance(entry, dict):
            raise LogError(f"{name}:{number}: {entry!r}, expected an object")
        found.append(entry)
    return found


def percentile(values: Iterable[float], percent: float) -> float | None:
    """The smallest value that at least ``percent`` of all values do not exceed (nearest rank); None without values."""
    ordered = sorted(values)
    if not ordered:
        return None
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


@dataclass(frozen=True)
class Gap:
    """A time without an acknowledgement: begin and end, seconds since 1970."""

    begin: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.begin


def longest_gap(acknowledged: Iterable[float], first_attempt: float, last_attempt: float) -> Gap:
    """The longest time without an acknowledgement while writes were tried.

    The time before the first and after the last acknowledgement counts: an application that never came back is one long gap.
    """
    moments = [first_attempt, *sorted(acknowledged), last_attempt]
    gaps = [Gap(begin, max(begin, end)) for begin, end in zip(moments, moments[1:], strict=False)]
    return max(gaps, key=lambda gap: gap.seconds)


@dataclass(frozen=True)
class Comparison:
    """Acknowledged bookings against the database: ids in each list."""

    lost: tuple[str, ...]
    doubled: tuple[str, ...]
    altered: tuple[str, ...]


def compare(acknowledged: Sequence[Acknowledged], stored: Iterable[Stored]) -> Comparison:
    """lost: not there. doubled: there more than once. altered: there once, but not as it was acknowledged."""
    rows: dict[str, list[Stored]] = {}
    for row in stored:
        rows.setdefault(row.id, []).append(row)
    # The same id may be acknowledged twice; then both answers must say the same.
    answers: dict[str, set[tuple[int, int]]] = {}
    for entry in acknowledged:
        answers.setdefault(entry.id, set()).add((entry.booking, entry.receipt))
    lost = tuple(sorted(set(answers) - set(rows)))
    doubled = tuple(sorted(key for key, found in rows.items() if len(found) > 1))
    altered = tuple(
        sorted(
            key for key, said in answers.items() if len(rows.get(key, [])) == 1 and said != {(rows[key][0].booking, rows[key][0].receipt)}
        )
    )
    return Comparison(lost, doubled, altered)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _latency(values: Sequence[float]) -> dict[str, float | int | None]:
    return {"count": len(values), "p50_ms": _rounded(percentile(values, 50), 2), "p95_ms": _rounded(percentile(values, 95), 2)}


def _by_address(entries: Iterable[tuple[float, str, float]]) -> dict[str, dict[str, float | int | None]]:
    """(t, address, ms) -> latencies before the address changed for the first time, and after."""
    ordered = sorted(entries)
    first = ordered[0][1] if ordered else None
    change = next((t for t, address, _unused in ordered if address != first), math.inf)
    return {
        "before": _latency([ms for t, _unused, ms in ordered if t < change]),
        "after": _latency([ms for t, _unused, ms in ordered if t >= change]),
    }


def summary(
    attempts: Sequence[Attempt], acknowledged: Sequence[Acknowledged], reads: Sequence[Read], stored: Iterable[Stored], confirmed: int
) -> dict[str, object]:
    """The figures of one run; confirmed: acknowledged bookings whose confirmation message is in the database.

    Raises LogError when nothing was tried: figures of nothing prove nothing.
    """
    if not attempts:
        raise LogError("attempts.jsonl is empty: the client tried no write. Look at what `python -m client run` printed.")
    found = compare(acknowledged, stored)
    begin = min(a.t - a.ms / 1000 for a in attempts)
    gap = longest_gap([entry.t for entry in acknowledged], begin, max(a.t for a in attempts))
    failed_reads = [read for read in reads if not read.ok]
    known = {entry.id for entry in acknowledged}
    good = [(a.t, a.address, a.ms) for a in attempts if a.status in (200, 201) and a.address]
    return {
        "acknowledged": len(known),
        "unacknowledged": len({a.id for a in attempts} - known),
        "lost": len(found.lost),
        "lost_ids": list(found.lost[:20]),
        "doubled": len(found.doubled),
        "altered": len(found.altered),
        "confirmed": confirmed,
        "attempts": len(attempts),
        "refused_attempts": sum(1 for a in attempts if a.status not in (200, 201)),
        "statuses": _statuses(attempts),
        "longest_write_gap_seconds": round(gap.seconds, 3),
        "longest_write_gap": {"begin": round(gap.begin, 3), "end": round(gap.end, 3)},
        "gap": [round(gap.begin - begin, 3), round(gap.end - begin, 3)],
        "per_second": per_second([entry.t for entry in acknowledged], begin, max(a.t for a in attempts)),
        "reads": len(reads),
        "failed_reads": len(failed_reads),
        "failed_read_examples": [
            {"t": read.t, "path": read.path, "status": read.status, "address": read.address} for read in failed_reads[:10]
        ],
        "addresses": list(dict.fromkeys(entry.address for entry in sorted(acknowledged, key=lambda entry: entry.t))),
        "writes": _by_address(good),
        "reading": _by_address([(read.t, read.address, read.ms) for read in reads if read.ok and read.address]),
    }


def per_second(moments: Sequence[float], begin: float, end: float) -> list[list[int]]:
    """Acknowledgements in each second from begin to end: [second, count], also where there was none."""
    counts = Counter(int(t - begin) for t in moments)
    return [[second, counts[second]] for second in range(int(end - begin) + 1)]


def _statuses(attempts: Iterable[Attempt]) -> Mapping[str, int]:
    return dict(sorted(Counter("none" if a.status is None else str(a.status) for a in attempts).items()))
