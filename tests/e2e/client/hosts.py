"""Names from a hosts file that may change at any moment, like DNS with a time to live of 0."""

from __future__ import annotations

from pathlib import Path


class UnknownNameError(Exception):
    """The hosts file does not name an address for the name, or cannot be read."""


def parse(text: str) -> dict[str, str]:
    """Name -> address; the first line that names it counts, as in hosts(5)."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        address, *names = line.split("#", 1)[0].split() or [""]
        for name in names:
            found.setdefault(name.lower(), address)
    return found


class HostsFile:
    """Looks a name up in the file as it is now; reads it again only when it changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._names: dict[str, str] = {}

    def address(self, name: str) -> str:
        """Raises UnknownNameError."""
        try:
            stat = self._path.stat()
            # A file put in place by renaming has another inode, so also a change within one clock tick is seen.
            seen = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if seen != self._seen:
                self._names, self._seen = parse(self._path.read_text()), seen
        except OSError as error:
            raise UnknownNameError(f"{self._path}: {error.strerror}") from error
        try:
            return self._names[name.lower()]
        except KeyError:
            raise UnknownNameError(f"{self._path} has no line for {name}") from None
