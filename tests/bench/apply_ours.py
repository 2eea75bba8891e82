"""Our stream in a benchmark: a receiver and an applier, each a process as the service has it, until a position is applied. Figures go to stdout."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import session
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.endpoint import Endpoint
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream import applier, files, receiver, state
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.config import Config
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.pgoutput import lsn_number


def child(config: Config, role: str, go: int, other: int) -> int:
    """Start one of the two processes, which begins when the other end of ``go`` is closed; its pid."""
    pid = os.fork()
    if pid:
        return pid
    os.close(other)
    os.read(go, 1)
    stopped = False

    def stop(_number: int, _frame: Any) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    try:
        (receiver.run if role == "receiver" else applier.run)(config, lambda: stopped)
    except BaseException as error:
        print(f"{role}: {error!r}", file=sys.stderr, flush=True)
        os._exit(1)
    finally:
        os._exit(0)


def cpu(pid: int) -> float:
    """CPU seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak(pid: int) -> float:
    """Largest memory of a process, MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)


def latency(config: Config, rounds: int) -> list[float]:
    """Milliseconds from a commit on the sender until its row is seen on the receiver, one at a time while nothing else is written."""
    found = []
    with (
        session.connect(config.sending, application_name="bench") as source,
        session.connect(config.receiving, application_name="bench") as target,
    ):
        source.execute("SET synchronous_commit = on")
        for number in range(rounds):
            source.execute("INSERT INTO public.marker VALUES (%s)", (-1 - number,))
            began = time.perf_counter()
            while not target.execute("SELECT FROM public.marker WHERE id = %s", (-1 - number,)).fetchall():
                time.sleep(0.0005)
            found.append((time.perf_counter() - began) * 1000)
            time.sleep(0.02)
    return found


def main() -> None:
    """stdin: the stream's configuration as JSON, and ``until``: a position; the stream ends when that is applied."""
    given = json.load(sys.stdin)
    until = lsn_number(given.pop("until"))
    config = Config(
        "forward",
        Endpoint.from_args(given["source"]),
        Endpoint.from_args(given["target"]),
        given["slot"],
        given["publication"],
        Path(given["spool"]),
    )
    go, start = os.pipe()
    pids = {role: child(config, role, go, start) for role in ("receiver", "applier")}
    os.close(start)
    began = time.monotonic()
    spooled = 0.0
    with session.connect(config.receiving, application_name="bench", read_only=True) as conn:
        while True:
            found = state.read(conn, "forward")
            if found is not None and found.applied >= until:
                break
            if found is not None and found.problem is not None:
                raise SystemExit(f"the stream stands still: {found.problem}")
            told = files.load(config.spool / "receiver.json")
            if not spooled and told and lsn_number(told["spooled_lsn"]) >= until:
                spooled = time.monotonic() - began
            if any(os.waitpid(pid, os.WNOHANG)[0] for pid in pids.values()):
                raise SystemExit("a process of the stream has ended")
            time.sleep(0.02)
    seconds = time.monotonic() - began
    facts = {role: {"cpu": cpu(pid), "mb": peak(pid)} for role, pid in pids.items()}
    latencies = latency(config, given["latency_rounds"])
    for pid in pids.values():
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
    figures = json.loads((config.spool / "applier.json").read_text())
    json.dump(
        {
            "seconds": seconds,
            "spooled": spooled,
            "latencies": latencies,
            **facts,
            **{name: figures[name] for name in ("batches", "exact_batches")},
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
