"""Volumes: files behind loop devices. Loop devices belong to the whole host, so only those of this instance's files are ever detached."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from localcloud.backend import BackendError
from localcloud.instance import Instance
from localcloud.machines.disk import Machine
from localcloud.machines.shell import run

LOOP_MAJOR = 7
FORMATS = {"ext4": "e2fsprogs", "xfs": "xfsprogs"}


def path_of(instance: Instance, volume_id: int) -> Path:
    return instance.directory / "volumes" / f"{volume_id}.img"


def create(instance: Instance, volume_id: int, size_gb: int, fmt: str | None) -> None:
    """A sparse file of the size, formatted if asked. One that is there already is kept."""
    path = path_of(instance, volume_id)
    if path.exists():
        return
    if fmt is not None and fmt not in FORMATS:
        raise BackendError(f"volume {volume_id}: format {fmt!r} is unknown: expected {' or '.join(FORMATS)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    building = path.with_suffix(".new")
    with building.open("wb") as file:
        file.truncate(size_gb * 1024**3)
    if fmt:
        if not shutil.which(f"mkfs.{fmt}"):
            run(["apt-get", "-qq", "install", "-y", FORMATS[fmt]], seconds=300)
        run([f"mkfs.{fmt}", "-q", *(["-F"] if fmt == "ext4" else ["-f"]), building], seconds=300)
    building.rename(path)


def resize(instance: Instance, volume_id: int, size_gb: int) -> None:
    """Make the device larger; the file system on it is the owner's business, as at Hetzner."""
    path = path_of(instance, volume_id)
    os.truncate(path, max(size_gb * 1024**3, path.stat().st_size))
    for device in devices(path):
        run(["losetup", "--set-capacity", device])


def delete(instance: Instance, volume_id: int) -> None:
    detach(instance, [volume_id])
    path_of(instance, volume_id).unlink(missing_ok=True)


def devices(path: Path) -> list[str]:
    """Loop devices backed by exactly this file."""
    if not path.exists():
        return []
    listed = json.loads(run(["losetup", "--json", "--list", "--output", "NAME,BACK-FILE"]) or '{"loopdevices": []}')
    return [entry["name"] for entry in listed["loopdevices"] if (entry["back-file"] or "").removesuffix(" (deleted)") == str(path)]


def detach(instance: Instance, volume_ids: list[int]) -> None:
    for volume_id in volume_ids:
        for device in devices(path_of(instance, volume_id)):
            run(["losetup", "--detach", device])


def detach_all(instance: Instance) -> None:
    detach(instance, [int(path.stem) for path in (instance.directory / "volumes").glob("*.img")])


def attach(instance: Instance, before: Machine, after: Machine) -> dict[int, str]:
    """Loop devices for the volumes a machine has now (id -> device); those of volumes it lost are let go."""
    wanted = [volume.id for volume in after.spec.volumes]
    detach(instance, [volume.id for volume in before.spec.volumes if volume.id not in wanted])
    found: dict[int, str] = {}
    for volume in after.spec.volumes:
        path = path_of(instance, volume.id)
        create(instance, volume.id, volume.size, volume.format)
        have = devices(path)
        found[volume.id] = have[0] if have else run(["losetup", "--find", "--show", path]).strip()
    return found


def show(leader: int, before: Machine, after: Machine, loops: dict[int, str]) -> None:
    """Make device nodes and names in a running machine match its volumes."""
    root = Path(f"/proc/{leader}/root")
    names = root / "dev/disk/by-id"
    names.mkdir(parents=True, exist_ok=True)
    for volume in before.spec.volumes:
        link = names / f"scsi-0HC_Volume_{volume.id}"
        if volume.id not in loops and link.is_symlink():
            (root / str(link.readlink()).lstrip("/")).unlink(missing_ok=True)
            link.unlink()
    for volume_id, loop in loops.items():
        node = root / loop.lstrip("/")
        if not node.exists():
            os.mknod(node, 0o660 | 0o060000, os.makedev(LOOP_MAJOR, int(loop.removeprefix("/dev/loop"))))
        link = names / f"scsi-0HC_Volume_{volume_id}"
        if not link.is_symlink():
            link.symlink_to(loop)
