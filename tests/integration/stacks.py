"""What the tests of the provisioning engine share: runs of it against a local cloud's API, and what it wrote there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner.api import Api
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner.errors import HetznerError
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner.stack import Options, Result, Stack
from localcloud.api.testing import LocalApi

ROOT = Path(__file__).resolve().parents[2]
_RUN = """
import json, sys
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner.stack import connect
connect({"name": sys.argv[3], "api_token": sys.argv[1], "api_endpoint": sys.argv[2]}).present(json.load(sys.stdin))
"""


@contextmanager
def stack(cloud: LocalApi, name: str = "site", **options: Any) -> Iterator[Stack]:
    """A stack and its connection. options: fields of Options."""
    api = Api(cloud.token, cloud.endpoint, timeout=30)
    try:
        yield Stack(api, name, Options(**options))
    finally:
        api.close()


def present(cloud: LocalApi, declared: dict[str, Any], check: bool = False, name: str = "site", **options: Any) -> Result:
    """Make a stack as declared, or with ``check`` only plan it."""
    with stack(cloud, name, **options) as one:
        return one.present(declared, check)


def writes(cloud: LocalApi) -> list[str]:
    """Method and path of every request so far that is not a read."""
    return [f"{one['method']} {one['path']}" for one in cloud.journal() if one["method"] != "GET"]


def refused(cloud: LocalApi, declared: dict[str, Any], **options: Any) -> HetznerError:
    """The error of a run that must end before its first write."""
    before = writes(cloud)
    with pytest.raises(HetznerError) as caught:
        present(cloud, declared, **options)
    assert writes(cloud) == before
    return caught.value


def get(cloud: LocalApi, path: str) -> Any:
    """What the API answers."""
    return cloud.call("GET", path).json()


def actions(result: Result) -> dict[str, str]:
    """{key: action} of a result's plan."""
    return {change.key: change.action for change in result.changes}


def kill(cloud: LocalApi, declared: dict[str, Any], reached: Callable[[list[str]], bool], seconds: float = 0.0, name: str = "site") -> None:
    """Begin a run in a process of its own, and kill it so many seconds after what it wrote has reached a point."""
    first = subprocess.Popen(
        [sys.executable, "-c", _RUN, cloud.token, cloud.endpoint, name],
        stdin=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT / ".collections")},
    )
    assert first.stdin is not None
    first.stdin.write(json.dumps(declared).encode())
    first.stdin.close()
    deadline = time.monotonic() + 60
    while not reached(writes(cloud)) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(seconds)
    assert first.poll() is None
    first.kill()
    first.wait(10)


def play(cloud: LocalApi, folder: Path, playbook: str, variables: dict[str, Any], *arguments: str) -> str:
    """All that ansible-playbook printed for a playbook that has to succeed. folder: for its files."""
    (folder / "play.yml").write_text(playbook)
    (folder / "vars.json").write_text(json.dumps({**variables, "ansible_python_interpreter": sys.executable}))
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    done = subprocess.run(
        [program, "-i", "localhost,", "-c", "local", "-e", f"@{folder}/vars.json", *arguments, f"{folder}/play.yml"],
        cwd=ROOT,
        env={**os.environ, "HCLOUD_TOKEN": cloud.token, "HCLOUD_ENDPOINT": cloud.endpoint},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    return done.stdout + done.stderr
