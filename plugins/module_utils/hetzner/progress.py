# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How far a plan is carried out, and the lines that tell people. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .graph import Outcome
from .model import Change

# More than these at once are told as a number.
MOST_LINES = 8


@dataclass(frozen=True)
class Step:
    """A resource that is being written. seconds: since its step began."""

    resource: str
    action: str
    seconds: float


@dataclass(frozen=True)
class Progress:
    """Where a plan stands. total: steps; waiting: steps that need others first; skipped: not to be tried, as what they need failed."""

    total: int
    done: int
    failed: int
    skipped: int
    waiting: int
    seconds: float
    running: tuple[Step, ...]


def snapshot(changes: Iterable[Change], outcome: Outcome, running: Mapping[str, float], seconds: float) -> Progress:
    """running: key -> seconds since its step began; seconds: since the first step began."""
    actions = {change.key: change.action for change in changes}
    # A resource that has been at work longest is told first.
    steps = tuple(Step(key, actions[key], age) for key, age in sorted(running.items(), key=lambda item: (-item[1], item[0])))
    done, failed, skipped = len(outcome.done), len(outcome.failed), len(outcome.skipped)
    return Progress(len(actions), done, failed, skipped, len(actions) - done - failed - skipped - len(steps), seconds, steps)


def as_text(progress: Progress) -> str:
    """One line of JSON."""
    return json.dumps(asdict(progress)) + "\n"


def parse(text: str) -> Progress | None:
    """What ``as_text`` wrote; None for anything else, such as half a file or one of another release."""
    try:
        found: dict[str, Any] = json.loads(text)
        steps = tuple(Step(**one) for one in found.pop("running"))
        progress = Progress(**found, running=steps)
        lines([progress])
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return None
    return progress


def lines(history: Sequence[Progress]) -> list[str]:
    """A line for the whole and one for each resource that is waited for, from the last snapshot. Nothing without one."""
    if not history:
        return []
    now = history[-1]
    parts = [f"{now.done:d} of {now.total:d} resources done in {now.seconds:.0f} s"]
    parts += [
        f"{count:d} {word}" for count, word in ((now.failed, "failed"), (now.skipped, "not tried"), (now.waiting, "to come")) if count
    ]
    told = [f"  waiting for {step.resource}: {step.action}, {step.seconds:.0f} s" for step in now.running[:MOST_LINES]]
    rest = len(now.running) - len(told)
    return [", ".join(parts), *told, *([f"  and for {rest} more"] if rest > 0 else [])]
