"""Two archives for the old machine: this package with its data, and the application. The same content gives the same bytes."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

from . import cache

E2E = Path(__file__).parent.parent
LEFT_OUT = {"node_modules", "__pycache__", ".env"}


def _files(root: Path) -> Iterator[Path]:
    for path in sorted(root.iterdir()):
        if path.name in LEFT_OUT:
            continue
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


def _pack(target: Path, entries: list[tuple[str, Path]]) -> str:
    """Writes the archive unless its content is there already. Returns the content's hash."""
    digest = hashlib.sha256()
    for name, path in entries:
        digest.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    key = digest.hexdigest()[:16]
    final = target.with_name(f"{target.name}-{key}.tar")
    if not final.exists():
        making = final.with_suffix(".making")
        with tarfile.open(making, "w") as out:
            for name, path in entries:
                data = path.read_bytes()
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(data), 0o644
                out.addfile(member, io.BytesIO(data))
        making.replace(final)
    return key


def pack(folder: Path) -> dict[str, dict[str, str]]:
    """folder: a finished cache folder. Returns {"world" and "app": {"file", "key"}}; the archives lie beside the folder."""
    world = [("e2e/__init__.py", E2E / "__init__.py")]
    world += [
        (f"e2e/old_world/{path.relative_to(E2E / 'old_world')}", path)
        for path in _files(E2E / "old_world")
        if path.suffix in (".py", ".sql")
    ]
    world += [(f"data/{folder.name}/{path.name}", path) for path in _files(folder)]
    app = [(str(path.relative_to(E2E / "apps" / "booking")), path) for path in _files(E2E / "apps" / "booking")]
    packed: dict[str, dict[str, str]] = {}
    for name, entries in (("world", world), ("app", app)):
        key = _pack(folder.parent / name, entries)
        packed[name] = {"file": str((folder.parent / f"{name}-{key}.tar").resolve()), "key": key}
    return {**packed, "data": {"folder": folder.name, "made_from": cache.key()}}
