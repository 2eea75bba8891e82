# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Blocks of rows with the same bounds on both sides, evenly filled whatever the gaps between keys. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

# Rows per block: few enough that a block that differs is read in a moment, enough that sums travel instead of rows.
BLOCK_ROWS = 8192
BUCKET_ROWS = 1024
MAX_BUCKET_BITS = 17
# A block that differs is divided by the remainder of its keys into parts of about so many rows. Primes, so that no stride between keys fits.
PART_ROWS = 128
_PRIMES = (61, 251, 1021, 4093, 16381, 65521)
LOWEST, HIGHEST = -(2**63), 2**63 - 1


@dataclass(frozen=True)
class Range:
    """Positions low to high, both inside, with the rows that each side has there; only those with this remainder where modulus is over 1."""

    low: int
    high: int
    source_rows: int
    target_rows: int
    modulus: int = 1
    residue: int = 0


Sums = dict[int, tuple[int, int, int]]
"""{block: (rows, sum of first hash, sum of second hash)}"""


def cuts(rows: float, low: int, high: int, histogram: Sequence[int] = ()) -> list[int]:
    """First positions of all blocks but the first, ascending.

    low, high: ends of the keys there are; histogram: keys between which as many rows lie each, as the server's statistics have them, or none
    """
    blocks = round(rows / BLOCK_ROWS)
    known = [key for key in dict.fromkeys(histogram) if low < key < high]
    if blocks < 2 or high <= low:
        return []
    edges = sorted({low, *known, high})
    # Without statistics keys are taken to lie evenly; with them, only within a part of the histogram.
    pieces = max(1, -(-blocks // (len(edges) - 1)))
    wide = [(high - low) / blocks] if not known else [(known[-1] - known[0]) / max(1, (len(known) - 1) * pieces)]
    found: set[int] = set()
    for place, (start, end) in enumerate(zip(edges, edges[1:], strict=False)):
        parts = pieces
        if place == len(edges) - 2 and known and wide[0] >= 1:
            # Keys given since the statistics were made lie beyond their end.
            parts = min(max(pieces, round((end - start) / wide[0])), 4 * blocks)
        found.update(start + (end - start) * number // parts for number in range(parts))
    return sorted(found - {low})


def block_of(position: int, starts: Sequence[int]) -> int:
    """Number of the block of a position: how many blocks start at or before it, but the first."""
    return bisect_right(starts, position)


def bounds(block: int, starts: Sequence[int]) -> tuple[int, int]:
    """First and last position of a block; the first and the last block are open."""
    return (starts[block - 1] if block else LOWEST), (starts[block] - 1 if block < len(starts) else HIGHEST)


def bucket_shift(rows: float) -> int:
    """Width of buckets of hashes, which are spread evenly, as a power of two."""
    bits = 1
    while bits < MAX_BUCKET_BITS and (1 << bits) * BUCKET_ROWS < rows:
        bits += 1
    return 64 - bits


def differing(left: Sums, right: Sums) -> list[int]:
    """Blocks in which the sides differ, ascending. A block that one side does not have differs."""
    return [block for block in sorted(left.keys() | right.keys()) if left.get(block) != right.get(block)]


def modulus(rows: int) -> int:
    """Into how many parts a block of so many rows is divided."""
    return next((prime for prime in _PRIMES if prime * PART_ROWS >= rows), _PRIMES[-1])


def merged(ranges: Sequence[Range]) -> list[Range]:
    """The same positions in fewer ranges: neighbours as one."""
    found: list[Range] = []
    for one in ranges:
        last = found[-1] if found else None
        if last is not None and last.modulus == one.modulus == 1 and last.high + 1 == one.low:
            found[-1] = Range(last.low, one.high, last.source_rows + one.source_rows, last.target_rows + one.target_rows)
        else:
            found.append(one)
    return found


def checksum(sums: Sums) -> str:
    """Count and both sums of a whole relation, the same however it was cut into blocks."""
    count = sum(part[0] for part in sums.values())
    first, second = (sum(part[place] for part in sums.values()) % (1 << 64) for place in (1, 2))
    return f"{count}-{first:016x}{second:016x}"
