# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Steps with names, times and deadlines. A step that does not end in time is ended on the servers, not waited for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from .errors import TransferError

T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """A finished step. started: ISO-8601 UTC with milliseconds."""

    name: str
    started: str
    seconds: float


class Steps:
    """Runs steps in order.

    deadline: seconds for all of them from now on; step_deadlines: seconds for single ones; interrupt: ends what the servers are doing for us
    fault: called with the name of each step before (``name``) and after it (``name:done``), for rehearsals of failures
    """

    def __init__(
        self,
        deadline: float,
        step_deadlines: Mapping[str, float],
        interrupt: Callable[[], None],
        fault: Callable[[str], None] | None = None,
    ) -> None:
        self._end = time.monotonic() + deadline
        self._limits, self._interrupt, self._fault = step_deadlines, interrupt, fault
        self.deadline = deadline
        self.finished: list[Step] = []
        self.current = ""

    def remaining(self, name: str) -> float:
        """Seconds that this step may take. Raises TransferError when there are none left."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TransferError(f"the deadline of {self.deadline:.0f} s has passed before step {name}", _REMEDY, kind="deadline")
        return min(left, self._limits.get(name, left))

    def run(self, name: str, action: Callable[[], T]) -> T:
        """Result of the action, which runs beside us so that it can be given up. Raises what it raised, or TransferError (kind deadline)."""
        self.current = name
        limit = self.remaining(name)
        started, at = time.monotonic(), now()
        outcome: list[T] = []
        failure: list[BaseException] = []

        def act() -> None:
            try:
                if self._fault:
                    self._fault(name)
                outcome.append(action())
                if self._fault:
                    self._fault(f"{name}:done")
            except BaseException as error:
                failure.append(error)

        worker = threading.Thread(target=act, name=f"cutover step {name}", daemon=True)
        worker.start()
        worker.join(limit)
        if worker.is_alive():
            self._interrupt()
            worker.join(5)
            raise TransferError(f"step {name} was not finished within {limit:.1f} s", _REMEDY, kind="deadline")
        if failure:
            raise failure[0]
        self.finished.append(Step(name, at, round(time.monotonic() - started, 4)))
        return outcome[0]

    def report(self) -> list[dict[str, Any]]:
        """Finished steps as plain data."""
        return [asdict(step) for step in self.finished]


_REMEDY = "Look at what took the time, then run again with a longer deadline or fewer rows to bring over."


def now() -> str:
    """ISO-8601 UTC with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
