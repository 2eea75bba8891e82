"""``make demo``: an old world is built, moved and judged, on machines of the local cloud.

``python -m e2e.demo up|down``. Everything that a run makes is in ``.cache/demo`` (secrets, addresses) and ``artifacts/demo`` (record, report, logs);
the next run begins by removing what the last one left, however it ended.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MIRROR = Path("/var/cache/cutover-localcloud/mirror")
#: Longest life of the load client, whatever happens to this process.
CLIENT_SECONDS = 1500
#: How long the client goes on after the cutover, in seconds.
AFTERMATH = 15


class DemoError(Exception):
    """What went wrong and where to look."""


@dataclass
class Demo:
    """One demo: its name, its place in the address range, its folders. Tests use names and indices of their own."""

    name: str = "demo"
    index: int = 10
    began: float = field(default_factory=time.monotonic)

    @property
    def cache(self) -> Path:
        return ROOT / ".cache" / self.name

    @property
    def artifacts(self) -> Path:
        return ROOT / "artifacts" / self.name

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.began:6.1f} s] {text}", flush=True)

    def run(self, title: str, argv: Sequence[str], *, check: bool = True, env: dict[str, str] | None = None, show: bool = False) -> str:
        """Run a command with its output in artifacts/<name>/logs; the tail is shown when it fails. show: print lines as they come."""
        log = self.artifacts / "logs" / f"{title}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        begin = time.monotonic()
        lines: list[str] = []
        with (
            log.open("w", encoding="utf-8") as handle,
            subprocess.Popen(
                list(argv),
                cwd=ROOT,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            ) as process,
        ):
            assert process.stdout is not None
            for line in process.stdout:
                handle.write(line)
                lines.append(line)
                if show and worth_showing(line):
                    print("    " + line.rstrip(), flush=True)
        if check and process.returncode != 0:
            raise DemoError(f"{title} failed ({process.returncode}); the end of {log.relative_to(ROOT)}:\n{''.join(lines[-60:])}")
        self.say(f"{title}: {time.monotonic() - begin:.1f} s")
        return "".join(lines)

    def playbook(self, title: str, playbook: str, *extra: str, check: bool = True, inventory: str = "inventories/demo") -> str:
        return self.run(
            title,
            [str(Path(sys.executable).parent / "ansible-playbook"), playbook, "-i", inventory, *extra],
            check=check,
            show=True,
            env=self.environment(),
        )

    def environment(self) -> dict[str, str]:
        """What ansible and the clients need; the inventory of the demo finds its state through it."""
        return {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "CUTOVER_DEMO": self.name, "PYTHONUNBUFFERED": "1"}


def worth_showing(line: str) -> bool:
    """Task names, plans and failures; not the lines of every host."""
    start = line.lstrip()
    return start.startswith(("PLAY [", "TASK [", "fatal:", "[ERROR]", "+ ", "~ ", "- ", "-/+", "failed:")) or "plan" in start.lower()[:20]


# --- processes of an earlier run -------------------------------------------------------------------------------------------------------------


def start_time(pid: int) -> str:
    """The kernel's start time of a process, which tells it from another one with the same number. Empty when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return ""


def remember(file: Path, pid: int) -> None:
    file.write_text(json.dumps({"pid": pid, "start": start_time(pid)}))


def end_remembered(file: Path) -> None:
    """End the process group that an earlier run started, if it is still the same process."""
    try:
        known: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError):
        return
    if known.get("start") and start_time(known["pid"]) == known["start"]:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(known["pid"], signal.SIGTERM)
        for _unused in range(50):
            if start_time(known["pid"]) != known["start"]:
                break
            time.sleep(0.1)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(known["pid"], signal.SIGKILL)
    file.unlink(missing_ok=True)


# --- the steps ---------------------------------------------------------------------------------------------------------------------------------


def localcloud(demo: Demo, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "localcloud", arguments[0], "--name", demo.name, *arguments[1:]]


def clear(demo: Demo) -> None:
    """Remove everything of an earlier run."""
    end_remembered(demo.cache / "client.pid")
    demo.run("clear", localcloud(demo, "down"), check=False)
    shutil.rmtree(demo.cache, ignore_errors=True)


def start_cloud(demo: Demo) -> dict[str, Any]:
    """The release mirror and the local cloud. Returns the demo's state, as the inventory reads it."""
    text = demo.run("mirror", [sys.executable, "-m", "mirror", "build", str(MIRROR)])
    releases = json.loads(text[text.index("{") :])
    demo.run("localcloud", [*localcloud(demo, "up"), "--index", str(demo.index), "--mirror", str(MIRROR), "--speed", "0"])
    env = dict(
        line.removeprefix("export ").split("=", 1)
        for line in subprocess.run(localcloud(demo, "env"), cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
        if line.startswith("export ")
    )
    demo.cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    token = demo.cache / "token"
    token.touch(mode=0o600)
    token.write_text(env["HCLOUD_TOKEN"])
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "demo", "-f", str(demo.cache / "id_ed25519")], check=True)
    state = {
        "hcloud_endpoint": env["HCLOUD_ENDPOINT"],
        "mirror": f"http://10.93.{demo.index}.1:8099",
        "releases": releases,
        "old_address": "",
    }
    save_state(demo, state)
    return state


def save_state(demo: Demo, state: dict[str, Any]) -> None:
    part = demo.cache / "state.json.part"
    part.write_text(json.dumps(state, indent=2))
    part.replace(demo.cache / "state.json")


def build_old_world(demo: Demo, state: dict[str, Any]) -> None:
    """One machine with database, application and Redis, as somebody else would have set it up."""
    result = demo.cache / "old.json"
    demo.playbook("old-machine", "tests/e2e/old_world/provision.yml", "-e", f"old_result={result}")
    state["old_address"] = json.loads(result.read_text())["address"]
    save_state(demo, state)
    (demo.cache / "hosts").write_text(f"{state['old_address']} app.demo.test\n")
    demo.playbook("old-world", "tests/e2e/old_world/site.yml")


@contextlib.contextmanager
def clients(demo: Demo) -> Iterator[Path]:
    """The load client and the reader, from before the move until after it."""
    log = demo.artifacts / "client"
    shutil.rmtree(log, ignore_errors=True)
    log.mkdir(parents=True)
    argv = [sys.executable, "-m", "e2e.client", "run", "--url", "http://app.demo.test:3000", "--hosts-file", str(demo.cache / "hosts")]
    argv += ["--rate", "20", "--readers", "5", "--log", str(log), "--seconds", str(CLIENT_SECONDS)]
    with (log / "client.log").open("w") as output:
        process = subprocess.Popen(
            argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    remember(demo.cache / "client.pid", process.pid)
    try:
        yield log
        if process.poll() is not None:
            raise DemoError(f"the load client ended by itself ({process.returncode}): see {log / 'client.log'}")
    finally:
        end_remembered(demo.cache / "client.pid")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)


def judge(demo: Demo, log: Path, **where: str) -> dict[str, Any]:
    """Compare what the client was told with what the new database holds (or the one that where names), and add it to the record."""
    extra = [word for name, value in {"client_log": str(log), **where}.items() for word in ("-e", f"{name}={value}")]
    demo.playbook("judge", "tests/e2e/judge.yml", *extra)
    report: dict[str, Any] = json.loads((demo.artifacts / "report.json").read_text())
    return report


def verdict(report: dict[str, Any]) -> list[str]:
    """What is wrong with a move, by its report; empty when nothing is."""
    wrong = []
    client, tables, application = report["client"] or {}, report["tables"] or {}, report["application"] or {}
    if report["result"] != "cut_over":
        wrong.append(f"result is {report['result']}")
    if client.get("lost") != 0 or client.get("doubled") != 0:
        wrong.append(f"lost {client.get('lost')}, doubled {client.get('doubled')} of {client.get('acknowledged')} acknowledged writes")
    if not client.get("acknowledged"):
        wrong.append("no write was acknowledged")
    if not tables.get("count") or tables.get("verified") != tables.get("count"):
        wrong.append(f"{tables.get('verified')} of {tables.get('count')} tables verified")
    if not application.get("processes") or application.get("online") != application.get("processes"):
        wrong.append(f"{application.get('online')} of {application.get('processes')} processes online")
    return wrong


def up(demo: Demo) -> int:
    """Build, move, judge."""
    clear(demo)
    shutil.rmtree(demo.artifacts, ignore_errors=True)
    state = start_cloud(demo)
    build_old_world(demo, state)
    with clients(demo) as log:
        demo.playbook("migrate", "playbooks/migrate.yml")
        time.sleep(AFTERMATH)
    report = judge(demo, log)
    wrong = verdict(report)
    client, tables = report["client"], report["tables"]
    print(
        f"""
result: {report["result"]}   write stop {report["write_stop_seconds"]} s   longest gap a client saw {client["longest_write_gap_seconds"]:.2f} s
rows: {tables["rows"]} in {tables["count"]} tables, {tables["verified"]} verified   lost: {client["lost"]} of {client["acknowledged"]} acknowledged writes
report: {(demo.artifacts / "report.html").relative_to(ROOT)}
        {(demo.artifacts / "report.json").relative_to(ROOT)}
The machines are still up. Back: ansible-playbook playbooks/rollback.yml -i inventories/demo   Remove everything: make demo-down"""
    )
    demo.say("done")
    for text in wrong:
        print(f"NOT AS IT SHOULD BE: {text}", file=sys.stderr)
    return 1 if wrong else 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m e2e.demo", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("command", choices=("up", "down"))
    parser.add_argument("--name", default="demo", help="of the local cloud's instance, and of the folders below .cache and artifacts")
    parser.add_argument("--index", type=int, default=10, help="0-99: picks the address range 10.93.INDEX.0/24")
    options = parser.parse_args(argv)
    demo = Demo(options.name, options.index)
    try:
        if options.command == "down":
            clear(demo)
            print("the demo is gone; artifacts/demo and the image cache stay")
            return 0
        return up(demo)
    except DemoError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_unused: sys.exit(143))
    raise SystemExit(main())
