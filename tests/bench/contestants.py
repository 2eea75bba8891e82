"""Ways to move a database, each a call that returns how long it took and what it cost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pgservers

from . import content
from .usage import run


@dataclass(frozen=True)
class Course:
    """Where a contestant runs. folder: empty, its own, removed afterwards."""

    source: pgservers.Server
    target: pgservers.Server
    source_db: str
    target_db: str
    workers: int
    folder: Path


@dataclass(frozen=True)
class Outcome:
    """seconds: wall; cpu: of all client programs; python_cpu: of our interpreters among them; worker_mb: largest worker; steps: our own times."""

    seconds: float
    cpu: float
    python_cpu: float = 0.0
    worker_mb: float = 0.0
    steps: Mapping[str, float] = field(default_factory=dict)


def uri(server: pgservers.Server, dbname: str) -> str:
    """libpq URI over TCP without TLS."""
    return f"postgresql://postgres:{pgservers.PASSWORD}@127.0.0.1:{server.port}/{dbname}?sslmode=disable"


def allow_tls(server: pgservers.Server) -> None:
    """Let clients that ask for it speak TLS, with a certificate that the server signs itself."""
    owner = server.data.stat()
    key, certificate = server.home / "server.key", server.home / "server.crt"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        + ["-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=True,
    )
    key.chmod(0o600)
    for path in (key, certificate):
        os.chown(path, owner.st_uid, owner.st_gid)
    server.execute(
        "postgres",
        f"ALTER SYSTEM SET ssl_key_file = '{key}'",
        f"ALTER SYSTEM SET ssl_cert_file = '{certificate}'",
        "ALTER SYSTEM SET ssl = on",
        "SELECT pg_reload_conf()",
    )


def ours(course: Course) -> Outcome:
    """Schema, rows with indexes, the rest of the schema, sequences."""
    return _ours(course)


def ours_same_storage(course: Course) -> Outcome:
    """With long values stored as the target's setting has it, as the others do."""
    return _ours(course, copy={"toast_compression": "server"})


def ours_tls(course: Course) -> Outcome:
    """Over TLS from the source, as from a hosted one."""
    return _ours(course, sslmode="require")


def ours_rows(course: Course) -> Outcome:
    """Rows only, stored as the raw pipe does."""
    return _ours(course, rows_only=True, exclude=["public.small_*"], copy={"toast_compression": "server"})


def _ours(course: Course, sslmode: str = "disable", **more: Any) -> Outcome:
    args = {
        "source": course.source.args(course.source_db, sslmode=sslmode),
        "target": course.target.args(course.target_db),
        "workers": course.workers,
        **more,
    }
    done = run([sys.executable, "-m", "bench.ours"], given=json.dumps(args), watch=True)
    said = json.loads(done.output)
    steps = {name: round(step["seconds"], 2) for name, step in said["steps"].items()}
    return Outcome(done.seconds, done.cpu, said["python_cpu"], max(done.peaks.values(), default=0.0), steps)


def pgcopydb(course: Course) -> Outcome:
    """pgcopydb clone with as many jobs for tables and for indexes as we have workers."""
    command = ["pgcopydb", "clone", "--no-owner", "--table-jobs", str(course.workers), "--index-jobs", str(course.workers)]
    command += [
        "--dir",
        str(course.folder / "work"),
        "--source",
        uri(course.source, course.source_db),
        "--target",
        uri(course.target, course.target_db),
    ]
    done = run(command, environment={"XDG_DATA_HOME": str(course.folder)})
    return Outcome(done.seconds, done.cpu)


def pg_dump(course: Course) -> Outcome:
    """pg_dump in directory format, then pg_restore, both in parallel."""
    return _dumped(course, "")


def pg_dump_uncompressed(course: Course) -> Outcome:
    """The same without compressing what goes to the disk and comes back at once."""
    return _dumped(course, "-Z0")


def _dumped(course: Course, compression: str) -> Outcome:
    folder = course.folder / "dump"
    command = (
        f"'{course.source.bin}/pg_dump' -Fd -j{course.workers} {compression} -f '{folder}' '{uri(course.source, course.source_db)}'\n"
        f"'{course.target.bin}/pg_restore' -j{course.workers} --no-owner -d '{uri(course.target, course.target_db)}' '{folder}'"
    )
    done = run(command)
    return Outcome(done.seconds, done.cpu)


def raw_pipe(course: Course) -> Outcome:
    """psql to psql in binary, one pair per table, as many at a time as we have workers, largest table first: no ledger, no snapshot, no retry."""
    names = [row[0] for row in course.source.execute(course.source_db, content.TABLES) if not row[0].startswith("public.small_")]
    psql = f"'{course.source.bin}/psql' -qXAt -v ON_ERROR_STOP=1"
    source, target = uri(course.source, course.source_db), uri(course.target, course.target_db)
    queue, lock = list(names), threading.Lock()

    def stream() -> None:
        while True:
            with lock:
                if not queue:
                    return
                name = queue.pop(0)
            subprocess.run(
                [
                    "bash",
                    "-o",
                    "pipefail",
                    "-ec",
                    f"{psql} -c 'COPY {name} TO STDOUT (FORMAT binary)' '{source}' | "
                    f"PGOPTIONS='-c synchronous_commit=off -c session_replication_role=replica' {psql} -c 'COPY {name} FROM STDIN (FORMAT binary)' '{target}'",
                ],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=1800,
                check=True,
            )

    before, began = os.times(), time.monotonic()
    with ThreadPoolExecutor(course.workers) as pool:
        for done in [pool.submit(stream) for _unused in range(course.workers)]:
            done.result()
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Outcome(time.monotonic() - began, cpu)
