"""DNS messages in bytes (RFC 1035, 3596, 2782, 6844, 9460; EDNS of RFC 6891 for its size only). Names are not compressed."""

from __future__ import annotations

import base64
import ipaddress
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from localcloud.api.rdata import tokens

TYPES = {
    "A": 1, "NS": 2, "CNAME": 5, "SOA": 6, "PTR": 12, "HINFO": 13, "MX": 15, "TXT": 16, "RP": 17, "AAAA": 28,
    "SRV": 33, "DS": 43, "TLSA": 52, "SVCB": 64, "HTTPS": 65, "ANY": 255, "CAA": 257,
}  # fmt: skip
NAMES = {number: name for name, number in TYPES.items()}
OPT, IN, HEADER = 41, 1, 12
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)
_PARAMETERS = {"mandatory": 0, "alpn": 1, "no-default-alpn": 2, "port": 3, "ipv4hint": 4, "ech": 5, "ipv6hint": 6}


class WireError(ValueError):
    """Bytes that are no query."""


@dataclass(frozen=True)
class Query:
    """name: lower case, without the dot at the end ("" for the root). kind: a type's name, or "TYPE99". size: what the asker takes by UDP."""

    ident: int
    opcode: int
    recursion: bool
    name: str
    kind: str
    class_: int
    question: bytes
    size: int
    edns: bool


@dataclass(frozen=True)
class Record:
    """owner and names in value are whole, with or without the dot at the end."""

    owner: str
    kind: str
    ttl: int
    value: str


def parse(data: bytes) -> Query:
    """Raises WireError for anything but one question."""
    if len(data) < HEADER:
        raise WireError("too short")
    ident, flags, questions, answers, authority, additional = struct.unpack_from("!6H", data)
    if flags & 0x8000 or questions != 1 or answers or authority:
        raise WireError("not a query")
    name, at = _read_name(data, HEADER)
    if len(data) < at + 4:
        raise WireError("no type")
    kind, class_ = struct.unpack_from("!2H", data, at)
    end = at + 4
    size, edns = 512, False
    if additional and len(data) >= end + 5 and data[end] == 0 and struct.unpack_from("!H", data, end + 1)[0] == OPT:
        size, edns = max(512, struct.unpack_from("!H", data, end + 3)[0]), True
    known = NAMES.get(kind, f"TYPE{kind}")
    return Query(ident, flags >> 11 & 15, bool(flags & 0x100), name, known, class_, data[HEADER:end], size, edns)


def _read_name(data: bytes, at: int) -> tuple[str, int]:
    parts: list[str] = []
    while True:
        if at >= len(data) or data[at] > 63:
            raise WireError("no name")
        length, at = data[at], at + 1
        if length == 0:
            return ".".join(parts), at
        parts.append(data[at : at + length].decode("latin-1").lower())
        at += length


def reply(query: Query, code: int, authoritative: bool, answer: Sequence[Record], authority: Sequence[Record], most: int) -> bytes:
    """A whole message; where it is longer than ``most`` bytes, only the question, marked as truncated."""
    flags = 0x8000 | query.opcode << 11 | 0x400 * authoritative | 0x100 * query.recursion | code
    extra = b"\0" + struct.pack("!HHIH", OPT, 1232, 0, 0) if query.edns else b""
    counts = (1, len(answer), len(authority), int(query.edns))
    body = b"".join(map(_record, [*answer, *authority]))
    message = struct.pack("!6H", query.ident, flags, *counts) + query.question + body + extra
    if len(message) > most:
        return struct.pack("!6H", query.ident, flags | 0x200, 1, 0, 0, int(query.edns)) + query.question + extra
    return message


def refusal(data: bytes, code: int) -> bytes:
    """An answer to what could not be read, as far as there is an id."""
    return data[:2] + struct.pack("!5H", 0x8000 | code, 0, 0, 0, 0)


def name(text: str) -> bytes:
    parts = [part.encode("ascii") for part in text.removesuffix(".").split(".") if part]
    return b"".join(bytes([len(part)]) + part for part in parts) + b"\0"


def _record(record: Record) -> bytes:
    data = encode(record.kind, record.value)
    return name(record.owner) + struct.pack("!HHIH", TYPES[record.kind], IN, record.ttl, len(data)) + data


def _string(word: str) -> bytes:
    """A quoted string as its length and bytes."""
    octets, at, inner = b"", 0, word[1:-1]
    for escape in re.finditer(r"\\([0-9]{3}|.)", inner):
        octets += inner[at : escape.start()].encode()
        octets += bytes([int(escape[1])]) if len(escape[1]) == 3 else escape[1].encode()
        at = escape.end()
    octets += inner[at:].encode()
    return bytes([len(octets)]) + octets


def _numbers(layout: str, words: Sequence[str]) -> bytes:
    return struct.pack(layout, *map(int, words))


def _parameter(key: str, value: str) -> bytes:
    items = [one for one in value.split(",") if one]
    match key:
        case "mandatory":
            return b"".join(struct.pack("!H", number) for number in sorted(_PARAMETERS[one] for one in items))
        case "alpn":
            return b"".join(bytes([len(one)]) + one.encode() for one in items)
        case "port":
            return struct.pack("!H", int(value))
        case "ipv4hint" | "ipv6hint":
            return b"".join(ipaddress.ip_address(one).packed for one in items)
        case "ech":
            return base64.b64decode(value)
        case _:
            return b""


def _service(words: Sequence[str]) -> bytes:
    """Parameters in order of their numbers; those of no known name are left out."""
    given = re.findall(r'([a-z0-9-]+)(?:="?([^"\s]*)"?)?', " ".join(words[2:]).replace('= "', '="'))
    found = sorted((_PARAMETERS[key], _parameter(key, value)) for key, value in given if key in _PARAMETERS)
    return _numbers("!H", words[:1]) + name(words[1]) + b"".join(struct.pack("!HH", number, len(one)) + one for number, one in found)


def _host(words: Sequence[str]) -> bytes:
    return name(words[0])


_ENCODERS: dict[str, Callable[[Sequence[str]], bytes]] = {
    "A": lambda words: ipaddress.IPv4Address(words[0]).packed,
    "AAAA": lambda words: ipaddress.IPv6Address(words[0]).packed,
    "CAA": lambda words: _numbers("!B", words[:1]) + bytes([len(words[1])]) + words[1].encode() + _string(words[2])[1:],
    "DS": lambda words: _numbers("!HBB", words[:3]) + bytes.fromhex(words[3]),
    "HINFO": lambda words: b"".join(map(_string, words)),
    "HTTPS": _service,
    "MX": lambda words: _numbers("!H", words[:1]) + name(words[1]),
    "RP": lambda words: name(words[0]) + name(words[1]),
    "SOA": lambda words: name(words[0]) + name(words[1]) + _numbers("!5I", words[2:]),
    "SRV": lambda words: _numbers("!3H", words[:3]) + name(words[3]),
    "SVCB": _service,
    "TLSA": lambda words: _numbers("!3B", words[:3]) + bytes.fromhex(words[3]),
    "TXT": lambda words: b"".join(map(_string, words)),
}


def encode(kind: str, value: str) -> bytes:
    """The data of one record."""
    words = tokens(value) or []
    return _ENCODERS.get(kind, _host)(words)
