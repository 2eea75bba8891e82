"""What all benchmarks share: servers with the settings of production, the machine's description, the result file and its table."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pgservers

ROOT = Path(__file__).parents[2]
ARTIFACTS = ROOT / "artifacts" / "bench"
# As in production but for the size of the machine; a benchmark without fsync and checksums would praise whoever writes most.
SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "15min",
    "shared_buffers": "2GB",
    "max_connections": "100",
    "max_worker_processes": "8",
    "autovacuum": "off",
}
Figure = float | int | bool


def scale() -> float:
    """SCALE of the environment: share of the full data set, 1.0 unless told. Raises SystemExit for what is no such number."""
    text = os.environ.get("SCALE", "1.0")
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0.0005 <= found <= 100:
        raise SystemExit(f"SCALE is {text!r}, expected a number from 0.0005 to 100")
    return found


def number(name: str, default: int, least: int = 1) -> int:
    """A whole number of the environment. Raises SystemExit for anything else."""
    text = os.environ.get(name, str(default))
    if not text.isdigit() or int(text) < least:
        raise SystemExit(f"{name} is {text!r}, expected a whole number of at least {least}")
    return int(text)


def workplace() -> Path:
    """Where servers and files of benchmarks are: below the checkout, unless the servers' own user could not get there."""
    place = ROOT / ".cache" / "bench"
    if os.geteuid() == 0 and not all(folder.stat().st_mode & 0o001 for folder in ROOT.parents):
        place = Path("/var/tmp/cutover-bench")
    place.mkdir(parents=True, exist_ok=True)
    place.chmod(0o755)
    return place


@contextmanager
def servers(settings: Mapping[str, str] | None = None) -> Iterator[tuple[pgservers.Server, pgservers.Server]]:
    """(source, target), stopped and removed at the end; what a killed run has left is removed at the beginning. settings: over SETTINGS."""
    chosen = {**SETTINGS, **({"shared_buffers": "256MB"} if scale() < 0.5 else {}), **(settings or {})}
    with pgservers.Fleet(chosen, parent=workplace()) as fleet:
        programs = pgservers.debian_programs()
        source, target = fleet.start(source=programs, target=programs)
        yield source, target


def machine() -> dict[str, Any]:
    """Description of this machine and of the programs that were measured."""
    info = Path("/proc/cpuinfo").read_text()
    model = next((line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name")), platform.machine())
    memory = next(int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    system = platform.freedesktop_os_release().get("PRETTY_NAME", "") if Path("/etc/os-release").exists() else ""
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory / 1024**2, 1),
        "kernel": platform.release(),
        "system": system,
        "load": [round(value, 2) for value in os.getloadavg()],
        "versions": {
            "python": platform.python_version(),
            **{name: version([str(pgservers.debian_programs() / name)]) for name in ("postgres",)},
            **{name: version([name]) for name in ("pgcopydb", "pg_comparator") if shutil.which(name)},
        },
    }


def version(command: Sequence[str]) -> str:
    """First line of what a program says to --version."""
    done = subprocess.run([*command, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False)
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[0] if lines else f"exit status {done.returncode}"


def publish(
    bench: str,
    figures: Mapping[str, Figure],
    contestants: Sequence[Mapping[str, Any]],
    began: Mapping[str, Any],
    **more: Any,
) -> Path:
    """Print a JSON line per contestant and the table of figures, write ``artifacts/bench/<bench>.json``; its path.

    began: ``machine()`` taken before the first measurement, so that its load is not the benchmark's own; more: further keys of the file
    """
    for line in contestants:
        print(json.dumps({"bench": bench, **line}, ensure_ascii=False))
    print(table([("figure", "value"), *((name, shown(value)) for name, value in figures.items())]))
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    path = ARTIFACTS / f"{bench}.json"
    content = {
        "bench": bench,
        "figures": dict(figures),
        "contestants": [dict(line) for line in contestants],
        "machine": dict(began),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **more,
    }
    new = path.with_suffix(".new")
    new.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    new.replace(path)
    print(f"written: {path.relative_to(ROOT)}")
    return path


def shown(value: Any) -> str:
    """A value for the table: numbers with three digits that matter."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return str(value)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows with aligned columns, the first one as the head; numbers to the right. Pure."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        cells = [
            text.ljust(width) if column == 0 else text.rjust(width) for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join([line(rows[0]), "  ".join("-" * width for width in widths), *(line(row) for row in rows[1:])])


def paired_ratio(one: Sequence[float], other: Sequence[float]) -> float:
    """Median of one/other round by round: a round's noise meets both. Pure. Of unequal lengths the common rounds count."""
    pairs = list(zip(one, other, strict=False))
    if not pairs:
        raise ValueError("no round that both took part in")
    return statistics.median(left / right for left, right in pairs)


def note(text: str) -> None:
    """Progress for the one who waits; the result lines go to the standard output."""
    print(f"  {datetime.datetime.now().astimezone():%H:%M:%S} {text}", file=sys.stderr, flush=True)
