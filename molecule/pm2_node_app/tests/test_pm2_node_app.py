"""What runs, from where, as whom, and what is on record."""

import json
import re
import time

import pytest


def health(host):
    for _unused in range(30):
        answer = host.run("curl -sS --max-time 5 http://127.0.0.1:3000/health")
        if answer.rc == 0:
            return json.loads(answer.stdout)
        time.sleep(1)
    raise AssertionError(answer.stderr)


def processes(host):
    listing = host.check_output(
        "setpriv --reuid=greeter --regid=greeter --init-groups env -i HOME=/var/lib/greeter PATH=/usr/local/bin:/usr/bin:/bin pm2 jlist --silent"
    )
    return json.loads(listing)


def history(host):
    return [json.loads(line) for line in host.file("/opt/greeter/history.jsonl").content_string.splitlines()]


def test_processes_came_back_after_the_reboot(host):
    health(host)
    found = sorted((process["name"], process["pm2_env"]["status"], process["pm2_env"]["exec_mode"]) for process in processes(host))
    assert found == [("api", "online", "cluster_mode"), ("api", "online", "cluster_mode"), ("worker", "online", "fork_mode")]


def test_the_running_code_is_the_first_release(host):
    first = history(host)[0]["release"]
    answer = health(host)
    assert answer["release"] == first
    for process in processes(host):
        assert host.check_output(f"readlink /proc/{process['pid']}/cwd") == f"/opt/greeter/releases/{first}"


def test_history_tells_all(host):
    lines = history(host)
    first, second = lines[0]["release"], lines[1]["release"]
    assert [(line["result"], line["release"]) for line in lines[:2]] == [("deployed", first), ("deployed", second)]
    assert [line["result"] for line in lines[2:5]] == ["failed", "failed", "rolled_back"]
    assert lines[4]["release"] == first
    assert lines[1]["previous"] == first
    assert all(line["by"] and re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+(\+00:00)?", line["time"]) for line in lines)


def test_environment_file_kept_every_byte_that_was_not_declared(host):
    file = host.file("/opt/greeter/shared/.env")
    assert file.content == (
        b'# the old server\r\nexport SECRET="s3cret # stays"\r\nPORT=3000\r\n# GREETING=commented\r\n' + b"GREETING='hello # world'\r\n"
    )
    assert (file.mode, file.user) == (0o600, "greeter")
    assert health(host)["greeting"] == "hello # world"
    assert host.run("ls -A /opt/greeter/shared").stdout.split() == [".env"]


def test_no_lock_and_no_trial_is_left(host):
    assert not host.file("/opt/greeter/deploy.lock").exists
    assert "trial" not in host.check_output("systemctl list-units --all --no-legend 'pm2-greeter*'")
    assert not host.socket("tcp://127.0.0.1:3999").is_listening


@pytest.mark.parametrize("program", ["node", "npm", "npx", "pm2"])
def test_programs_are_in_the_path(host, program):
    assert host.run(f"{program} --version").rc == 0


def test_versions_are_the_pinned_ones(host):
    assert host.check_output("node --version") == "v22.23.3"
    assert host.check_output("pm2 --version --silent | tail -1") == "7.0.4"


def test_the_application_may_not_write_its_own_code(host):
    pid = next(process["pid"] for process in processes(host) if process["name"] == "worker")
    mounts = host.check_output(f"cat /proc/{pid}/mountinfo")
    assert re.search(r" / /? ?\S* ?ro", mounts) or re.search(r"\s/\s+ro,", mounts)
    assert host.run(f"nsenter -t {pid} -m -- touch /opt/greeter/current/x").rc != 0
    assert host.run(f"nsenter -t {pid} -m -- touch /opt/greeter/shared/x && rm /opt/greeter/shared/x").rc == 0


def test_the_sandbox_is_tight(host):
    level = float(re.search(r"level for \S+: ([\d.]+)", host.check_output("systemd-analyze security --no-pager pm2-greeter"))[1])
    assert level <= 2.5


def test_logs_rotate_and_are_written_again(host):
    folder = "/var/lib/greeter/.pm2/logs"
    host.check_output("logrotate --force /etc/logrotate.d/pm2-greeter")
    assert host.file(f"{folder}/worker-out.log.1").exists
    pid = next(process["pid"] for process in processes(host) if process["name"] == "worker")
    host.check_output(f"kill {pid}")
    for _unused in range(20):
        if "worker of" in host.run(f"cat {folder}/worker-out.log").stdout:
            return
        time.sleep(0.5)
    raise AssertionError("nothing was written after the rotation")
