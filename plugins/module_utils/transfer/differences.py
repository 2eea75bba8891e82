# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Rows of two sides merged by position: what is missing, extra or changed. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from .errors import certain

Hit: TypeAlias = "tuple[int, tuple[str, ...] | None, int, int]"
"""(position, key as text, first hash, second hash) of one row."""


@dataclass(frozen=True)
class Difference:
    """A row that differs. key: {column of the source: value as text}, or None without a key, then row is the row's text.

    columns: names on the source that differ, for a changed row; copies: how many such rows each side has, for rows without a key
    """

    key: Mapping[str, str] | None
    row: str | None = None
    columns: tuple[str, ...] = ()
    copies: tuple[int, int] | None = None


@dataclass
class Tally:
    """Differences found so far: positions and keys up to a cap, counts without one."""

    cap: int
    missing: list[Hit] = field(default_factory=list)
    extra: list[Hit] = field(default_factory=list)
    changed: list[Hit] = field(default_factory=list)
    missing_count: int = 0
    extra_count: int = 0
    changed_count: int = 0

    def group(self, ours: Sequence[Hit], theirs: Sequence[Hit]) -> None:
        """Count what differs among rows of one position."""
        if len(ours) == 1 and len(theirs) == 1 and ours[0] == theirs[0]:
            return
        names = dict.fromkeys(_name(hit) for hit in (*ours, *theirs))
        for name in names:
            left = Counter(hit[2:] for hit in ours if _name(hit) == name)
            right = Counter(hit[2:] for hit in theirs if _name(hit) == name)
            lost, gained = (left - right).total(), (right - left).total()
            changed = min(lost, gained)
            hit = next(hit for hit in (*ours, *theirs) if _name(hit) == name)
            self.changed_count += changed
            self.missing_count += lost - changed
            self.extra_count += gained - changed
            for count, listed in ((changed, self.changed), (lost - changed, self.missing), (gained - changed, self.extra)):
                if count and len(listed) < self.cap:
                    listed.append(hit)

    def one_sided(self, missing: bool, rows: int, hits: Iterable[Hit]) -> None:
        """Count rows of which the other side has none; hits: some of them, to be listed as far as there is room."""
        listed = self.missing if missing else self.extra
        if missing:
            self.missing_count += rows
        else:
            self.extra_count += rows
        known = {_name(hit) for hit in listed}
        for position, key, first, second in hits:
            hit: Hit = (position, tuple(key) if key is not None else None, first, second)
            if len(listed) < self.cap and _name(hit) not in known:
                known.add(_name(hit))
                listed.append(hit)


def _name(hit: Hit) -> Any:
    """What identifies a row: its key, or without one its content."""
    return hit[1] if hit[1] is not None else hit[2:]


def merge(ours: Iterable[Hit], theirs: Iterable[Hit], tally: Tally) -> None:
    """Compare two streams of rows in ascending order of position."""
    left, right = _groups(ours), _groups(theirs)
    one, other = next(left, None), next(right, None)
    while one is not None or other is not None:
        if one is None or (other is not None and other[0] < one[0]):
            tally.group((), certain(other, "the group of rows")[1])
            other = next(right, None)
        elif other is None or one[0] < other[0]:
            tally.group(one[1], ())
            one = next(left, None)
        else:
            tally.group(one[1], other[1])
            one, other = next(left, None), next(right, None)


def _groups(hits: Iterable[Hit]) -> Iterator[tuple[int, list[Hit]]]:
    group: list[Hit] = []
    for position, key, first, second in hits:
        if group and group[0][0] != position:
            yield group[0][0], group
            group = []
        group.append((position, tuple(key) if key is not None else None, first, second))
    if group:
        yield group[0][0], group
