"""Three PostgreSQL servers under Patroni, with one etcd, on loopback: a target that fails over."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import psycopg

from .programs import ProgramsError, installed
from .server import PASSWORD, SETTINGS, Fleet, Server, ServerError, free_port, reachable, spawn

REQUIREMENTS = Path(__file__).parents[2] / "roles" / "postgres_patroni" / "files" / "requirements-patroni.txt"
# Debian's own: a Python that belongs to one user is no use to another.
PYTHON = Path("/usr/bin/python3")
NAMES = ("one", "two", "three")
_PARAMETERS = {
    **{name: value for name, value in SETTINGS.items() if name != "listen_addresses"},
    # pg_rewind refuses to take anything from a server without it.
    "full_page_writes": "on",
    "shared_buffers": "64MB",
    "max_wal_senders": "20",
    "max_replication_slots": "20",
    "synchronous_commit": "on",
}
_SECONDS = 60.0


@dataclass
class Member:
    """One of the three. server: as it would be without Patroni; rest: port of Patroni's own interface."""

    server: Server
    rest: int
    config: Path
    process: subprocess.Popen[bytes] | None = None
    stopped: list[int] = field(default_factory=list)


class Cluster:
    """Has what a Server has, and means its leader. slots: permanent ones; synchronous: a commit is told to its client when a standby has it."""

    def __init__(self, programs: Path, slots: Mapping[str, Any] | None = None, synchronous: bool = True) -> None:
        self.bin, self.slots, self.synchronous = programs, dict(slots or {}), synchronous
        self.fleet = Fleet()
        self.members: list[Member] = []
        self._etcd: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Cluster:
        self.fleet.__enter__()
        try:
            self._start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.let_go()
        for member in self.members:
            if member.process is not None:
                # Patroni would wait for a last checkpoint, and for the others.
                member.process.kill()
                member.process.wait(30)
            self._kill_server(member)
        if self._etcd is not None:
            self._etcd.kill()
            self._etcd.wait(30)
        self.fleet.__exit__(kind, error, trace)

    def _start(self) -> None:
        if shutil.which("etcd") is None:
            raise ProgramsError("etcd is not installed; run: apt-get install etcd-server")
        top = self.fleet.top
        library = reachable(patroni_library(), top / "patroni")
        client, peer = free_port(), free_port()
        home = self._folder("etcd")
        self._etcd = spawn(
            [
                *(str(shutil.which("etcd")), "--data-dir", str(home / "data")),
                *("--listen-client-urls", f"http://127.0.0.1:{client}", "--advertise-client-urls", f"http://127.0.0.1:{client}"),
                *("--listen-peer-urls", f"http://127.0.0.1:{peer}", "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}"),
                *("--initial-cluster", f"default=http://127.0.0.1:{peer}", "--log-level", "warn", "--unsafe-no-fsync"),
            ],
            home,
            log=home / "log",
        )
        for name in NAMES:
            self.members.append(self._member(name, f"127.0.0.1:{client}"))
        for number, member in enumerate(self.members):
            member.process = spawn(
                [str(PYTHON), "-m", "patroni", str(member.config)],
                member.server.home,
                log=member.server.home / "log",
                environment={"PYTHONPATH": str(library)},
            )
            if not number:
                self._wait(lambda: bool(self._roles()), "the first leader")
        self._wait(lambda: sorted(self._streaming()) == sorted(NAMES[1:]) and self._safe(), "its replicas")

    def _folder(self, name: str) -> Path:
        home = self.fleet.top / name
        home.mkdir()
        if os.geteuid() == 0:
            owner = pwd.getpwnam("postgres")
            os.chown(home, owner.pw_uid, owner.pw_gid)
        return home

    def _member(self, name: str, etcd: str) -> Member:
        home = self._folder(name)
        server = Server(
            name, reachable(self.bin.parent, self.fleet.top / f"programs-{self.bin.parent.name}") / self.bin.name, home, free_port()
        )
        rest = free_port()
        accounts = {
            "superuser": {"username": "postgres", "password": PASSWORD},
            "replication": {"username": "replicator", "password": PASSWORD},
            "rewind": {"username": "rewinder", "password": PASSWORD},
        }
        decided = {
            "ttl": 20,
            "loop_wait": 1,
            "retry_timeout": 3,
            "primary_start_timeout": 0,
            "maximum_lag_on_failover": 1 << 40,
            "synchronous_mode": self.synchronous,
            "slots": self.slots,
            "postgresql": {"use_pg_rewind": True, "use_slots": True, "parameters": {**_PARAMETERS, "hot_standby_feedback": "on"}},
        }
        config = {
            "scope": "main",
            "name": name,
            "log": {"level": "INFO"},
            "restapi": {"listen": f"127.0.0.1:{rest}", "connect_address": f"127.0.0.1:{rest}"},
            "etcd3": {"hosts": [etcd]},
            "bootstrap": {
                "dcs": decided,
                "initdb": [{"encoding": "UTF8"}, {"locale": "C.UTF-8"}, "data-checksums", "no-sync"],
            },
            "postgresql": {
                "listen": f"127.0.0.1:{server.port}",
                "connect_address": f"127.0.0.1:{server.port}",
                "bin_dir": str(server.bin),
                "data_dir": str(server.data),
                "pgpass": str(home / "pgpass"),
                "authentication": accounts,
                "parameters": {"unix_socket_directories": str(home)},
                "pg_hba": [
                    "local all all trust",
                    "host all all 127.0.0.1/32 scram-sha-256",
                    "host replication all 127.0.0.1/32 scram-sha-256",
                ],
            },
        }
        path = home / "patroni.json"
        path.write_text(json.dumps(config))
        path.chmod(0o644)
        return Member(server, rest, path)

    @property
    def leader(self) -> Member:
        """Who takes writes now; waited for."""
        self._wait(lambda: bool(self._roles()), "a leader")
        return self._roles()[0]

    @property
    def port(self) -> int:
        """Of the leader."""
        return self.leader.server.port

    def args(self, dbname: str, user: str = "postgres", password: str | None = PASSWORD, **more: Any) -> dict[str, Any]:
        """The module argument ``source`` or ``target``: all members, whoever leads."""
        ports = ",".join(str(member.server.port) for member in self.members)
        hosts = ",".join("127.0.0.1" for _member in self.members)
        dsn = f"host={hosts} port={ports} dbname={dbname} user={user} sslmode=disable target_session_attrs=read-write"
        return {"dsn": dsn, "password": password, **more}

    def connect(self, dbname: str = "postgres") -> psycopg.Connection[Any]:
        """A superuser's connection to the leader."""
        return self.leader.server.connect(dbname)

    def execute(self, dbname: str, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements on the leader; rows of the last one."""
        return self.leader.server.execute(dbname, *statements)

    def freeze_replicas(self) -> None:
        """From now on no replica hears of anything that the leader writes, until it has gone."""
        lead = self.leader
        for member in self.members:
            if member is lead:
                continue
            member.stopped = [
                row[0] for row in member.server.execute("postgres", "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walreceiver'")
            ]
            for pid in member.stopped:
                os.kill(pid, signal.SIGSTOP)

    def let_go(self, *signals: signal.Signals) -> None:
        """The end of :meth:`freeze_replicas`. signals: that they get first."""
        for member in self.members:
            for pid in member.stopped:
                with suppress(ProcessLookupError):
                    for number in (*signals, signal.SIGCONT):
                        os.kill(pid, number)
            member.stopped = []

    def fail_over(self) -> Member:
        """kill -9 of the leader's server; returns the new leader once it takes writes and is followed again."""
        old = self.leader
        self._kill_server(old)
        # What has reached a machine and not its replica is lost too.
        self.let_go(signal.SIGTERM)
        self._wait(lambda: any(member is not old for member in self._roles()), "another leader")
        return self.leader

    def whole(self) -> None:
        """Wait until both replicas follow the leader, have all that it had written when this was called, and one of them may succeed it."""
        # Following alone says nothing: commits that do not wait for a replica (synchronous_commit = off) may be far ahead of it.
        message = "SELECT pg_logical_emit_message(true, 'cutover test', '')::text"
        written = str(self.execute("postgres", "SET synchronous_commit = local", message)[0][0])
        self._wait(lambda: len(self._streaming(written)) == len(NAMES) - 1 and self._safe(), "all members")

    def _kill_server(self, member: Member) -> None:
        """All of its processes, as when a machine loses its power: one that is busy would not notice at once that its postmaster is gone."""
        with suppress(OSError, ValueError, IndexError):
            pid = member.server.pid
            if str(member.server.data) not in Path(f"/proc/{pid}/cmdline").read_text():
                return
            os.kill(pid, signal.SIGSTOP)
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                with suppress(ProcessLookupError):
                    os.kill(int(child), signal.SIGKILL)
            os.kill(pid, signal.SIGKILL)

    def _roles(self) -> list[Member]:
        """Members that lead, as they say themselves."""
        return [member for member in self.members if _status(member.rest, "/primary") == 200 and self._writable(member)]

    def _writable(self, member: Member) -> bool:
        try:
            return member.server.execute("postgres", "SELECT pg_is_in_recovery()") == [(False,)]
        except psycopg.OperationalError:
            return False

    def _streaming(self, written: str = "0/0") -> list[str]:
        """Replicas that follow the leader and have on their disks what is written up to there."""
        query = f"SELECT application_name::text FROM pg_stat_replication WHERE state = 'streaming' AND flush_lsn >= '{written}'"
        try:
            rows = self.execute("postgres", query)
        except psycopg.OperationalError:
            return []
        return [row[0] for row in rows if row[0] in NAMES]

    def _safe(self) -> bool:
        """Whether commits wait for a replica that may take over, and every replica has the permanent slots and can decode from where they stand."""
        if self.synchronous and not any(_status(member.rest, "/synchronous") == 200 for member in self.members):
            return False
        lead = self.leader
        wanted = sorted(self.slots)
        if wanted:
            # It writes down which transactions run, which happens every 15 seconds otherwise; a replica's decoding begins to know them all at the second one.
            self.execute("postgres", "CHECKPOINT")
        query = """SELECT slot_name::text FROM pg_replication_slots WHERE slot_type = 'logical'
            AND replace(restart_lsn::text, '/', '-') || '.snap' IN (SELECT name FROM pg_ls_logicalsnapdir()) ORDER BY 1"""
        try:
            return all(
                [row[0] for row in member.server.execute("postgres", query)] == wanted for member in self.members if member is not lead
            )
        except psycopg.OperationalError:
            return False

    def patch(self, **decided: Any) -> None:
        """Change what the members have decided on."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.leader.rest}/config",
            data=json.dumps(decided).encode(),
            method="PATCH",
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            answer.read()

    def declare(self, **slots: Any) -> None:
        """Permanent slots, and wait until every member has them."""
        gone = dict.fromkeys(self.slots)
        self.slots = slots
        self.patch(slots={**gone, **slots})
        self.whole()

    def _wait(self, done: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _SECONDS
        while not done():
            for member in self.members:
                if member.process is not None and member.process.poll() is not None:
                    raise ServerError(f"Patroni of {member.server.name} has ended: {_end(member.server.home)}")
            if time.monotonic() > deadline:
                logs = "\n".join(f"{member.server.name}: {_end(member.server.home)}" for member in self.members)
                raise ServerError(f"no sign of {what} after {_SECONDS:.0f} s\n{logs}")
            time.sleep(0.1)


def patroni_library() -> Path:
    """Folder with Patroni and what it needs, for PYTHON; fetched when it is missing. Raises ProgramsError."""
    digest = hashlib.sha256(REQUIREMENTS.read_bytes() + _version().encode()).hexdigest()[:16]
    return installed(f"patroni-{digest}", _fetch_patroni)


def _version() -> str:
    done = subprocess.run([str(PYTHON), "-c", "import sys; print(sys.version_info[:2])"], capture_output=True, text=True, check=True)
    return done.stdout


def _fetch_patroni(folder: Path) -> None:
    command = (
        *(sys.executable, "-m", "pip", "--python", str(PYTHON), "install", "-q", "--disable-pip-version-check"),
        *("--no-compile", "--require-hashes", "--target", str(folder / "new"), "-r", str(REQUIREMENTS)),
    )
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise ProgramsError(f"{' '.join(command)} failed: {(done.stderr or done.stdout).strip()[-600:]}")
    for path in (folder / "new").iterdir():
        path.rename(folder / path.name)
    (folder / "new").rmdir()


def _status(port: int, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def _end(home: Path) -> str:
    log = home / "log"
    return log.read_text(errors="replace")[-1500:] if log.exists() else ""
