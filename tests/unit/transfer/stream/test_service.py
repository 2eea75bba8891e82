"""Rules of the service, and its small talk with systemd."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream import files, service
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(-15, 255), st.floats(0, 1e6), st.sampled_from([0.0, 1.0, 2.0, 16.0, 30.0]))
def test_a_process_that_fails_at_once_is_not_started_in_circles(code: int, lived: float, before: float) -> None:
    pause = service.pause_after(code, lived, before)
    if code == service.PROBLEM:
        assert pause == 30.0
    elif lived >= 60 or not before:
        assert pause == 1.0
    else:
        assert before <= pause <= 30.0


def test_a_crash_is_mended_soon_and_a_problem_later() -> None:
    pause, seen = 0.0, []
    for _unused in range(7):
        pause = service.pause_after(service.FAULT, 0.1, pause)
        seen.append(pause)
    assert seen == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert service.pause_after(-9, 3600.0, 30.0) == 1.0 and service.pause_after(service.PROBLEM, 0.1, 0.0) == 30.0


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    address = f"@{tmp_path}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{address[1:]}" if abstract else address)
        listener.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        monkeypatch.setenv("WATCHDOG_USEC", "200000")
        notifier = service.Notifier()
        notifier.tell("READY=1\nSTATUS=fine")
        assert listener.recv(100) == b"READY=1\nSTATUS=fine"
        assert notifier.beat() and not notifier.beat()
        time.sleep(0.11)
        assert notifier.beat()
        assert listener.recv(100) == b"WATCHDOG=1" and listener.recv(100) == b"WATCHDOG=1"
        # A reader that does not read keeps nobody waiting.
        began = time.monotonic()
        for _unused in range(1000):
            notifier.tell("STATUS=" + "x" * 1000)
        assert time.monotonic() - began < 5
    # Nobody listens any more: nothing happens.
    notifier.tell("STATUS=x")


def test_without_systemd_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    notifier = service.Notifier()
    notifier.beat()
    notifier.tell("READY=1")
    assert notifier.every == 0.0
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid() + 1))
    assert service.Notifier().every == 0.0


def test_whoever_asks_whether_to_stop_shows_life(tmp_path: Path) -> None:
    path = service.alive_file(tmp_path, "applier")
    stop = service.Alive(path, os.getppid())
    assert not stop() and path.exists()
    os.utime(path, (1, 1))
    assert not stop() and path.stat().st_mtime == 1
    time.sleep(1.05)
    assert not stop() and path.stat().st_mtime > 1
    assert service.Alive(path, os.getppid() + 1)(), "the parent is gone"
    stop.ask(15, None)
    assert stop()


MODULE = "ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.service"


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[4] / ".collections")}
    return subprocess.run(
        [sys.executable, "-m", MODULE, *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_wrong_use_and_wrong_configuration_have_their_own_status(tmp_path: Path) -> None:
    for arguments in ((), ("a", "b"), ("a", "receiver", "c")):
        done = call(*arguments)
        assert done.returncode == 64 and "CONFIG.json" in done.stderr
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"direction": "forward", "password": "secret-one"}))
    path.chmod(0o600)
    done = call(str(path))
    assert done.returncode == 78 and "unknown key" in done.stderr and "secret" not in done.stderr


def test_files_are_replaced_whole_and_read_again_when_torn(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    files.show(path, {"a": 1})
    assert files.load(path) == {"a": 1} and path.stat().st_mode & 0o777 == 0o600 and len(list(tmp_path.iterdir())) == 1
    assert files.load(tmp_path / "none") is None
    path.write_text('{"a": ')
    assert files.load(path) is None
    files.show(tmp_path / "missing" / "state.json", {})
