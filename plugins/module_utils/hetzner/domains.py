# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Domain names: as people write them, and as DNS has them (lower case, ASCII). Pure; every refusal is a ValueError that says why."""

from __future__ import annotations

import re

LONGEST = 253
_PART = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
# The dots of IDNA; and letters that Python's codec, which follows the standard of 2003, turns into others that today are other names.
_DOTS = re.compile("[.\u3002\uff0e\uff61]")
_CHANGED = "\u00df\u1e9e\u03c2\u200c\u200d"


def to_ascii(text: str) -> str:
    """'Bücher.DE' -> 'xn--bcher-kva.de'; dots are kept where they are."""
    return ".".join(_part(part) for part in _DOTS.split(text))


def _part(part: str) -> str:
    if part.isascii():
        return part.lower()
    changed = [letter for letter in part if letter in _CHANGED]
    try:
        if changed:
            raise UnicodeError
        return part.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise ValueError(f"{part!r} cannot be turned into ASCII without doubt: write it in punycode, as 'xn--...'") from error


def _check(name: str, parts: list[str]) -> None:
    wrong = [part for part in parts if not _PART.fullmatch(part)]
    if wrong:
        raise ValueError(
            f"{name!r} is not a domain name: {wrong[0]!r} must be 1 to 63 of letters, digits, '-' and '_', with no '-' at its ends"
        )


def zone(text: str) -> str:
    """The name of a zone. Whether it is directly below a public suffix, as the service demands, cannot be known here."""
    name = to_ascii(text)
    if name.endswith(".") and len(name) > 1:
        raise ValueError(f"{text!r} ends with a dot: leave the dot out")
    parts = name.split(".")
    _check(text, parts)
    if "_" in name:
        raise ValueError(f"{text!r} holds '_', which only names inside of a zone may")
    if len(parts) < 2:
        raise ValueError(f"{text!r} is a single word: a zone is a domain such as 'example.org'")
    if len(name) > LONGEST:
        raise ValueError(f"{text[:40]!r}... has {len(name)} characters, a domain name has at most {LONGEST}")
    return name


def record(text: str, zone_name: str) -> str:
    """The name of a record set, relative to its zone: '@' for the zone itself, '*' or '*.eu' for all that is not declared."""
    if text == "@":
        return text
    name = to_ascii(text)
    whole = name.removesuffix(".")
    if whole == zone_name or whole.endswith(f".{zone_name}"):
        raise ValueError(f"{text!r} holds the name of the zone: write {whole.removesuffix(zone_name).removesuffix('.') or '@'!r}")
    if name.endswith("."):
        raise ValueError(f"{text!r} is not a name in this zone: write it without the dot, and without the zone's name")
    parts = name.split(".")
    _check(text, parts[1:] if parts[0] == "*" and len(parts) > 1 else [] if name == "*" else parts)
    if len(name) + 1 + len(zone_name) > LONGEST:
        raise ValueError(f"{text[:40]!r}... is too long: with its zone, a name has at most {LONGEST} characters")
    return name


def target(text: str, zone_name: str) -> str:
    """A name in a record's value, whole and with its dot at the end.

    '@' is the zone, one word a name in the zone. More words without a dot at the end could be meant either way, and are refused.
    """
    if text in ("@", "."):
        return f"{zone_name}." if text == "@" else text
    name = to_ascii(text)
    whole = name.removesuffix(".")
    _check(text, whole.split("."))
    if len(whole) > LONGEST:
        raise ValueError(f"{text[:40]!r}... has {len(whole)} characters, a domain name has at most {LONGEST}")
    if whole.rpartition(".")[2].isdigit() and "." in whole:
        raise ValueError(f"{text!r} is an address, a name is expected: give the address an A record, and write its name here")
    if name.endswith("."):
        return name
    if "." in name:
        raise ValueError(f"{text!r} can be read in two ways: write '{name}.' for that name, or '{name}.{zone_name}.' for one in this zone")
    return f"{name}.{zone_name}."


def observed_target(text: str, zone_name: str) -> str:
    """A name in a value as the API has it, in the form of ``target``."""
    name = text.lower()
    if name == "@":
        return f"{zone_name}."
    return name if name.endswith(".") else f"{name}.{zone_name}."
