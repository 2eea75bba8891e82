"""The COPY files on disk: made once, keyed by a hash of everything that makes them."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from . import copytext, flights
from .tables import tables
from .traffic import Traffic

HERE = Path(__file__).parent
MAKERS = ("business.py", "cache.py", "copytext.py", "flights.py", "supabase.py", "tables.py", "traffic.py", "whatsapp.py")


@dataclass(frozen=True)
class Part:
    """One table's file: name in the database, column list, file name, rows."""

    table: str
    columns: str
    file: str
    rows: int


def key() -> str:
    """What the files depend on, as 16 hex digits."""
    digest = hashlib.sha256(f"{flights.VERSION} {flights.SHA256}".encode())
    for name in MAKERS:
        digest.update((HERE / name).read_bytes())
    return digest.hexdigest()[:16]


def parts(folder: Path) -> list[Part]:
    """The parts of a finished cache folder; raises FileNotFoundError when it is not finished."""
    return [Part(**part) for part in json.loads((folder / "manifest.json").read_text())]


def build(cache: Path) -> Path:
    """Makes the files under ``cache/<key>`` unless they are there. Returns that folder. Safe when two do it at once."""
    folder = cache / key()
    if (folder / "manifest.json").exists():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=".making-", dir=cache))
    try:
        found: list[Part] = []
        for table, (columns, rows) in tables(Traffic()).items():
            count = copytext.write(made / f"{table}.copy.gz", copytext.lines(rows()))
            found.append(Part(table, columns, f"{table}.copy.gz", count))
        for table, columns, lines in flights.tables(flights.archive()):
            count = copytext.write(made / f"{table}.copy.gz", lines)
            expected = flights.ROWS[table.removeprefix("flights.")]
            if count != expected:
                raise SystemExit(f"{table}: {count} rows, expected {expected}")
            found.append(Part(table, columns, f"{table}.copy.gz", count))
        (made / "manifest.json").write_text(json.dumps([vars(part) for part in found], indent=1) + "\n")
        made.chmod(0o755)
        try:
            made.rename(folder)
        except OSError:
            if not (folder / "manifest.json").exists():
                raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder
