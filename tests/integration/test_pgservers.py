"""The servers that the other tests run on: each major starts, has what the cases need, and leaves nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pgservers
import pytest
from integration.conftest import MajorServers


@pytest.mark.parametrize("major", pgservers.MAJORS)
def test_server_of_each_major_runs_with_contrib_and_icu(major_servers: MajorServers, clients: Path, major: int) -> None:
    (server,) = major_servers(major)
    assert server.execute("postgres", "SHOW server_version_num")[0][0].startswith(str(major))
    assert server.execute("postgres", "SHOW wal_level") == [("logical",)]
    wanted = {"hstore", "ltree", "citext", "amcheck", "pgcrypto", "postgres_fdw"}
    assert wanted <= {name for (name,) in server.execute("postgres", "SELECT name FROM pg_available_extensions")}
    assert server.execute("postgres", "SELECT 'a' < 'B' COLLATE \"en-x-icu\"") == [(True,)]
    address = {"PGHOST": "127.0.0.1", "PGPORT": str(server.port), "PGUSER": "postgres", "PGPASSWORD": pgservers.PASSWORD}
    dumped = subprocess.run(
        [str(clients / "pg_dump"), "--schema-only", "postgres"], env=address, capture_output=True, timeout=60, check=True
    )
    assert b"PostgreSQL database dump complete" in dumped.stdout
    assert major_servers(major) == [server]


def test_unknown_major_is_refused_by_name() -> None:
    with pytest.raises(pgservers.ProgramsError, match="PostgreSQL 9 is known; known: 14, 15, 16, 17, 18"):
        pgservers.server_programs(9)


def test_server_ends_with_a_killed_run_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for folder in tmp_path.parents:
        if folder.name.startswith("pytest-"):  # pytest closes its folders to other users, and the server runs as one
            folder.chmod(0o755)
    program = textwrap.dedent(f"""
        import pgservers, pathlib, time
        with pgservers.Fleet(parent=pathlib.Path({str(tmp_path)!r})) as fleet:
            (server,) = fleet.start(one=pgservers.debian_programs())
            print(server.pid, flush=True)
            time.sleep(300)
    """)
    run = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    postmaster = Path(f"/proc/{run.stdout.readline().strip()}")
    assert (postmaster / "cmdline").exists()
    run.send_signal(signal.SIGKILL)
    run.wait(30)
    deadline = time.monotonic() + 60
    while (postmaster / "cmdline").exists() and (postmaster / "cmdline").read_bytes():
        assert time.monotonic() < deadline, "the server outlives the run that was killed"
        time.sleep(0.1)
    (left,) = tmp_path.glob("cutover-pg-*")
    with pgservers.Fleet(parent=tmp_path):
        assert not left.exists()
    assert not list(tmp_path.glob("cutover-pg-*"))
