# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Values of DNS records in one canonical form by type, so that what is declared and what is there compare equal. Pure.

TXT is plain text here; quotes and parts of 255 characters are what the API wants, and only what is sent has them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence

from . import domains

TYPES = ("A", "AAAA", "CAA", "CNAME", "DS", "HINFO", "HTTPS", "MX", "NS", "PTR", "RP", "SRV", "SVCB", "TLSA", "TXT")
ADDRESSES = {"A": "ipv4", "AAAA": "ipv6"}
LONGEST_PART = 255
_WORD = re.compile(r'(?:[^\s"]|"(?:[^"\\]|\\.)*")+')
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\([0-9]{3}|.)", re.DOTALL)
Name = Callable[[str, str], str]


def declared(kind: str, text: str, zone: str) -> str:
    """A declared value in canonical form. Raises ValueError that says what is wrong with it."""
    if kind == "TXT":
        return _plain(text)
    return _canonical(kind, text, zone, domains.target)


def observed(kind: str, text: str, zone: str) -> str:
    """A value as the API has it in canonical form; one that cannot be read is kept as it is."""
    try:
        return _unquoted(text) if kind == "TXT" else _canonical(kind, text, zone, domains.observed_target)
    except ValueError:
        return " ".join(text.split())


def wire(kind: str, value: str) -> str:
    """A canonical value as the API wants it sent."""
    return quoted(value) if kind == "TXT" else value


def _plain(text: str) -> str:
    if not text:
        raise ValueError("is empty")
    if len(text) > 1 and text[0] == text[-1] == '"':
        raise ValueError("is quoted: write the text alone; it is quoted, and split where it is long, when it is sent")
    odd = next((letter for letter in text if ord(letter) < 32 or ord(letter) == 127), None)
    if odd is not None:
        raise ValueError(f"holds the control character {odd!r}: write it on one line ('>-' in YAML folds lines)")
    return text


def quoted(text: str) -> str:
    """'say "hi"' -> '"say \\"hi\\""'; what is no ASCII as the bytes of UTF-8, each as three digits. Parts are full, none is too long."""
    parts = [""]
    for byte in text.encode():
        letter = chr(byte)
        shown = f"\\{letter}" if letter in '"\\' else letter if 32 <= byte < 127 else f"\\{byte:03}"
        if len(parts[-1]) + len(shown) > LONGEST_PART:
            parts.append("")
        parts[-1] += shown
    return " ".join(f'"{part}"' for part in parts)


def _unquoted(text: str) -> str:
    words = [_QUOTED.fullmatch(word) for word in re.findall(r'"(?:[^"\\]|\\.)*"|\S+', text)]
    if not words:
        raise ValueError("is empty")
    octets = b""
    for match in words:
        if match is None:
            raise ValueError("is not quoted")
        at = 0
        for escape in _ESCAPED.finditer(match[1]):
            octets += match[1][at : escape.start()].encode()
            octets += bytes([int(escape[1]) % 256]) if escape[1].isdigit() and len(escape[1]) == 3 else escape[1].encode()
            at = escape.end()
        octets += match[1][at:].encode()
    return octets.decode(errors="replace")


def _canonical(kind: str, text: str, zone: str, name: Name) -> str:
    words = _WORD.findall(text)
    if not words or _WORD.sub("", text).strip():
        raise ValueError("is empty" if not words else "has an unbalanced quote")
    if kind in ADDRESSES:
        return _address(kind, text.strip())
    if kind in ("HTTPS", "SVCB"):
        return _service(words, zone, name)
    shapes, example = _SHAPES[kind]
    if len(words) != len(shapes):
        raise ValueError(f"{text!r} must be of {len(shapes)} {'words' if len(shapes) > 1 else 'word'}, such as {example!r}")
    return " ".join(shape(word, zone, name) for shape, word in zip(shapes, words, strict=True))


def _address(kind: str, text: str) -> str:
    try:
        if kind == "A":
            return str(ipaddress.IPv4Address(text))
        address = ipaddress.IPv6Address(text)
    except ValueError:
        address = None
    if address is None or address.scope_id:
        told = "an IPv4 address such as '192.0.2.1'" if kind == "A" else "an IPv6 address such as '2001:db8::1'"
        raise ValueError(f"{text!r} is not {told}")
    return str(address)


def _number(largest: int) -> Callable[[str, str, Name], str]:
    def check(word: str, _zone: str, _name: Name) -> str:
        if not (word.isascii() and word.isdigit() and len(word) <= 10 and int(word) <= largest):
            raise ValueError(f"{word!r} is not a number from 0 to {largest}")
        return str(int(word))

    return check


def _target(word: str, zone: str, name: Name) -> str:
    return name(word, zone)


def _host(word: str, zone: str, name: Name) -> str:
    if word == ".":
        raise ValueError("'.' is the root, not a host")
    return name(word, zone)


def _hexadecimal(word: str, _zone: str, _name: Name) -> str:
    if len(word) % 2 or not re.fullmatch(r"[0-9A-Fa-f]+", word):
        raise ValueError(f"{word!r} is not hexadecimal")
    return word.lower()


def _tag(word: str, _zone: str, _name: Name) -> str:
    if not re.fullmatch(r"[A-Za-z0-9]{1,15}", word):
        raise ValueError(f"{word!r} is not a tag such as 'issue'")
    return word.lower()


def _text(word: str, _zone: str, _name: Name) -> str:
    match = _QUOTED.fullmatch(word)
    if match is None and '"' in word:
        raise ValueError(f"{word!r} is partly quoted")
    if len(match[1] if match else word) > LONGEST_PART:
        raise ValueError(f"{word[:40]!r}... is longer than {LONGEST_PART} characters")
    return word if match else f'"{word}"'


def _service(words: Sequence[str], zone: str, name: Name) -> str:
    """Priority, target and parameters; those in order, without quotes they do not need."""
    if len(words) < 2:
        raise ValueError(f"{' '.join(words)!r} must be a priority, a name and parameters, such as '1 . alpn=h2,h3'")
    priority = _number(65535)(words[0], zone, name)
    if priority == "0" and len(words) > 2:
        raise ValueError("priority 0 makes it an alias, which has no parameters")
    return " ".join([priority, name(words[1], zone), *sorted(map(_parameter, words[2:]))])


def _parameter(word: str) -> str:
    key, equals, value = word.partition("=")
    match = _QUOTED.fullmatch(value)
    if not re.fullmatch(r"[a-z0-9-]{1,63}", key):
        raise ValueError(f"{word!r} is not a parameter such as 'alpn=h2,h3'")
    plain = match[1] if match and not re.search(r'[\s"\\;]', match[1]) else value
    return key + equals + plain


_U8, _U16 = _number(255), _number(65535)
_SHAPES: dict[str, tuple[tuple[Callable[[str, str, Name], str], ...], str]] = {
    "CAA": ((_U8, _tag, _text), '0 issue "letsencrypt.org"'),
    "CNAME": ((_host,), "www.example.org."),
    "DS": ((_U16, _U8, _U8, _hexadecimal), "60485 13 2 d4b7d520..."),
    "HINFO": ((_text, _text), '"AMD64" "Linux"'),
    "MX": ((_U16, _target), "10 mail.example.org."),
    "NS": ((_host,), "ns1.example.org."),
    "PTR": ((_host,), "host.example.org."),
    "RP": ((_target, _target), "admin.example.org. ."),
    "SRV": ((_U16, _U16, _U16, _target), "0 5 5060 sip.example.org."),
    "TLSA": ((_U8, _U8, _U8, _hexadecimal), "3 1 1 0b9fa5a5..."),
}
