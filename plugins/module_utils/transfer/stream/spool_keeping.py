# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How long the spool is kept, and how much of it there is."""

from __future__ import annotations

import time
from pathlib import Path

from . import files, records

# Samples of what had been applied when; old ones tell which segments have been applied for long enough.
_APPLIED = "applied.json"
_SAMPLE_SECONDS = 15.0


def remove_applied(folder: Path, applied: int, keep_seconds: float) -> int:
    """Remove segments whose transactions have all been applied for ``keep_seconds``; how many. The newest of them and the one written now stay.

    applied: cutover.stream.applied_lsn. When it was reached is noted in the folder, for a server that failed over may have forgotten the last of it.
    """
    now = time.time()
    path = folder / _APPLIED
    noted = files.load(path) or {}
    before = [(float(at), int(position)) for at, position in noted.get("samples", [])]
    samples = [(at, position) for at, position in before if at <= now and position <= applied]
    if not samples or now - samples[-1][0] >= min(_SAMPLE_SECONDS, keep_seconds / 4):
        samples.append((now, applied))
    old = [sample for sample in samples if now - sample[0] >= keep_seconds]
    settled = old[-1][1] if old else 0
    samples = samples[max(len(old) - 1, 0) :]
    if samples != before:
        files.show(path, {"samples": samples})
    known = records.segments(folder)
    # All of a segment is below the name of the next one.
    done = [segment for segment, following in zip(known, known[1:], strict=False) if following <= settled]
    for segment in done[:-1]:
        records.path_of(folder, segment).unlink(missing_ok=True)
    return len(done[:-1])


def usage(folder: Path) -> tuple[int, int]:
    """(segments, bytes) of a spool."""
    sizes = []
    for path in folder.glob("*.seg"):
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:
            continue
    return len(sizes), sum(sizes)
