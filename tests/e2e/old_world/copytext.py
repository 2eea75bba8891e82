"""PostgreSQL's COPY text format, and the compressed files that hold it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from uuid import UUID

Value = None | bool | int | float | str | bytes | date | datetime | timedelta | UUID | dict[str, object] | list[str] | list[int]
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def _element(text: object) -> str:
    return '"' + str(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def field(value: Value) -> str:
    """One field: None is ``\\N``, a dict is JSON, a list is an array, bytes are hex."""
    if value is None:
        return "\\N"
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, (int, UUID)):
        return str(value)
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, bytes):
        return "\\\\x" + value.hex()
    if isinstance(value, timedelta):
        return f"{int(value.total_seconds())} seconds"
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).translate(_ESCAPES)
    if isinstance(value, list):
        return ("{" + ",".join(_element(item) for item in value) + "}").translate(_ESCAPES)
    return value.translate(_ESCAPES)


def lines(rows: Iterable[Sequence[Value]]) -> Iterator[str]:
    """The rows as COPY lines, each with its newline."""
    for row in rows:
        yield "\t".join(map(field, row)) + "\n"


def write(path: Path, text_lines: Iterable[str]) -> int:
    """Writes lines to a compressed file, whose bytes depend on the lines alone. Returns how many."""
    count = 0
    with path.open("wb") as raw, gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=1, mtime=0) as packed:
        pending: list[str] = []
        for line in text_lines:
            pending.append(line)
            if len(pending) == 4096:
                packed.write("".join(pending).encode())
                count += len(pending)
                pending.clear()
        packed.write("".join(pending).encode())
        count += len(pending)
    return count


def read(path: Path, size: int = 1 << 18) -> Iterator[bytes]:
    """The uncompressed bytes of such a file, in pieces."""
    with gzip.open(path, "rb") as packed:
        while piece := packed.read(size):
            yield piece
