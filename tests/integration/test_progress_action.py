"""Live progress as a person sees it: the real ansible-playbook, with and without a terminal; the module's result stays what it is."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from integration.conftest import Pair
from localcloud.api.testing import serve

ROOT = Path(__file__).parents[2]
ROWS = 240_000
WHOLE = re.compile(
    r"^\[localhost\] (?P<rows>[\d,]+) rows, [\d.]+ (B|kB|MB), (?P<percent>\d+) %, [\d.]+ (B|kB|MB|GB)/s, "
    r"(?P<time>time left unknown|.+ left|in .+); \d+ of \d+ chunks, (?P<tables>\d) of 2 tables done(, \d of 2 builds)?$",
    re.M,
)
SHOWN = re.compile(r"^\[localhost\] ", re.M)
TABLE = re.compile(r"^\[localhost\]   public\.(small|big): ([\d,]+) rows, .* (\d+) of (\d+) chunks done, (\d) in flight$", re.M)


def tables(pair: Pair, seconds: float) -> None:
    """A table that takes at least ``seconds`` to write, on any machine, and one that takes none."""
    pair.on_both("CREATE TABLE big (id int, filler text)", "CREATE TABLE small (id int)")
    pair.on_source(
        f"INSERT INTO big SELECT g, repeat('x', 200) FROM generate_series(1, {ROWS}) g", "INSERT INTO small SELECT generate_series(1, 10)"
    )
    pair.on_target(
        f"""CREATE FUNCTION brake() RETURNS trigger LANGUAGE plpgsql AS
            $$BEGIN IF NEW.id % 5000 = 0 THEN PERFORM pg_sleep({seconds * 5000 / ROWS}); END IF; RETURN NEW; END$$""",
        "CREATE TRIGGER brake BEFORE INSERT ON big FOR EACH ROW EXECUTE FUNCTION brake()",
        "ALTER TABLE big ENABLE ALWAYS TRIGGER brake",
    )


def run(pair: Pair, tmp_path: Path, *flags: str, terminal: bool = False, task: dict[str, Any] | None = None, **options: Any) -> Any:
    """(output, result) of one copy. The password is not in the output."""
    arguments = {"source": pair.source_server.args(pair.dbname), "target": pair.target_server.args(pair.dbname), "workers": 1, **options}
    output, result = play({"cutover.hetzner.pg_row_copy": arguments, **(task or {})}, tmp_path, *flags, terminal=terminal)
    assert "throw-away" not in output
    return output, result


def play(task: dict[str, Any], tmp_path: Path, *flags: str, terminal: bool = False) -> tuple[str, dict[str, Any]]:
    """(output, result) of one task on this machine. What the plugin makes in the folder for temporary files is gone afterwards."""
    result = tmp_path / "result.json"
    save = {"ansible.builtin.copy": {"content": "{{ _done | to_json }}", "dest": str(result), "mode": "0600"}, "check_mode": False}
    plays = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars": {"ansible_python_interpreter": sys.executable},
        "tasks": [{"block": [{**task, "register": "_done"}], "always": [save]}],
    }
    (tmp_path / "play.yml").write_text(json.dumps([plays]))
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", *flags, str(tmp_path / "play.yml")]
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"), "TMPDIR": str(scratch), "NO_COLOR": "1"}
    output = (_on_terminal if terminal else _piped)(command, tmp_path, environment)
    assert not list(scratch.glob("cutover-progress-*"))
    return output, json.loads(result.read_text())


def _piped(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=180, check=False
    )
    return done.stdout


def _on_terminal(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    ours, theirs = pty.openpty()
    parts: list[bytes] = []

    def collect() -> None:
        try:
            while part := os.read(ours, 65536):
                parts.append(part)
        except OSError:  # Linux's way to say that the other end is closed
            return

    reader = threading.Thread(target=collect)
    process = subprocess.Popen(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs)
    os.close(theirs)
    reader.start()
    try:
        process.wait(180)
    finally:
        process.kill()
        reader.join(10)
        os.close(ours)
    return b"".join(parts).decode().replace("\r\n", "\n")


def numbers(output: str) -> tuple[list[int], list[int]]:
    """Rows and percents of the lines for the whole."""
    found = list(WHOLE.finditer(output))
    return [int(one["rows"].replace(",", "")) for one in found], [int(one["percent"]) for one in found]


def test_lines_without_a_terminal_rise_to_the_end_and_the_result_is_the_modules(pair: Pair, tmp_path: Path) -> None:
    tables(pair, 14)
    output, result = run(pair, tmp_path)
    rows, percents = numbers(output)
    assert rows == sorted(rows) and percents == sorted(percents), output
    assert rows[-1] == ROWS + 10 == result["rows"] and percents[-1] == 100, output
    # At most one in five seconds and one at the end; the module's own time is the measure.
    assert 3 <= len(rows) <= result["seconds"] / 5 + 2, output
    assert len(set(rows)) >= 3 and all(count < ROWS for count in rows[:-1]) and all(percent < 100 for percent in percents[:-1]), output
    flying = TABLE.findall(output)
    assert [one[0] for one in flying] == ["big"] * (len(rows) - 1), output
    assert all(one["time"].endswith(" left") for one in list(WHOLE.finditer(output))[:-1] if one["rows"] != "0"), output
    assert (
        result["changed"]
        and result["consistent"]
        and {table["name"]: table["rows"] for table in result["tables"]}
        == {
            "public.big": ROWS,
            "public.small": 10,
        }
    )
    again, unchanged = run(pair, tmp_path)
    assert not unchanged["changed"] and not SHOWN.search(again)


def test_a_terminal_hears_more_and_a_given_file_stays(pair: Pair, tmp_path: Path) -> None:
    tables(pair, 6)
    file = tmp_path / "progress.json"
    file.write_text("what an earlier run left")
    output, result = run(pair, tmp_path, terminal=True, progress_path=str(file))
    rows, _percents = numbers(output)
    assert len(rows) >= 4 and rows == sorted(rows) and rows[-1] == result["rows"] == ROWS + 10, output
    left = json.loads(file.read_text())
    assert left["rows"] == ROWS + 10 and left["share"] == 1 and left["tables"] == []


def test_nothing_is_shown_in_check_mode_or_of_what_is_secret(pair: Pair, tmp_path: Path) -> None:
    pair.on_both("CREATE TABLE a (id int)")
    pair.on_source("INSERT INTO a SELECT generate_series(1, 1000)")
    output, planned = run(pair, tmp_path, "--check", "--diff")
    assert planned["changed"] and planned["diff"]["after"] == "public.a -> public.a\n" and not SHOWN.search(output)
    assert pair.on_target("SELECT count(*) FROM a") == [(0,)]
    output, done = run(pair, tmp_path, task={"no_log": True})
    assert done["rows"] == 1000 and not SHOWN.search(output)


def test_a_failure_stays_the_modules(pair: Pair, tmp_path: Path) -> None:
    tables(pair, 8)
    pair.on_target("ALTER TABLE big ADD CHECK (id < 235000)")
    output, failed = run(pair, tmp_path)
    assert failed["failed"] and "copying public.big into public.big failed" in failed["problem"] and "big_id_check" in failed["msg"]
    assert "fatal: [localhost]" in output and WHOLE.search(output) and " 100 %" not in output, output


def test_a_file_that_cannot_be_written_or_read_does_not_matter(pair: Pair, tmp_path: Path) -> None:
    pair.on_both("CREATE TABLE a (id int)")
    pair.on_source("INSERT INTO a SELECT generate_series(1, 1000)")
    output, done = run(pair, tmp_path, progress_path=str(tmp_path / "missing" / "progress.json"))
    assert done["rows"] == 1000 and not done.get("failed") and "Progress cannot be written to" in output
    assert not SHOWN.search(output)
    pair.on_target("DROP SCHEMA cutover CASCADE", "TRUNCATE a")
    folder = tmp_path / "folder"
    folder.mkdir()
    _output, done = run(pair, tmp_path, progress_path=str(folder))
    assert done["rows"] == 1000 and not done.get("failed")


def test_a_timeout_of_the_task_ends_it(pair: Pair, tmp_path: Path) -> None:
    tables(pair, 60)
    output, failed = run(pair, tmp_path, task={"timeout": 8})
    assert failed["failed"] and "timed out" in failed["msg"].lower() + str(failed.get("exception", "")).lower(), output


def test_a_task_in_the_background_is_left_alone(pair: Pair, tmp_path: Path) -> None:
    pair.on_both("CREATE TABLE a (id int)")
    pair.on_source("INSERT INTO a SELECT generate_series(1, 1000)")
    output, done = run(pair, tmp_path, task={"async": 60, "poll": 1})
    assert done["rows"] == 1000 and not SHOWN.search(output)


TOPOLOGY = {
    "location": "nbg1",
    "networks": [{"name": "private", "ip_range": "10.20.0.0/16", "subnets": [{"ip_range": "10.20.1.0/24"}]}],
    "servers": [{"name": name, "type": "cx23", "image": "debian-12", "networks": [{"name": "private"}]} for name in ("app", "db")],
}
STEPS = re.compile(r"^\[localhost\] (\d) of 3 resources done in \d+ s(, \d (?:failed|not tried|to come))*$", re.M)


def test_a_stack_says_what_is_done_and_what_is_waited_for(tmp_path: Path) -> None:
    with serve(tmp_path / "cloud", speed=0.3) as cloud:
        given = {"name": "shop", "topology": TOPOLOGY, "api_token": cloud.token, "api_endpoint": cloud.endpoint}
        task = {"cutover.hetzner.hetzner_stack": given}
        planned, result = play(task, tmp_path, "--check", terminal=True)
        assert len(result["plan"]) == 3 and not SHOWN.search(planned)
        output, result = play(task, tmp_path, terminal=True)
        done = [int(one[0]) for one in STEPS.findall(output)]
        assert done == sorted(done) and done[-1] == 3 and len(done) >= 3, output
        assert "[localhost]   waiting for server.app: create, " in output and cloud.token not in output, output
        assert sorted(result["done"]) == ["network.private", "server.app", "server.db"] and len(result["hosts"]) == 2


def test_a_stack_that_fails_says_so_itself(tmp_path: Path) -> None:
    with serve(tmp_path / "cloud", speed=0.3) as cloud:
        rule = {"method": "POST", "path": "/networks", "status": 422, "code": "invalid_input", "message": "no such range", "times": 9}
        cloud.local("POST", "/faults", {"rules": [rule]})
        given = {"name": "shop", "topology": TOPOLOGY, "api_token": cloud.token, "api_endpoint": cloud.endpoint}
        output, result = play({"cutover.hetzner.hetzner_stack": given}, tmp_path)
        assert (
            result["failed"] and "no such range" in result["msg"] and [one["resource"] for one in result["failures"]] == ["network.private"]
        )
        assert "[localhost] 0 of 3 resources done in 0 s, 1 failed, 2 not tried" in output, output
