# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The two sides of a switch with their control sessions, and what a switch is asked to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from . import catalog, freeze, predecessor
from .endpoint import Endpoint
from .errors import TransferError
from .pgbouncer import PAUSE_SECONDS, Pooler
from .selection import Name, Selection
from .session import connect
from .stream.config import FORWARD, REVERSE

if TYPE_CHECKING:
    import psycopg

CONTROL = "cutover control"


@dataclass(frozen=True)
class Options:
    """deadline: seconds for the whole; step_deadlines: seconds for single steps; api_roles: see :func:`.freeze.freeze`.

    method: how the rest gets over, auto is by the change stream where one was begun; max_lag_bytes: how far that may be behind when writes are to stop
    way_back_slot, way_back_publication: of the stream back, on the side that opens, where it was not begun before
    rehearse: do everything but the switch; afterwards: what is compared once the other side has opened: none, counts or full
    poolers: in front of the databases, paused while writes are stopped and pointed to the side that opens; pause_seconds: for one to be paused
    fault: called before and after each step (see :class:`.steps.Steps`) and inside the freeze, for rehearsals of failures
    """

    deadline: float = 300.0
    step_deadlines: Mapping[str, float] = field(default_factory=dict)
    lock_timeout_ms: int = 2000
    retries: int = 10
    workers: int = 4
    api_roles: tuple[str, ...] = freeze.API_ROLES
    force: bool = False
    method: str = "auto"
    max_lag_bytes: int = 16 * 1024 * 1024
    way_back_slot: str = "cutover_reverse"
    way_back_publication: str = "cutover"
    rehearse: bool = False
    afterwards: str = "counts"
    poolers: tuple[Pooler, ...] = ()
    pause_seconds: float = PAUSE_SECONDS
    fault: Callable[[str], None] | None = None


@dataclass(frozen=True)
class Side:
    """A side with our control session. name: source or target; selection: as seen from this side."""

    name: str
    endpoint: Endpoint
    conn: psycopg.Connection[Any]
    selection: Selection

    @property
    def inward(self) -> str:
        """Direction of the stream into this side."""
        return FORWARD if self.name == "target" else REVERSE

    @property
    def outward(self) -> str:
        """Direction of the stream out of this side."""
        return REVERSE if self.name == "target" else FORWARD

    def names(self) -> tuple[list[Name], list[Name]]:
        """Tables and sequences of the selection as they are called here."""
        tables = [table.full_name for table in catalog.read_tables(self.conn, self.selection)]
        return tables, [(found.schema, found.name) for found in catalog.read_sequences(self.conn, self.selection)]


def has_schema(side: Side) -> bool:
    row = side.conn.execute("SELECT to_regnamespace('cutover') IS NOT NULL").fetchone()
    return bool(row and row[0])


def freeze_side(
    side: Side, tables: Sequence[Name], sequence_names: Sequence[Name], fence_id: str, options: Options, deadline: float
) -> freeze.Outcome:
    return freeze.freeze(
        side.conn,
        tables,
        sequence_names,
        side=side.name,
        fence_id=fence_id,
        api_roles=options.api_roles,
        lock_timeout_ms=options.lock_timeout_ms,
        retries=options.retries,
        deadline=deadline,
        fault=_within("freeze", options.fault),
    )


def _within(step: str, fault: Callable[[str], None] | None) -> Callable[[str], None] | None:
    return None if fault is None else lambda point: fault(f"{step}:{point}")


def interrupt(*sides: Side) -> None:
    """End what our own sessions are doing on both servers, except the session that does this."""
    for side in sides:
        try:
            with connect(side.endpoint, application_name=CONTROL) as conn:
                conn.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'cutover%' AND usename = current_user"
                    " AND datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
                )
        except TransferError:
            continue


class Sides:
    """Both sides with control sessions, closed at the end."""

    def __init__(self, source: Endpoint, target: Endpoint, selection: Selection) -> None:
        self._source, self._target, self._selection = source, target, selection
        self._open: list[psycopg.Connection[Any]] = []

    def __enter__(self) -> tuple[Side, Side]:
        for endpoint in (self._source, self._target):
            try:
                self._open.append(connect(endpoint, application_name=predecessor.named(CONTROL)))
            except BaseException:
                self.__exit__()
                raise
        return (
            Side("source", self._source, self._open[0], self._selection),
            Side("target", self._target, self._open[1], self._selection.inverted()),
        )

    def __exit__(self, *_unused: object) -> None:
        for conn in self._open:
            conn.close()


def text(error: BaseException) -> str:
    return (error.message if isinstance(error, TransferError) else f"{type(error).__name__}: {error}").strip()
