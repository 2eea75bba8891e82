"""Throw-away PostgreSQL servers for the integration tests of a run: two of this machine's own package, others of any major when asked for."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pgservers
import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.endpoint import Endpoint
from pgservers import PASSWORD

MAJOR_SETTINGS = {"shared_buffers": "64MB"}  # five servers may run beside the two
_databases = itertools.count(1)


class Server(pgservers.Server):
    """With the engine's address of its databases."""

    def endpoint(self, dbname: str, user: str = "postgres", password: str | None = PASSWORD, **more: Any) -> Endpoint:
        """The engine's address of one of its databases."""
        return Endpoint.from_args(self.args(dbname, user, password, **more))


@dataclass(frozen=True)
class Pair:
    """An empty database on each server, under one name."""

    source_server: Server
    target_server: Server
    dbname: str

    @property
    def source(self) -> Endpoint:
        return self.source_server.endpoint(self.dbname)

    @property
    def target(self) -> Endpoint:
        return self.target_server.endpoint(self.dbname)

    def on_source(self, *statements: str) -> list[tuple[Any, ...]]:
        return self.source_server.execute(self.dbname, *statements)

    def on_target(self, *statements: str) -> list[tuple[Any, ...]]:
        return self.target_server.execute(self.dbname, *statements)

    def on_both(self, *statements: str) -> None:
        self.on_source(*statements)
        self.on_target(*statements)


def _programs(role: str) -> Path:
    """Programs of the server for ``role`` (source, target): CUTOVER_TEST_PG_<ROLE> (a directory, or a major from 14 to 18), else Debian's newest."""
    given = os.environ.get(f"CUTOVER_TEST_PG_{role.upper()}")
    try:
        if not given:
            return pgservers.debian_programs()
        return pgservers.server_programs(int(given)) if given.isdigit() else Path(given)
    except pgservers.ProgramsError as error:
        pytest.fail(str(error), pytrace=False)


def own(server: pgservers.Server) -> Server:
    """With the engine's addresses."""
    return Server(server.name, server.bin, server.home, server.port)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What a test that passed at its second run had failed with."""
    for report in terminalreporter.stats.get("rerun", []):
        terminalreporter.section(f"first run of {report.nodeid} ({report.when})", "_")
        terminalreporter.write_line(report.longreprtext)


@pytest.fixture(scope="session")
def servers() -> Iterator[tuple[Server, Server]]:
    """(source, target): two running servers, stopped and removed at the end of the run."""
    with pgservers.Fleet() as fleet:
        source, target = fleet.start(source=_programs("source"), target=_programs("target"))
        yield own(source), own(target)


@pytest.fixture
def pair(servers: tuple[Server, Server]) -> Iterator[Pair]:
    """A fresh empty database on each server, dropped afterwards."""
    with ExitStack() as stack:
        yield _empty_pair(*servers, stack)


def _empty_pair(source: Server, target: Server, stack: ExitStack) -> Pair:
    """The databases are dropped when the stack is left."""
    dbname = f"case_{next(_databases)}"
    for server in (source, target):
        server.execute("postgres", f"CREATE DATABASE {dbname} TEMPLATE template0")
        stack.callback(server.execute, "postgres", f"DROP DATABASE {dbname} WITH (FORCE)")
    return Pair(source, target, dbname)


MajorServers = Callable[..., list[Server]]
MajorPair = Callable[[int, int], Pair]


@pytest.fixture(scope="session")
def major_servers() -> Iterator[MajorServers]:
    """``major_servers(14, 18)``: running servers of these majors, each fetched and started when it is first asked for; stopped at the end of the run.

    A major asked for twice at a time is two servers.
    """
    running: dict[str, Server] = {}
    with pgservers.Fleet(MAJOR_SETTINGS) as fleet:

        def get(*majors: int) -> list[Server]:
            names = [f"v{major}_{majors[:place].count(major)}" for place, major in enumerate(majors)]
            missing = {name: pgservers.server_programs(major) for name, major in zip(names, majors, strict=True) if name not in running}
            running.update(zip(missing, map(own, fleet.start(**missing)), strict=True))
            return [running[name] for name in names]

        yield get


@pytest.fixture
def major_pair(major_servers: MajorServers) -> Iterator[MajorPair]:
    """``major_pair(14, 18)``: a fresh empty database on a server of each major, dropped afterwards."""
    with ExitStack() as stack:

        def get(source: int, target: int) -> Pair:
            older, newer = major_servers(source, target)
            return _empty_pair(older, newer, stack)

        yield get


@pytest.fixture(scope="session")
def clients() -> Path:
    """Directory with pg_dump, pg_restore and psql of major 18: new enough for every server (``bin_dir`` of the schema transfer)."""
    return pgservers.client_programs()
