"""The service with its two real processes: whoever dies or hangs is replaced, and none of them outlives it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream import config_file, reporter, service
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.config import Config
from integration.conftest import Pair
from integration.transfer import streams
from integration.transfer.cases import wait_until

ROOT = Path(__file__).parents[3]
MODULE = service.__name__


class Served:
    """A service as systemd would start it."""

    def __init__(self, folder: Path, config: Config, **more: Any) -> None:
        self.folder, self.config = folder, config
        self.path = folder / "stream.json"
        self.path.write_text(json.dumps({**config_file.arguments(config), **more}))
        self.path.chmod(0o600)
        self.link = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.link.bind(str(folder / "notify"))
        self.link.setblocking(False)
        self.told: list[str] = []
        self.log = (folder / "log").open("ab")
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT / ".collections"),
            "NOTIFY_SOCKET": str(folder / "notify"),
            "WATCHDOG_USEC": "1000000",
        }
        self.process = subprocess.Popen([sys.executable, "-m", MODULE, str(self.path)], env=environment, stdout=self.log, stderr=self.log)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(30)
        self.link.close()
        self.log.close()

    def heard(self, text: str) -> bool:
        """Whether systemd was told."""
        try:
            while True:
                self.told += self.link.recv(4096).decode().splitlines()
        except BlockingIOError:
            return any(text in line for line in self.told)

    def file(self, role: str) -> dict[str, Any]:
        path = self.config.spool / f"{role}.json"
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return found

    def pid(self, role: str) -> int:
        """Of the process that writes the file now, 0 while there is none."""
        found = int(self.file(role).get("pid") or 0)
        try:
            return found if str(self.path) in Path(f"/proc/{found}/cmdline").read_text() else 0
        except OSError:
            return 0

    def text(self) -> str:
        return (self.folder / "log").read_text()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def served(pair: Pair, tmp_path: Path) -> Iterator[Served]:
    with streams.slots_dropped(pair.source_server, pair.dbname):
        pair.on_source("CREATE TABLE t (id int PRIMARY KEY)", streams.Load.TABLE)
        streams.make_slots(pair)
        config = streams.config_of(pair, tmp_path / "spool", metrics_port=free_port())
        made = Served(tmp_path, config, heartbeat_seconds=4, metrics_file=str(tmp_path / "stream.prom"))
        try:
            wait_until(lambda: made.file("receiver").get("state") == "streaming" and made.pid("applier") > 0, "both processes")
            yield made
        finally:
            made.close()


def test_whoever_dies_or_hangs_is_replaced_and_nothing_is_lost(pair: Pair, served: Served) -> None:
    assert served.heard("READY=1")
    receiver, applier = served.pid("receiver"), served.pid("applier")
    with streams.Load(pair):
        os.kill(receiver, signal.SIGKILL)
        wait_until(lambda: served.pid("receiver") not in (0, receiver), "another receiver")
        assert served.pid("applier") == applier
        os.kill(applier, signal.SIGSTOP)
        wait_until(lambda: served.pid("applier") not in (0, applier), "another applier")
        assert not Path(f"/proc/{applier}").exists()
    assert "the receiver has ended with signal SIGKILL; it is started again in 1 s" in served.text()
    assert "the applier (pid" in served.text() and "has not shown life for" in served.text()
    # Its datagrams had nobody to read them meanwhile, which did not keep it from its work.
    wait_until(lambda: served.heard("WATCHDOG=1") and served.heard("STATUS="), "signs of life")
    streams.wait_for_all(pair, served.config.spool)
    second, third = served.pid("receiver"), served.pid("applier")
    began = time.monotonic()
    served.process.terminate()
    assert served.process.wait(15) == 0 and time.monotonic() - began < 10
    assert served.heard("STOPPING=1") and not Path(f"/proc/{second}").exists() and not Path(f"/proc/{third}").exists()
    assert served.file("receiver")["state"] == "stopped"
    want = streams.wanted(pair)
    assert streams.received(served.config.spool) == want and len(want) > 100


def test_its_processes_do_not_outlive_it(served: Served) -> None:
    pids = [served.pid(role) for role in service.ROLES]
    served.process.kill()
    served.process.wait(10)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "the end of its processes", 20)


def test_figures_are_offered_and_written(pair: Pair, served: Served) -> None:
    address = f"http://127.0.0.1:{served.config.metrics_port}"
    name = f'{{direction="forward",slot="{served.config.slot}"'

    def metrics() -> str:
        with urllib.request.urlopen(f"{address}/metrics", timeout=5) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            text: str = answer.read().decode()
            return text

    wait_until(lambda: f'cutover_stream_up{name},process="receiver"}} 1\n' in metrics(), "figures")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{address}/", timeout=5)
    pair.on_source("INSERT INTO t SELECT generate_series(1, 100)")
    wait_until(lambda: f"cutover_stream_received_transactions_total{name}}} 1\n" in metrics(), "the transaction")
    path = served.folder / "stream.prom"
    assert path.stat().st_mode & 0o777 == 0o644
    wait_until(lambda: f"cutover_stream_received_transactions_total{name}}} 1\n" in path.read_text(), "the transaction in the file")
    assert not list(served.folder.glob("*.part"))
    found = reporter.status(served.config, 0.6)
    # No copy was made, so nothing says yet what is applied.
    assert (
        found["state"] == "waiting_for_copy" and found["applied_lsn"] in (None, "0/0") and found["slot_health"]["wal_status"] == "reserved"
    )


def test_a_problem_is_told_and_tried_again_later(pair: Pair, served: Served) -> None:
    pair.on_source(f"SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{served.config.slot}'")
    drop = f"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{served.config.slot}' AND NOT active"
    wait_until(lambda: bool(pair.on_source(drop)) or served.pid("receiver") == 0, "the end of the slot", 20)
    wait_until(lambda: served.file("receiver").get("state") == "failed", "the problem")
    assert served.file("receiver")["problem"]["kind"] == "slot_lost"
    wait_until(
        lambda: "the receiver has ended with a problem that a person must mend; it is started again in 30 s" in served.text(),
        "a word of it",
    )
    assert served.pid("applier") > 0 and "throw-away" not in served.text()
