# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a user may ask for beside the topology, and what is returned."""

from __future__ import annotations

from dataclasses import dataclass, field

from . import cost, observe, render
from .model import Change, Json, Snapshot


@dataclass(frozen=True)
class Options:
    """What a user may ask for beside the topology; as the module's parameters of the same names."""

    prune: bool = False
    allow_replace: bool = False
    allow_power_off: bool = False
    allow_destroy_protected: bool = False
    budget: cost.Budget | None = None
    server_types: tuple[str, ...] = ()
    locations: tuple[str, ...] = ()


@dataclass
class Result:
    """What is returned, also after a failure, as far as it is known."""

    stack: str
    changes: list[Change] = field(default_factory=list)
    cost: cost.Cost | None = None
    found: Snapshot | None = None
    left: list[str] = field(default_factory=list)
    plan_text: str = ""
    warnings: list[str] = field(default_factory=list)
    timings: list[Json] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    failures: list[Json] = field(default_factory=list)
    not_tried: list[Json] = field(default_factory=list)

    def as_dict(self) -> Json:
        """The module's return values but ``changed``, ``requests`` and ``warnings``."""
        # Not "failed" and "skipped": to Ansible those say what became of the whole task.
        return {
            "plan": [change.as_dict() for change in self.changes],
            "plan_text": self.plan_text,
            "cost": self.cost.as_dict() if self.cost else None,
            "hosts": observe.hosts(self.found) if self.found else [],
            "orphans": self.left,
            "timings": self.timings,
            "done": self.done,
            "failures": self.failures,
            "not_tried": self.not_tried,
        }

    def diff(self) -> dict[str, str]:
        """Ansible's diff of the plan."""
        return render.diff(self.stack, self.changes)
