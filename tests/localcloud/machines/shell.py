"""Run the host's programs, with a time limit and an error that says what failed."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from localcloud.backend import BackendError


def run(command: Sequence[str | Path], *, stdin: str | None = None, seconds: float = 60.0) -> str:
    """Standard output of a program that must succeed. Raises BackendError with its last words otherwise."""
    done = attempt(command, stdin=stdin, seconds=seconds)
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-800:]
        raise BackendError(f"`{' '.join(str(word) for word in command)[:200]}` ended with {done.returncode}: {said}")
    return done.stdout


def attempt(command: Sequence[str | Path], *, stdin: str | None = None, seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run a program whose failure the caller judges. A program that takes too long is ended."""
    words = [str(word) for word in command]
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=seconds, check=False, input=stdin or "")
    except subprocess.TimeoutExpired:
        raise BackendError(f"`{' '.join(words)[:200]}` did not end within {seconds:.0f} s") from None
    except FileNotFoundError:
        raise BackendError(f"{words[0]} is not installed: run `python -m localcloud doctor`") from None
