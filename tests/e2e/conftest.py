"""One old world for all end-to-end tests, on an instance of the local cloud of its own."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from e2e.demo import ROOT, Demo, build_old_world, clear, start_cloud

NAME, INDEX = "e2e", 12


def killed_run() -> None:
    """A demo that is killed somewhere in the middle, with all its children's sessions left as they are: the next must not mind."""
    seed = int(os.environ.get("E2E_SEED", time.time()))
    seconds = random.Random(seed).uniform(5, 45)
    print(f"a demo is killed after {seconds:.1f} s (E2E_SEED={seed})")
    argv = [sys.executable, "-m", "e2e.demo", "up", "--name", NAME, "--index", str(INDEX)]
    process = subprocess.Popen(
        argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="session")
def demo() -> Iterator[Demo]:
    """The old world, serving; nothing moved yet."""
    world = Demo(NAME, INDEX)
    killed_run()
    clear(world)
    shutil.rmtree(world.artifacts, ignore_errors=True)
    build_old_world(world, start_cloud(world))
    yield world
    clear(world)


def servers(world: Demo) -> list[str]:
    """Names of all servers in the local cloud."""
    done = subprocess.run(
        [sys.executable, "-m", "localcloud", "status", "--name", world.name, "--json"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return sorted(machine["name"] for machine in json.loads(done.stdout)["machines"])


def ask_old(world: Demo, query: str) -> str:
    """What the old database answers to its own superuser."""
    state = json.loads((world.cache / "state.json").read_text())
    ssh = [
        "ssh",
        "-i",
        str(world.cache / "id_ed25519"),
        "-o",
        f"UserKnownHostsFile={world.cache / 'known_hosts'}",
        "-o",
        "StrictHostKeyChecking=accept-new",
    ]
    done = subprocess.run(
        [*ssh, f"root@{state['old_address']}", "psql", "-XAtq", "-U", "supabase_admin", "postgres"],
        input=query,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
