"""Zone files (RFC 1035, section 5): one read into record sets, and record sets written as one. Names stay relative to the zone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from .rdata import TYPES

_WORD = re.compile(r'"(?:[^"\\]|\\.)*"|[()]|;.*|[^\s"();]+')


class ZonefileError(ValueError):
    """A line that cannot be taken; its number is part of the text."""


@dataclass
class Zonefile:
    """ttl: the last $TTL, if there is one. sets: (name, type) -> ttl or None, and values in their order."""

    ttl: int | None = None
    sets: dict[tuple[str, str], tuple[int | None, list[str]]] = field(default_factory=dict)


def _lines(text: str) -> Iterator[tuple[int, bool, list[str]]]:
    """(line number, whether the owner is left out, words) of each entry; parentheses join lines, comments are dropped."""
    words: list[str] = []
    begun, blank, depth = 0, False, 0
    for number, line in enumerate(text.splitlines(), 1):
        if not words and depth == 0:
            begun, blank = number, line[:1].isspace()
        for word in _WORD.findall(line):
            if word == "(":
                depth += 1
            elif word == ")":
                depth -= 1
            elif not word.startswith(";"):
                words.append(word)
        if depth < 0:
            raise ZonefileError(f"line {number}: a closing parenthesis without an opening one")
        if depth == 0 and words:
            yield begun, blank, words
            words = []
    if depth:
        raise ZonefileError(f"line {begun}: a parenthesis is not closed")


def relative(name: str, zone: str) -> str:
    """A name as the API has it: '@' for the zone itself, without the zone otherwise. Raises ValueError for a name of another zone."""
    lower = name.lower()
    if lower in ("@", f"{zone}."):
        return "@"
    if not lower.endswith("."):
        return lower
    if not lower.endswith(f".{zone}."):
        raise ValueError(f"'{name}' is not in the zone")
    return lower.removesuffix(f".{zone}.")


def _seconds(text: str, number: int) -> int:
    if not 60 <= int(text) <= 2147483647:
        raise ZonefileError(f"line {number}: a TTL of {text} is outside 60 to 2147483647")
    return int(text)


def parse(text: str, zone: str) -> Zonefile:
    """Read a zone file of this zone. Raises ZonefileError."""
    found = Zonefile()
    owner = ""
    for number, blank, words in _lines(text):
        if words[0].startswith("$"):
            _directive(found, words, zone, number)
            continue
        if not blank:
            try:
                owner = relative(words.pop(0), zone)
            except ValueError as error:
                raise ZonefileError(f"line {number}: {error}") from error
        if not owner:
            raise ZonefileError(f"line {number}: the first record has no name")
        ttl: int | None = None
        while words and (words[0].isdigit() or words[0].upper() in ("IN", "CH", "HS")):
            word = words.pop(0)
            if word.isdigit():
                ttl = _seconds(word, number)
            elif word.upper() != "IN":
                raise ZonefileError(f"line {number}: only class IN is allowed, not {word}")
        kind = words.pop(0).upper() if words else ""
        if kind not in TYPES:
            raise ZonefileError(f"line {number}: '{kind}' is not a type that is supported")
        known, values = found.sets.setdefault((owner, kind), (ttl, []))
        if values and known != ttl:
            raise ZonefileError(f"line {number}: the TTL of {owner} {kind} differs from line to line")
        values.append(" ".join(words))
    return found


def _directive(found: Zonefile, words: list[str], zone: str, number: int) -> None:
    name, value = words[0].upper(), words[1] if len(words) == 2 else ""
    if name == "$ORIGIN" and value.lower() == f"{zone}.":
        return
    if name == "$TTL" and value.isdigit():
        found.ttl = _seconds(value, number)
        return
    raise ZonefileError(f"line {number}: '{' '.join(words)}' is not allowed; $ORIGIN {zone}. and $TTL are")


def write(zone: str, ttl: int, sets: Iterable[tuple[str, str, int | None, Iterable[tuple[str, str]]]]) -> str:
    """sets: (name, type, ttl, (value, comment) pairs); SOA first, then by name and type."""
    lines = [f"$ORIGIN\t{zone}.", f"$TTL\t{ttl}"]
    ordered = sorted(sets, key=lambda one: (one[1] != "SOA", one[0] != "@", one[0], one[1]))
    for name, kind, own, records in ordered:
        lines.append("")
        for value, comment in records:
            seconds = [] if own is None else [str(own)]
            lines.append("\t".join([name, "IN", *seconds, kind, value]) + (f" ; {' '.join(comment.split())}" if comment else ""))
    return "\n".join(lines) + "\n"
