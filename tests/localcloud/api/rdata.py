"""What record values look like, by type, as DNS has it in zone files."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable

TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s"]+')
LABEL = r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"
_NAME = re.compile(rf"@|\.|(?:\*\.)?{LABEL}(?:\.{LABEL})*\.?")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
LONGEST_TEXT = 255
MOST_RECORDS = 50
Check = Callable[[str], bool]


def tokens(value: str) -> list[str] | None:
    """The words of a value, quoted strings whole; None for an unbalanced quote."""
    return TOKEN.findall(value) if not TOKEN.sub("", value).strip() else None


def _name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None and len(text) <= 254


def _number(bits: int) -> Check:
    return lambda text: text.isascii() and text.isdigit() and len(text) <= 10 and int(text) < 2**bits


def _hexadecimal(text: str) -> bool:
    return len(text) % 2 == 0 and re.fullmatch(r"[0-9A-Fa-f]+", text) is not None


def _text(text: str) -> bool:
    """A quoted string; an escape counts as the one character it stands for."""
    match = _QUOTED.fullmatch(text)
    return match is not None and len(re.sub(r"\\(?:[0-9]{3}|.)", "x", match[1]).encode()) <= LONGEST_TEXT


def _tag(text: str) -> bool:
    return re.fullmatch(r"[a-z0-9]{1,15}", text) is not None


def _address(version: int) -> Check:
    def check(text: str) -> bool:
        try:
            return ipaddress.ip_address(text).version == version and "%" not in text
        except ValueError:
            return False

    return check


_U8, _U16, _U32 = _number(8), _number(16), _number(32)
# Type -> the words of a value, and what it is called in an error.
_WORDS: dict[str, tuple[tuple[Check, ...], str]] = {
    "A": ((_address(4),), "an IPv4 address"),
    "AAAA": ((_address(6),), "an IPv6 address"),
    "CAA": ((_U8, _tag, _text), 'flags, a tag and a quoted value such as 0 issue "letsencrypt.org"'),
    "CNAME": ((_name,), "a domain name"),
    "DS": ((_U16, _U8, _U8, _hexadecimal), "key tag, algorithm, digest type and digest"),
    "HINFO": ((_text, _text), "two quoted strings"),
    "MX": ((_U16, _name), "a preference and a domain name"),
    "NS": ((_name,), "a domain name"),
    "PTR": ((_name,), "a domain name"),
    "RP": ((_name, _name), "two domain names"),
    "SOA": ((_name, _name, _U32, _U32, _U32, _U32, _U32), "two domain names and five numbers"),
    "SRV": ((_U16, _U16, _U16, _name), "priority, weight, port and a domain name"),
    "TLSA": ((_U8, _U8, _U8, _hexadecimal), "usage, selector, matching type and data"),
}
TYPES = (*_WORDS, "HTTPS", "SVCB", "TXT")


def problem(kind: str, value: str) -> str | None:
    """Why this is no value of the type, or None."""
    words = tokens(value)
    if not words:
        return "is empty or has an unbalanced quote"
    if kind == "TXT":
        return None if all(map(_text, words)) else f"must be one or more quoted strings of at most {LONGEST_TEXT} characters"
    if kind in ("HTTPS", "SVCB"):
        fits = len(words) >= 2 and _U16(words[0]) and _name(words[1]) and (words[0] != "0" or len(words) == 2)
        return None if fits else "must be a priority, a domain name and parameters, which priority 0 has none of"
    checks, told = _WORDS[kind]
    fits = len(words) == len(checks) and all(check(word) for check, word in zip(checks, words, strict=True))
    return None if fits else f"must be {told}"
