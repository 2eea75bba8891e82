# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What whoever waits for a stream is told meanwhile. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Waiting:
    """Figures of one look, as of :func:`.sight.plain`."""

    health: str
    receiver: str
    applier: str
    detail: str
    lag_bytes: int | None
    rate: float | None
    write_rate: float | None
    eta_seconds: float | None
    changes: int


def of(facts: Mapping[str, Any]) -> Waiting:
    """The part of a look that people want to see."""
    return Waiting(**{one.name: facts[one.name] for one in fields(Waiting)})


def as_text(waiting: Waiting) -> str:
    """One line of JSON."""
    return json.dumps(asdict(waiting)) + "\n"


def parse(text: str) -> Waiting | None:
    """What :func:`as_text` wrote; None for anything else."""
    try:
        return Waiting(**json.loads(text))
    except (ValueError, TypeError):
        return None


def lines(history: Sequence[Waiting]) -> list[str]:
    """For people, of the last look."""
    if not history:
        return []
    now = history[-1]
    if now.lag_bytes is None:
        waits = f" ({now.detail})" if now.detail else ""
        return [f"receiver {now.receiver}, applier {now.applier}{waits}"]
    told = [f"{now.lag_bytes / 1024**2:.1f} MiB behind", f"{now.changes:,} changes applied"]
    if now.rate is not None and now.write_rate is not None:
        told.append(f"{now.rate / 1e6:.1f} MB/s applied, {now.write_rate / 1e6:.1f} MB/s written")
        told.append(f"{now.eta_seconds:.0f} s left" if now.eta_seconds is not None else "not catching up")
    return [", ".join(told) + f" ({now.health})"]
