"""A database on the move, as the product moves it: two servers, a pooler in front, copy, both streams as services, and switches there and back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pgservers
import psycopg
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import (
    cutover,
    cutover_sides,
    cutover_single,
    pgbouncer,
    schema,
    schema_plan,
    session,
)
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.copy import copy
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.endpoint import Endpoint
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Selection
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream import config_file, publication, service, state
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.config import Config
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.pgoutput import lsn_number
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.proof import verify_following
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.verify import verify

from . import harness, load

ROOT = Path(__file__).parents[2]
ALL = Selection()
OWNER, USER = "bench_owner", "bench_app"
ENTRY = "app"
PUBLICATION = "cutover"
PATIENCE = 300.0
# A row of nobody, about as wide as a row of an application.
_BALLAST = (
    "INSERT INTO load_{t} (client, seq, version, note, detail) SELECT 0, g, 1, repeat(md5(g::text), 6), jsonb_build_object('s', g)"
    " FROM generate_series(1, {rows}) g"
)
_ROW_BYTES = 330


class DifferenceError(AssertionError):
    """A write is lost or doubled, or the sides differ: what no test gets a second chance for."""


class Service:
    """A stream's service, as systemd would run it."""

    def __init__(self, config: Config, folder: Path) -> None:
        self.config = config
        self.path = folder / f"{config.direction}.json"
        self.log = folder / f"{config.direction}.log"
        self.path.write_text(json.dumps(config_file.arguments(config)))
        self.path.chmod(0o600)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; one that runs goes on."""
        if self.running:
            return
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", service.__name__, str(self.path)],
                env={**os.environ, "PYTHONPATH": str(ROOT / ".collections")},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def pid(self, role: str) -> int:
        """Of one of its two processes, 0 when it does not say or is gone."""
        try:
            found = int(json.loads((self.config.spool / f"{role}.json").read_text())["pid"])
            return found if str(self.path) in Path(f"/proc/{found}/cmdline").read_text() else 0
        except (OSError, ValueError, KeyError):
            return 0

    def stop(self, kill: bool = False) -> None:
        """End it in order, or as a machine that loses its power: its processes go with it."""
        if self._process is None:
            return
        (self._process.kill if kill else self._process.terminate)()
        self._process.wait(30)
        self._process = None

    def said(self) -> str:
        """The end of its log, and what its processes say of themselves."""
        files = [self.log, *(self.config.spool / f"{role}.json" for role in service.ROLES)]
        return "\n".join(path.read_text(errors="replace")[-3000:] for path in files if path.exists())


class World:
    """One database on the move. ports: of source and target as the mover reaches them, the servers' own by default."""

    def __init__(
        self,
        source: pgservers.Server,
        target: pgservers.Server | pgservers.Cluster,
        front: pgservers.Bouncer,
        dbname: str,
        folder: Path,
        ports: tuple[int, int] | None = None,
    ) -> None:
        self.servers, self.front, self.dbname, self.folder = (source, target), front, dbname, folder
        self.args = [server.args(dbname) for server in self.servers]
        if ports is not None:
            self.args = [{**args, "port": port} for args, port in zip(self.args, ports, strict=True)]
        self.source, self.target = Endpoint.from_args(self.args[0]), Endpoint.from_args(self.args[1])
        self.leads = {
            side: f"host=127.0.0.1 port={server.port} dbname={dbname}"
            for side, server in zip(("source", "target"), self.servers, strict=True)
        }
        console = front.args()
        self.pooler_args = [{**console, **self.leads, "database": ENTRY, "file": str(front.file)}]
        self.poolers = pgbouncer.from_args(self.pooler_args)
        self.services = {
            direction: Service(
                Config(direction, self.source, self.target, f"{dbname}_{direction}", PUBLICATION, folder / direction), folder
            )
            for direction in ("forward", "reverse")
        }

        self.switch_args = {"workers": 2, "way_back_slot": self.services["reverse"].config.slot, "way_back_publication": PUBLICATION}

    def make(self, megabytes: float = 0.0) -> None:
        """Both databases; the source with the clients' tables, rows of nobody in them, and the pooler leading there."""
        for server in self.servers:
            for role in (OWNER, USER):
                if not server.execute("postgres", f"SELECT 1 FROM pg_roles WHERE rolname = '{role}'"):
                    server.execute("postgres", f"CREATE ROLE {role} LOGIN PASSWORD '{pgservers.PASSWORD}'")
            server.execute("postgres", f"CREATE DATABASE {self.dbname} TEMPLATE template0")
        rows = int(megabytes * 1_000_000 / _ROW_BYTES / load.TABLES)
        source = self.servers[0]
        source.execute(
            self.dbname,
            *load.SCHEMA,
            *(_BALLAST.format(t=table, rows=rows) for table in range(load.TABLES) if rows),
            *(f"ALTER TABLE load_{table} OWNER TO {OWNER}" for table in range(load.TABLES)),
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {USER}",
        )
        source.execute(self.dbname, "VACUUM ANALYZE")
        self.front.file.write_text(f"[databases]\n{self.poolers[0].line('source')}\n")
        self.front.console("RELOAD")

    def begin(self) -> None:
        """Tables of the target, closed; the source published; the stream waiting for its slot."""
        self.schema("pre_data")
        cutover_single.frozen(self.source, self.target, ALL, "target", cutover_sides.Options())
        with session.connect(self.source, application_name="bench") as conn:
            publication.create(conn, ALL, PUBLICATION)
        self.services["forward"].start()

    def schema(self, section: str) -> None:
        """Transfer one section of the schema."""
        schema.transfer(self.source, self.target, ALL, section, schema_plan.Options(jobs=2))

    def copy(self) -> None:
        """All rows, under the slot of the stream."""
        copy(self.source, self.target, ALL, slot=self.services["forward"].config.slot, workers=2)

    def complete(self) -> None:
        """What comes after the rows; the stream caught up; everything proven; the way back waiting for its slot."""
        self.schema("post_data")
        self.caught_up("forward")
        self.prove()
        self.publish_back()

    def publish_back(self) -> None:
        """Publish the target and start the stream of the way back."""
        with session.connect(self.target, application_name="bench") as conn:
            publication.create(conn, ALL.inverted(), PUBLICATION)
        self.services["reverse"].start()

    def prove(self) -> None:
        """Compare all rows while the stream goes on."""
        result = verify_following(self.source, self.target, ALL, workers=2)
        if not result.equal:
            raise DifferenceError(f"the sides differ: {', '.join(result.differing)}")

    def caught_up(self, direction: str, behind: int = 262_144) -> None:
        """Wait until a stream is at most so many bytes behind."""
        config = self.services[direction].config
        deadline = time.monotonic() + PATIENCE
        with (
            session.connect(config.sending, application_name="bench", read_only=True) as sender,
            session.connect(config.receiving, application_name="bench", read_only=True) as receiver,
        ):
            while True:
                end = sender.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone()
                found = state.read(receiver, direction)
                if found is not None and end is not None and lsn_number(end[0]) - found.applied <= behind:
                    return
                if time.monotonic() > deadline:
                    raise SystemExit(f"the {direction} stream has not caught up: {found}\n{self.services[direction].said()}")
                time.sleep(0.05)

    def options(self, fault: Callable[[str], None] | None = None, **more: Any) -> cutover_sides.Options:
        """Of a switch."""
        given: dict[str, Any] = {**self.switch_args, "poolers": self.poolers}
        return cutover_sides.Options(**{**given, **more}, fault=fault)

    def switch(self, **more: Any) -> dict[str, Any]:
        """To the target."""
        return cutover.cut_over(self.source, self.target, ALL, self.options(**more))

    def back(self, **more: Any) -> dict[str, Any]:
        """To the source."""
        return cutover.roll_back(self.source, self.target, ALL, self.options(**more))

    def clients(self, count: int, rate: float, seed: int, pooled_only: bool = False, direct_only: bool = False) -> list[load.Client]:
        """Of all kinds, or of the pooler only, or of those without it."""
        direct, owner = (tuple(conninfo({**server.args(self.dbname), "user": user}) for server in self.servers) for user in (USER, OWNER))
        pooled = conninfo(self.front.args(ENTRY, user=USER))
        made = load.clients(count, rate, (direct[0], direct[1]), (owner[0], owner[1]), pooled, seed)
        if pooled_only:
            return [load.Client(one.number, "pooled", (pooled, pooled), one.rate, one.seed) for one in made]
        return [one for one in made if one.kind != "pooled"] if direct_only else made

    def readers(self) -> tuple[str, str]:
        """Addresses for a reader of source and target."""
        both = [conninfo(server.args(self.dbname)) for server in self.servers]
        return both[0], both[1]

    def judged(self, memories: Any, side: int) -> load.Verdict:
        """What the clients know against what a side holds."""
        with self.servers[side].connect(self.dbname) as conn:
            return load.judge(memories, load.held(conn))

    def whole(self, memories: Any) -> load.Verdict:
        """What the clients know, against both sides, and both sides against each other, once all has arrived. Raises DifferenceError for any difference."""
        self.caught_up("forward", behind=0)
        for side in (1, 0):
            verdict = self.judged(memories, side)
            if verdict.lost or verdict.doubled:
                raise DifferenceError(f"{('source', 'target')[side]}: {verdict.lost} lost, {verdict.doubled} doubled: {verdict.examples}")
        result = verify(self.source, self.target, ALL, workers=2)
        if not result.equal:
            raise DifferenceError(f"not equal: {', '.join(result.differing)}")
        return verdict

    def end(self) -> None:
        """Services stopped, databases gone."""
        for one in self.services.values():
            one.stop()
        for server in self.servers:
            with server.connect() as conn:
                conn.execute(
                    "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = %s AND active", (self.dbname,)
                )
                deadline = time.monotonic() + 20
                while conn.execute("SELECT FROM pg_replication_slots WHERE database = %s AND active", (self.dbname,)).fetchall():
                    if time.monotonic() > deadline:
                        raise SystemExit(f"a slot of {self.dbname} is still in use")
                    time.sleep(0.05)
                conn.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = %s", (self.dbname,))
                conn.execute(f"DROP DATABASE IF EXISTS {self.dbname} WITH (FORCE)")
        shutil.rmtree(self.folder, ignore_errors=True)


def conninfo(args: dict[str, Any]) -> str:
    """Of libpq. args: as a module's source or target."""
    given = dict(args)
    return psycopg.conninfo.make_conninfo(given.pop("dsn", ""), **given)


@dataclass(frozen=True)
class Stage:
    """Two servers and a pooler in front; call it with a name for a world, which is removed at the end of its own context."""

    source: pgservers.Server
    target: pgservers.Server
    front: pgservers.Bouncer

    @property
    def parts(self) -> tuple[pgservers.Server, pgservers.Server, pgservers.Bouncer]:
        return self.source, self.target, self.front

    @contextmanager
    def __call__(self, dbname: str) -> Iterator[World]:
        folder = Path(tempfile.mkdtemp(prefix="cutover-world-", dir=harness.workplace()))
        made = World(*self.parts, dbname, folder)
        try:
            yield made
        finally:
            made.end()


@contextmanager
def stage(settings: dict[str, str] | None = None) -> Iterator[Stage]:
    """Servers and pooler, stopped and removed at the end."""
    with ExitStack() as stack:
        source, target = stack.enter_context(harness.servers({"max_wal_senders": "20", "max_replication_slots": "20", **(settings or {})}))
        yield Stage(source, target, stack.enter_context(in_front(source)))


def in_front(source: pgservers.Server) -> AbstractContextManager[pgservers.Bouncer]:
    """A pooler for :class:`World`, leading to the source at first."""
    return pgservers.bouncer(
        source, "transaction", sessions=20, lines=(f"{ENTRY} = host=127.0.0.1 port={source.port}",), users=(USER, OWNER)
    )
