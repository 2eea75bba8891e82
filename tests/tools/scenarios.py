"""``scenarios.py [ROLE]``: every molecule scenario, or one, on machines of a local cloud that is made for the run and gone after it.

``MOLECULE_JOBS`` (2): how many at a time. ``MOLECULE_IMAGE`` (debian-12): what the machines are made of.
Each leaves ``.cache/molecule/ROLE/log``, and the time of every task in ``journal.jsonl`` beside it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType

TOP = Path(__file__).resolve().parents[2]
STATE = TOP / ".cache/molecule"
MIRROR = Path("/var/cache/cutover-localcloud/mirror")
NAME, INDEX = "molecule", 20
# Key, known hosts and connections of the run. A short path: sockets have 108 bytes. A fixed one: the next run takes all of it from what a killed one left.
RUN = Path("/run/cutover-molecule")
# The longest first, so that none runs alone at the end.
ORDER = ("postgres_patroni", "base_hardening", "change_stream", "pm2_node_app", "caddy", "redis")
LIMIT = 1200


def scenarios(only: str) -> list[str]:
    """All scenarios in the order of running, or the one that is asked for."""
    found = [path.parent.name for path in sorted((TOP / "molecule").glob("*/molecule.yml"))]
    if only and only not in found:
        sys.exit(f"no scenario {only!r} in molecule/; there are: {', '.join(found)}")
    return [only] if only else sorted(found, key=lambda role: ORDER.index(role) if role in ORDER else len(ORDER))


def python(module: str, *arguments: str) -> str:
    """Run one of the test tools; what it says on failure ends this run."""
    done = subprocess.run([sys.executable, "-m", module, *arguments], cwd=TOP, capture_output=True, text=True, check=False, timeout=LIMIT)
    if done.returncode:
        sys.exit(f"{module} {arguments[0]} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


class Runs:
    """The scenarios under way. Each is a session of its own with its own folder, so that ending one ends all that it started."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.processes: list[subprocess.Popen[bytes]] = []
        self.ended = self.again = False
        self.lock = threading.Lock()

    def passed(self, role: str) -> bool:
        """Run one scenario, and once more when it fails and is the first that does; True if all of it passed."""
        if self.one(role):
            return True
        with self.lock:
            if self.again or self.ended:
                return False
            self.again = True
        # What its log and journal say of the first time is what there is to look into.
        kept = STATE / f"{role}-first"
        shutil.rmtree(kept, ignore_errors=True)
        (STATE / role).rename(kept)
        print(f"  {role:<22} RERUN; the first time is in {kept.relative_to(TOP)}", flush=True)
        shutil.rmtree(RUN / role, ignore_errors=True)
        return self.one(role)

    def one(self, role: str) -> bool:
        """Run one scenario from blank machines to none; True if all of it passed."""
        state, run = STATE / role, RUN / role
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir(parents=True)
        run.mkdir()
        (state / "journal.jsonl").touch()  # the callback adds to a journal; it begins none
        environment = self.environment | {
            "MOLECULE_RUN": str(run),
            "MOLECULE_EPHEMERAL_DIRECTORY": str(state / "state"),
            "CUTOVER_JOURNAL": str(state),
        }
        # The signal: no scenario outlives a killed run.
        command = [
            "setpriv",
            "--pdeathsig",
            "TERM",
            "molecule",
            "--base-config",
            "molecule/shared/base.yml",
            "test",
            "--scenario-name",
            role,
        ]
        began = time.monotonic()
        with (state / "log").open("wb") as log:
            with self.lock:
                if self.ended:
                    return False
                process = subprocess.Popen(
                    command,
                    cwd=TOP,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
                self.processes.append(process)
            try:
                good = process.wait(LIMIT) == 0
            except subprocess.TimeoutExpired:
                log.write(f"\nended: not finished after {LIMIT} s\n".encode())
                finish(process)
                good = False
        if self.ended:
            return False
        said = "" if good else "\n".join((state / "log").read_text(errors="replace").splitlines()[-80:]) + "\n"
        print(f"{said}  {role:<22} {'ok    ' if good else 'FAILED'} {time.monotonic() - began:4.0f} s", flush=True)
        return good

    def end(self) -> None:
        """End what still runs, and the SSH connections that are kept open for reuse."""
        with self.lock:
            self.ended = True
        for process in self.processes:
            finish(process)
        for socket in RUN.glob("*/*"):
            if socket.is_socket():
                subprocess.run(["ssh", "-o", f"ControlPath={socket}", "-O", "exit", "none"], capture_output=True, check=False, timeout=10)


def finish(process: subprocess.Popen[bytes]) -> None:
    """End a process with its whole session."""
    for sent, patience in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sent)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)


def interrupted(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    wanted = scenarios(sys.argv[1] if len(sys.argv) > 1 else "")
    signal.signal(signal.SIGTERM, interrupted)
    with Path(f"/run/lock/cutover-localcloud-{NAME}").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit("another run of the scenarios is under way on this machine: wait for its end")
        image = os.environ.get("MOLECULE_IMAGE", "debian-12")
        runs: Runs | None = None
        try:
            # A killed run left its cloud with all machines; without its token and key, what may still run of it can do nothing here.
            python("localcloud", "down", "--name", NAME)
            shutil.rmtree(RUN, ignore_errors=True)
            RUN.mkdir(mode=0o700)
            python("mirror", "build", str(MIRROR))
            python("localcloud", "up", "--name", NAME, "--index", str(INDEX), "--mirror", str(MIRROR), "--images", image, "--speed", "0")
            environment = dict(os.environ)
            for line in python("localcloud", "env", "--name", NAME).splitlines():
                name, _unused, value = line.removeprefix("export ").partition("=")
                environment[name] = shlex.split(value)[0]
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", NAME, "-f", str(RUN / "key")], check=True, timeout=30)
            environment |= {"MOLECULE_KEY": str(RUN / "key"), "MOLECULE_MIRROR": f"http://10.93.{INDEX}.1:8099", "MOLECULE_IMAGE": image}
            runs = Runs(environment)
            with ThreadPoolExecutor(max_workers=int(os.environ.get("MOLECULE_JOBS", "2"))) as pool:
                try:
                    results = list(pool.map(runs.passed, wanted))
                except KeyboardInterrupt:
                    runs.end()
                    pool.shutdown(cancel_futures=True)
                    return 130
        except KeyboardInterrupt:
            return 130
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            if runs:
                runs.end()
            python("localcloud", "down", "--name", NAME)
            shutil.rmtree(RUN, ignore_errors=True)
    failed = [role for role, good in zip(wanted, results, strict=True) if not good]
    if failed:
        print(f"molecule failed: {', '.join(failed)}; logs in {STATE.relative_to(TOP)}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
