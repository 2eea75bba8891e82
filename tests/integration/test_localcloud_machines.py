"""The machines of the local cloud, for real: they boot, follow what is declared, and leave nothing behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from localcloud import instance as instances
from localcloud.backend import BackendError, FirewallRule, Interface, MachineSpec, Volume
from localcloud.instance import LocalCloudError, ProcessRecord, load_process, start_time
from localcloud.machines import NspawnBackend, network, volumes
from localcloud.machines.disk import decode_user_data
from localcloud.machines.firewall import script
from localcloud.machines.inherit import Source, parse_sources, translate

TESTS = Path(__file__).resolve().parent.parent
NAME, INDEX = "itest-machines", 31
FOREIGN_TABLE = "localcloud_test_foreign"


def localcloud(*words: str, expect: int = 0) -> str:
    """Run the command line; returns what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    done = subprocess.run(
        [sys.executable, "-m", "localcloud", *words], env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


def out(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=60).stdout


def until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.05)


def knocks(address: str) -> bool:
    """Whether the host gets a connection to an address' SSH port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((address, 22)) == 0


def packets(chain: str) -> int:
    """Packets that a counter of the test's own table on the host has seen."""
    listed = json.loads(out("nft", "-j", "list", "chain", "ip", FOREIGN_TABLE, chain))["nftables"]
    return sum(part["counter"]["packets"] for entry in listed if "rule" in entry for part in entry["rule"]["expr"] if "counter" in part)


class Lab:
    """An instance that is up, and machines in it."""

    def __init__(self, folder: Path) -> None:
        self.key = folder / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)], check=True)
        self.public_key = self.key.with_suffix(".pub").read_text()
        self.files = folder / "files"
        self.files.mkdir()
        (self.files / "hello.txt").write_text("hello machine\n")
        localcloud("up", "--name", NAME, "--index", str(INDEX), "--mirror", str(self.files))
        found = instances.load(NAME)
        assert found is not None
        self.instance = found
        self.backend = NspawnBackend(found)

    def spec(self, number: int, **more: object) -> MachineSpec:
        base = MachineSpec(
            id=number,
            name=f"machine-{number}",
            image="debian-12",
            cores=2,
            memory_gb=4,
            disk_gb=40,
            public_ipv4=f"10.93.{INDEX}.{number}",
            public_ipv6=f"2001:db8:{INDEX}:{number}::1",
            ssh_keys=(self.public_key,),
        )
        return replace(base, **more)  # type: ignore[arg-type]

    def ssh(self, number: int, command: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        options = ["BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "ConnectTimeout=2"]
        words = ["ssh", "-i", str(self.key), *(f"-o{option}" for option in options), f"root@10.93.{INDEX}.{number}", command]
        return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False)

    def said(self, number: int, command: str, seconds: float = 120) -> str:
        done = self.ssh(number, command, seconds)
        assert done.returncode == 0, f"{command}: {done.returncode} {done.stdout} {done.stderr}"
        return done.stdout.strip()

    def answers(self, number: int) -> bool:
        return self.ssh(number, "true").returncode == 0

    def wait(self, *numbers: int) -> None:
        for number in numbers:
            until(lambda number=number: self.answers(number), 40, f"machine {number} answering SSH")  # type: ignore[misc]

    def make(self, spec: MachineSpec) -> MachineSpec:
        self.backend.create(spec, True)
        self.wait(spec.id)
        return spec

    def boot_id(self, number: int) -> str:
        return self.said(number, "cat /proc/sys/kernel/random/boot_id")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Up for all tests; afterwards nothing of it may be left, and what was not ours must still be there."""
    assert os.geteuid() == 0, "machines need root"
    folder = tmp_path_factory.mktemp("lab")
    localcloud("down", "--name", NAME)
    foreign = folder / "foreign.img"
    with foreign.open("wb") as file:
        file.truncate(1 << 20)
    device = out("losetup", "--find", "--show", str(foreign)).strip()
    ranges = f"{{ 10.93.{INDEX}.0/24, 10.77.0.0/16, 172.29.0.0/16, 192.168.231.0/24 }}"
    rules = f"""table ip {FOREIGN_TABLE} {{
      chain leaked {{ type filter hook postrouting priority 300; oifname != {{ "lc{INDEX}", "lo" }} ip daddr {ranges} counter; }}
      chain arrived {{ type filter hook postrouting priority 301; oifname "lc{INDEX}" ip daddr {ranges} counter; }}
    }}"""
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)
    try:
        made = Lab(folder)
        supervisor = made.backend.space.pid()
        yield made
        localcloud("down", "--name", NAME)
        assert supervisor is not None
        assert not Path(f"/sys/class/net/lc{INDEX}").exists()
        assert made.instance.table not in out("nft", "list", "tables")
        assert not made.backend.space.group.exists()
        assert not made.instance.directory.exists()
        assert str(made.instance.directory) not in Path("/proc/self/mounts").read_text()
        assert str(made.instance.directory) not in out("losetup", "--list")
        assert "no instance" in localcloud("status", "--name", NAME, expect=1)
        assert device in out("losetup", "--list")
        assert FOREIGN_TABLE in out("nft", "list", "tables")
    finally:
        localcloud("down", "--name", NAME)
        subprocess.run(["nft", "delete", "table", "ip", FOREIGN_TABLE], check=True)
        subprocess.run(["losetup", "--detach", device], check=True)


def test_five_machines_answer(lab: Lab) -> None:
    began = time.monotonic()
    numbers = range(11, 16)
    for number in numbers:
        lab.backend.create(lab.spec(number), True)
    lab.wait(*numbers)
    print(f"five machines answer SSH after {time.monotonic() - began:.2f} s")
    facts = [
        lab.said(number, "hostname; cat /etc/machine-id; cat /etc/ssh/ssh_host_ed25519_key.pub; cloud-init status --wait").splitlines()
        for number in numbers
    ]
    assert [lines[0] for lines in facts] == [f"machine-{number}" for number in numbers]
    assert len({lines[1] for lines in facts}) == len({lines[2] for lines in facts}) == 5
    assert all(lines[3] == "status: done" for lines in facts)
    assert lab.said(11, "systemctl is-system-running --wait") == "running"
    assert "default via 10.93.31.1 dev eth0" in lab.said(11, "ip route")
    assert lab.said(11, "ping -c1 -W2 10.93.31.12 >/dev/null && ping -6 -c1 -W2 2001:db8:31:12::1 >/dev/null && echo both") == "both"
    shown = json.loads(localcloud("status", "--name", NAME, "--json"))
    assert {machine["id"]: machine["state"] for machine in shown["machines"]} == dict.fromkeys(numbers, "running")
    for number in (13, 14, 15):
        lab.backend.delete(number)
    assert [machine.spec.id for machine in lab.backend.machines()] == [11, 12]


def test_a_second_up_changes_nothing(lab: Lab) -> None:
    before = (lab.backend.space.pid(), load_process(lab.instance.directory / "api.json"), lab.boot_id(11))
    localcloud("up", "--name", NAME, "--index", str(INDEX), "--mirror", str(lab.files))
    assert before == (lab.backend.space.pid(), load_process(lab.instance.directory / "api.json"), lab.boot_id(11))
    assert "belong to instance" in localcloud("up", "--name", "itest-other", "--index", str(INDEX), expect=1)
    assert "is up with index" in localcloud("up", "--name", NAME, "--index", str(INDEX + 1), expect=1)


def test_packages_come_from_where_the_host_gets_them(lab: Lab) -> None:
    assert "Unable to locate" in lab.ssh(11, "apt-get install -y tree 2>&1").stdout, "a fresh machine has no package lists"
    lab.said(11, "apt-get -q update && apt-get -qy install tree python3-venv", 300)
    assert (
        lab.said(
            11, "python3 -m venv /root/v && /root/v/bin/pip install -q six && /root/v/bin/python -c 'import six; print(six.__name__)'", 120
        )
        == "six"
    )
    assert lab.said(11, f"curl -sS http://10.93.{INDEX}.1:8099/hello.txt") == "hello machine"
    assert lab.ssh(11, f"curl -sS -X PUT -d x -o /dev/null -w '%{{http_code}}' http://10.93.{INDEX}.1:8099/new.txt").stdout == "501"
    listening = [
        line.split()[3] for line in out("ss", "-Hltn").splitlines() if line.split()[3].endswith((":8099", f":{lab.instance.port}"))
    ]
    assert set(listening) <= {f"10.93.{INDEX}.1:8099", f"127.0.0.1:{lab.instance.port}"} | {
        address for address in listening if f".{INDEX}." not in address
    }
    assert f"127.0.0.1:{lab.instance.port}" in listening


def test_power(lab: Lab) -> None:
    first = lab.boot_id(12)
    lab.said(
        12,
        "touch /root/kept; sysctl -qw vm.swappiness=7 kernel.yama.ptrace_scope=2; nft add table inet mine; (sleep 0.2; reboot) >/dev/null 2>&1 &",
    )
    until(
        lambda: lab.ssh(12, "cat /proc/sys/kernel/random/boot_id").stdout.strip() not in ("", first),
        40,
        "another boot id after a reboot from inside",
    )
    assert (
        lab.said(12, "ls /root/kept; sysctl -n vm.swappiness; nft list tables")
        == f"/root/kept\n{Path('/proc/sys/vm/swappiness').read_text().strip()}"
    )
    lab.backend.shutdown(12)
    until(lambda: not lab.backend.running(12), 40, "an orderly stop")
    assert not lab.answers(12)
    lab.backend.power_on(12)
    lab.wait(12)
    second = lab.boot_id(12)
    lab.backend.reset(12)
    lab.wait(12)
    assert lab.boot_id(12) not in (first, second)
    lab.backend.power_off(12)
    assert not lab.backend.running(12)
    lab.backend.power_off(12)
    lab.backend.reboot(12)
    lab.wait(12)


def test_kernel_settings_are_private(lab: Lab) -> None:
    files = ["vm/swappiness", "kernel/kptr_restrict", "fs/suid_dumpable"]
    before = [(Path("/proc/sys") / name).read_text() for name in files]
    lab.said(
        12,
        "sysctl -qw vm.swappiness=3 kernel.kptr_restrict=2 fs.suid_dumpable=0 kernel.kexec_load_disabled=1 net.ipv4.conf.all.rp_filter=1",
    )
    assert lab.said(12, "sysctl -n vm.swappiness kernel.kptr_restrict fs.suid_dumpable").split() == ["3", "2", "0"]
    assert lab.said(12, "sysctl -n kernel.hostname") == "machine-12"
    assert lab.said(12, "cat /proc/sys/kernel/random/uuid") != lab.said(12, "cat /proc/sys/kernel/random/uuid")
    assert [(Path("/proc/sys") / name).read_text() for name in files] == before


def test_private_networks_are_plugged_in_and_out(lab: Lab) -> None:
    one, other = (
        Interface(1, "10.77.0.0/16", "10.77.0.2", "86:00:00:00:00:01"),
        Interface(1, "10.77.0.0/16", "10.77.0.3", "86:00:00:00:00:02"),
    )
    second = Interface(2, "172.29.1.0/24", "172.29.1.2", "86:00:00:00:00:03")
    lab.backend.update(lab.spec(11, interfaces=(one,)))
    lab.backend.update(lab.spec(12, interfaces=(other,)))
    lab.said(11, "ping -c1 -W2 10.77.0.3")
    shown = json.loads(lab.said(11, "ip -json address show enp7s0"))[0]
    assert (shown["mtu"], shown["address"]) == (1450, one.mac)
    lab.backend.update(lab.spec(11, interfaces=(one, second)))
    assert json.loads(lab.said(11, "ip -json address show enp8s0"))[0]["addr_info"][0]["local"] == "172.29.1.2"
    lab.backend.update(lab.spec(11, interfaces=(second,)))
    names = {link["ifname"] for link in json.loads(lab.said(11, "ip -json link"))}
    assert names == {"lo", "eth0", "enp8s0"}
    lab.backend.update(lab.spec(11, interfaces=(second, one)))
    lab.backend.reset(11)
    lab.wait(11)
    lab.said(11, "ip -json link show enp7s0 && ip -json link show enp8s0 && ping -c1 -W2 10.77.0.3")
    assert lab.ssh(12, "ping -c1 -W1 172.29.1.2").returncode, "a machine outside of a network must not reach it"


def test_nothing_for_the_lab_leaves_this_host(lab: Lab) -> None:
    leaked, arrived = packets("leaked"), packets("arrived")
    lab.said(12, "true")
    assert packets("arrived") > arrived, "the counter must see what goes to a machine"
    for address in ("172.29.1.2", "172.29.1.99", "10.77.9.9", "192.168.231.1", f"10.93.{INDEX}.99", "10.93.99.1"):
        assert lab.ssh(12, f"ping -c1 -W1 {address}").returncode, f"{address} must not answer"
        inside = subprocess.run(["nsenter", "-t", str(lab.backend.space.pid()), "-n", "ip", "route", "get", address, "from", f"10.93.{INDEX}.12", "iif", "p2"],
                                capture_output=True, text=True, check=False)  # fmt: skip
        assert "up0" not in inside.stdout, f"{address} would be sent to the host: {inside.stdout}"
    lab.backend.power_off(12)
    assert not knocks(f"10.93.{INDEX}.12")
    assert packets("leaked") == leaked
    lab.backend.power_on(12)
    lab.wait(12)


def test_firewalls_filter_the_public_side_only(lab: Lab) -> None:
    everyone = ("0.0.0.0/0", "::/0")
    lab.said(12, "systemd-run -q --unit=web python3 -m http.server 8080 && systemd-run -q --unit=web2 python3 -m http.server 8090")
    ask = f"curl -s -o /dev/null -m 3 -w '%{{http_code}}' http://10.93.{INDEX}.12:"
    until(lambda: lab.ssh(11, f"{ask}8080 && {ask}8090").stdout == "200200", 10, "both servers answering without a firewall")
    private = lab.spec(12).interfaces
    interfaces = (Interface(1, "10.77.0.0/16", "10.77.0.3", "86:00:00:00:00:02"),)
    inbound = (FirewallRule("in", "tcp", "22", everyone), FirewallRule("in", "tcp", "8085-8095", (f"10.93.{INDEX}.11/32",)))
    lab.backend.update(lab.spec(12, interfaces=interfaces, firewalls=inbound))
    assert private == ()
    assert lab.ssh(11, f"{ask}8080").returncode == 28, "a port without a rule must time out"
    assert lab.said(11, f"{ask}8090") == "200"
    assert lab.ssh(11, f"ping -c1 -W1 10.93.{INDEX}.12").returncode, "ICMP has no rule"
    assert lab.said(11, "curl -s -o /dev/null -m 3 -w '%{http_code}' http://10.77.0.3:8080") == "200", (
        "firewalls do not filter private networks"
    )
    assert lab.said(12, f"curl -s -m 5 http://10.93.{INDEX}.1:8099/hello.txt") == "hello machine", (
        "replies to the machine's own connections pass"
    )
    outbound = (*inbound, FirewallRule("out", "udp", "53", everyone))
    lab.backend.update(lab.spec(12, interfaces=interfaces, firewalls=outbound))
    assert lab.ssh(12, f"curl -s -m 3 http://10.93.{INDEX}.1:8099/hello.txt").returncode == 28
    lab.backend.update(lab.spec(12, interfaces=interfaces, firewalls=()))
    assert not lab.answers(12), "an attached firewall without rules lets nothing in"
    lab.backend.update(lab.spec(12, interfaces=interfaces))
    assert lab.answers(12)


def test_user_data(lab: Lab) -> None:
    text = f"""#cloud-config
hostname: renamed
users:
  - name: deploy
    groups: [adm, builders]
    sudo: "ALL=(ALL) NOPASSWD:ALL"
    shell: /bin/sh
    ssh_authorized_keys: ["{lab.public_key.strip()}"]
write_files:
  - path: /etc/made/by.conf
    content: |
      first line
    permissions: "0640"
    owner: root:adm
packages: [tree]
runcmd:
  - [touch, /root/list form]
  - echo "shell $((1 + 1))" > /root/shell-form
"""
    lab.make(lab.spec(21, user_data=text))
    assert lab.said(21, "cloud-init status --wait", 300) == "status: done"
    said = lab.said(
        21,
        "hostname; id -nG deploy; getent passwd deploy | cut -d: -f7; stat -c '%a %U:%G' /etc/made/by.conf; "
        "cat /etc/made/by.conf /root/shell-form; ls /root; which tree",
    )
    assert said.splitlines() == [
        "renamed",
        "deploy adm builders",
        "/bin/sh",
        "640 root:adm",
        "first line",
        "shell 2",
        "list form",
        "shell-form",
        "/usr/bin/tree",
    ]
    login = [
        "ssh",
        "-i",
        str(lab.key),
        "-oBatchMode=yes",
        "-oStrictHostKeyChecking=no",
        "-oUserKnownHostsFile=/dev/null",
        f"deploy@10.93.{INDEX}.21",
        "sudo -n id -u",
    ]
    assert subprocess.run(login, capture_output=True, text=True, timeout=30, check=False).stdout.strip() == "0"
    lab.said(21, "rm '/root/list form'")
    lab.backend.reset(21)
    lab.wait(21)
    assert lab.ssh(21, "ls '/root/list form'").returncode, "user data counts at the first boot only"
    script_text = "#!/bin/sh\nhostname > /root/script-ran\n"
    lab.backend.rebuild(lab.spec(21, user_data=script_text))
    lab.wait(21)
    assert lab.said(21, "cloud-init status --wait >/dev/null; ls /etc/made 2>/dev/null; cat /root/script-ran") == "machine-21"
    lab.backend.rebuild(lab.spec(21, user_data="#cloud-config\nbootcmd: [true]\n"))
    lab.wait(21)
    failed = lab.ssh(21, "cloud-init status --wait")
    assert failed.returncode == 1 and "'bootcmd' is not supported" in failed.stderr
    lab.backend.delete(21)


def test_volumes(lab: Lab) -> None:
    volume = Volume(7, 1, "ext4")
    path = "/dev/disk/by-id/scsi-0HC_Volume_7"
    lab.backend.create_volume(7, 1, "ext4")
    lab.backend.update(lab.spec(11, volumes=(volume,)))
    lab.said(
        11,
        f"mkdir -p /data && mount {path} /data && echo precious > /data/file && umount /data && blkid -s TYPE -o value $(readlink -f {path})",
    )
    lab.said(11, f"echo '{path} /data ext4 discard,nofail,defaults 0 0' >> /etc/fstab")
    lab.backend.reset(11)
    lab.wait(11)
    until(lambda: lab.ssh(11, "cat /data/file").stdout == "precious\n", 20, "the volume mounted at boot by /etc/fstab")
    lab.said(11, "umount /data && sed -i '/Volume_7/d' /etc/fstab")
    lab.backend.update(lab.spec(11))
    assert lab.ssh(11, f"test -e {path}").returncode
    lab.backend.update(lab.spec(12, volumes=(volume,)))
    assert lab.said(12, f"mkdir -p /data && mount {path} /data && cat /data/file && umount /data") == "precious"
    lab.backend.resize_volume(7, 2)
    assert int(lab.said(12, f"blockdev --getsize64 {path}")) == 2 * 1024**3
    lab.backend.update(lab.spec(12))
    assert not volumes.devices(volumes.path_of(lab.instance, 7))
    lab.backend.delete_volume(7)
    with pytest.raises(BackendError, match="format 'vfat' is unknown"):
        lab.backend.create_volume(8, 1, "vfat")


def test_snapshots(lab: Lab) -> None:
    lab.said(12, "echo frozen > /etc/frozen; rm -rf /usr/share/zoneinfo; sync")
    identity = lab.said(12, "cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub")
    assert lab.backend.snapshot(12, 501) > 0
    lab.make(lab.spec(22, image="snapshot-501"))
    assert lab.said(22, "hostname; cat /etc/frozen; ls -d /usr/share/zoneinfo 2>/dev/null; cloud-init status --wait").splitlines() == [
        "machine-22",
        "frozen",
        "status: done",
    ]
    assert lab.said(22, "cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub") != identity
    lab.backend.delete_image(501)
    lab.backend.reset(22)
    lab.wait(22)
    assert lab.said(22, "cat /etc/frozen") == "frozen", "a machine outlives the image it was made from"
    with pytest.raises(BackendError, match="snapshot-501 is not here"):
        lab.backend.create(lab.spec(23, image="snapshot-501"), True)
    lab.backend.delete(22)
    assert not (lab.instance.directory / "images" / "501").exists()


def test_the_next_release(lab: Lab) -> None:
    lab.make(lab.spec(24, image="debian-13"))
    assert lab.said(24, ". /etc/os-release; echo $VERSION_CODENAME; systemctl is-system-running --wait").split() == ["trixie", "running"]
    assert lab.said(24, "apt-get -q update >/dev/null && apt-get -qy install tree >/dev/null && which tree", 200) == "/usr/bin/tree"
    lab.backend.delete(24)


def kill_nine(record: ProcessRecord | None) -> None:
    assert record is not None
    os.kill(record.pid, signal.SIGKILL)
    until(lambda: not record.alive(), 10, "the killed process gone")


def test_up_makes_whole_what_was_killed(lab: Lab) -> None:
    lab.said(11, "echo survived > /root/survived; sync")
    lab.backend.power_off(12)
    kill_nine(load_process(lab.instance.directory / "api.json"))
    kill_nine(load_process(lab.instance.directory / "supervisor.json"))
    until(lambda: not lab.backend.running(11), 10, "machines gone with their namespaces")
    leaked = packets("leaked")
    until(lambda: not Path(f"/sys/class/net/lc{INDEX}").exists(), 10, "the link gone with the namespaces")
    assert not knocks(f"10.93.{INDEX}.11")
    assert packets("leaked") == leaked
    assert "namespaces are not up" in localcloud("doctor", expect=1)
    localcloud("up", "--name", NAME, "--index", str(INDEX), "--mirror", str(lab.files))
    lab.wait(11)
    assert lab.said(11, "cat /root/survived") == "survived"
    assert not lab.backend.running(12), "a machine that was off stays off"
    lab.backend.power_on(12)
    lab.wait(12)


def test_the_api_answers(lab: Lab) -> None:
    exported = dict(line.removeprefix("export ").split("=", 1) for line in localcloud("env", "--name", NAME).splitlines())
    assert exported["HCLOUD_ENDPOINT"] == f"http://127.0.0.1:{lab.instance.port}/v1"
    ask = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"{exported['HCLOUD_ENDPOINT']}/locations"]
    assert out(*ask, "-H", f"Authorization: Bearer {exported['HCLOUD_TOKEN']}") == "200"
    assert out(*ask, "-H", "Authorization: Bearer wrong") == "401"
    assert lab.instance.token_file.stat().st_mode & 0o777 == 0o600


# Pure parts


def test_names_and_indices_are_checked() -> None:
    for words in (("Up", 10), ("../x", 10), ("demo", 100), ("demo", -1)):
        with pytest.raises(LocalCloudError, match="expected"):
            instances.make(*words, None, "none")


def test_an_interface_keeps_its_name_while_attached() -> None:
    def interface(number: int) -> Interface:
        return Interface(number, "10.0.0.0/24", f"10.0.0.{number}", "86:00:00:00:00:01")

    first = network.positions((interface(5), interface(9)), {})
    assert first == {5: 0, 9: 1}
    assert network.positions((interface(9), interface(7), interface(8)), first) == {9: 1, 7: 0, 8: 2}


def test_a_filter_is_refused_by_nobody(tmp_path: Path) -> None:
    rules = (
        FirewallRule("in", "tcp", "22", ("10.0.0.0/8", "10.1.0.0/16", "::/0")),
        FirewallRule("in", "gre", None, ("0.0.0.0/0",)),
        FirewallRule("in", "icmp", None, ()),
        FirewallRule("out", "udp", None, ("1.2.3.4/32",)),
    )
    text = script([(3, rules), (1, None)], "10.93.1.1", ["10.0.0.0/16", "10.0.5.0/24"], ["10.0.0.7"])
    path = tmp_path / "rules"
    path.write_text(text)
    subprocess.run(["unshare", "-n", "nft", "-f", str(path)], check=True)
    assert "ip saddr { 10.0.0.0/8 } tcp dport 22 return" in text and "p1" not in text
    assert (
        text.index("ip daddr { 10.0.0.0/16 } counter drop") < text.index("ip daddr { 10.0.0.7/32 } return") < text.index("192.168.0.0/16")
    )


def test_sources_of_debian_are_passed_on_and_others_are_not() -> None:
    deb822 = (
        "Types: deb\n# a comment\nURIs: http://a.example/debian\nSuites: bookworm bookworm-updates\nComponents: main\nSigned-By: /k.gpg\n\n"
    )
    other = "Types: deb\nURIs: http://b.example/apt\nSuites: bookworm-tools\nComponents: main\n\n"
    other += "Enabled: no\nTypes: deb\nURIs: http://c.example\nSuites: bookworm\nComponents: main\n"
    found = parse_sources(deb822 + other, True) + parse_sources(
        "deb [arch=amd64 signed-by=/s.gpg] http://d.example/sec bookworm-security main # x\n", False
    )
    assert translate(found, "bookworm", "trixie") == [
        "deb [signed-by=/k.gpg] http://a.example/debian trixie main",
        "deb [signed-by=/k.gpg] http://a.example/debian trixie-updates main",
        "deb [signed-by=/s.gpg] http://d.example/sec trixie-security main",
    ]
    assert Source("http://c.example", ("bookworm",), ("main",), "") not in found


def test_user_data_in_base64_is_read() -> None:
    assert decode_user_data("IyEvYmluL3NoCg==") == "#!/bin/sh\n"
    assert decode_user_data("#cloud-config\n") == "#cloud-config\n"
    assert decode_user_data("not base64!") == "not base64!"


def test_a_recycled_pid_is_not_ours() -> None:
    started = start_time(os.getpid())
    assert started is not None
    assert ProcessRecord(os.getpid(), started).alive()
    assert not ProcessRecord(os.getpid(), started + 1).alive()


def test_records_only_backend_needs_no_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTOVER_LOCALCLOUD_STATE", str(tmp_path / "state"))
    localcloud("up", "--name", "itest-none", "--index", "39", "--backend", "none")
    try:
        assert "backend none" in localcloud("status", "--name", "itest-none")
        assert not Path("/sys/class/net/lc39").exists()
    finally:
        localcloud("down", "--name", "itest-none")
    assert not (tmp_path / "state" / "itest-none").exists()
