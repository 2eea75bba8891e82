"""The clients' logs: JSON lines, each written whole and at once, so that a killed client loses at most its last line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from .figures import Acknowledged, Attempt, Read, parse_lines


class Log:
    """One file, opened for appending."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def write(self, **fields: object) -> None:
        os.write(self._handle, (json.dumps(fields, ensure_ascii=False) + "\n").encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._handle)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _entries(path: Path) -> list[dict[str, object]]:
    return parse_lines(path.name, path.read_text()) if path.exists() else []


def read(folder: Path) -> tuple[list[Attempt], list[Acknowledged], list[Read]]:
    """The three logs of a run. Raises LogError."""
    attempts = [
        Attempt(float(str(e["t"])), str(e["id"]), _number(e["status"]), float(str(e["ms"])), _text(e["address"]))
        for e in _entries(folder / "attempts.jsonl")
    ]
    acknowledged = [
        Acknowledged(float(str(e["t"])), str(e["id"]), int(str(e["booking"])), int(str(e["receipt"])), str(e["address"]))
        for e in _entries(folder / "acknowledged.jsonl")
    ]
    reads = [
        Read(float(str(e["t"])), str(e["path"]), _number(e["status"]), float(str(e["ms"])), e["ok"] is True, _text(e["address"]))
        for e in _entries(folder / "reads.jsonl")
    ]
    return attempts, acknowledged, reads
