# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Environment files as Node's ``dotenv`` package reads them, edited so that what is not named stays byte for byte.

The grammar is that of ``dotenv`` 16 and 17 (one regular expression over the whole text), so quirks such as values over
several lines, ``KEY: value`` and ``export`` are read here as the application will read them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .errors import OperationsError

KEY = re.compile(r"[A-Za-z0-9_.-]+\Z")
# What needs no quotes in dotenv, in a shell and in systemd alike.
BARE = re.compile(r"[A-Za-z0-9_./:@%+,=-]*\Z")
# JavaScript's \s; Python's differs in both directions.
_S = "[\\t\\n\\v\\f\\r \\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000\\ufeff]"
_EOL = "\\n\\u2028\\u2029"
_SPACE = "\t\n\v\f\r \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
_STATEMENT = re.compile(
    rf"(?:^|(?<=[{_EOL}])){_S}*(?P<export>export{_S}+)?(?P<key>[A-Za-z0-9_.-]+)(?P<sep>{_S}*={_S}*?|:{_S}+?)"
    rf"(?P<value>{_S}*'(?:\\'|[^'])*'|{_S}*\"(?:\\\"|[^\"])*\"|{_S}*`(?:\\`|[^`])*`|[^#\r\n]+)?"
    rf"{_S}*(?:\#[^{_EOL}]*)?(?=[{_EOL}]|\Z)"
)


@dataclass(frozen=True)
class Statement:
    """One assignment. Offsets count characters of the original text.

    start, end: the lines it stands on, with their line end
    value_start, value_end: its value with quotes, without surrounding blanks
    """

    key: str
    value: str
    quote: str
    start: int
    end: int
    value_start: int
    value_end: int


@dataclass(frozen=True)
class Edit:
    """The new text and the keys that it adds, changes and drops; ``missing``: required keys that are absent or empty."""

    text: str
    added: tuple[str, ...]
    updated: tuple[str, ...]
    removed: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def changed(self) -> bool:
        return bool(self.added or self.updated or self.removed)


def _normalised(text: str) -> tuple[str, list[int]]:
    """Line ends as dotenv makes them, and for every character where it stands in the original text."""
    characters: list[str] = []
    offsets: list[int] = []
    position = 0
    while position < len(text):
        offsets.append(position)
        if text[position] == "\r":
            characters.append("\n")
            position += 2 if text[position + 1 : position + 2] == "\n" else 1
        else:
            characters.append(text[position])
            position += 1
    offsets.append(len(text))
    return "".join(characters), offsets


def _read_value(raw: str) -> tuple[str, str]:
    """What dotenv makes of a value as written, and the quote that encloses it ("" for none)."""
    trimmed = raw.strip(_SPACE)
    opening = trimmed[:1]
    # The package applies ^(['"`])([\s\S]*)\1$ with the flag m: lines inside a value are anchors too.
    value = re.sub(rf"(?:^|(?<=[{_EOL}]))(['\"`])([\s\S]*)\1(?=[{_EOL}]|\Z)", r"\2", trimmed)
    if opening == '"':
        value = value.replace("\\n", "\n").replace("\\r", "\r")
    quoted = opening in ("'", '"', "`") and len(trimmed) > 1 and trimmed[-1] == opening
    return value, opening if quoted else ""


def statements(text: str) -> tuple[Statement, ...]:
    """All assignments of a file in their order, repeated ones included."""
    plain, offsets = _normalised(text)
    found = []
    for match in _STATEMENT.finditer(plain):
        raw = match["value"] or ""
        value, quote = _read_value(raw)
        begin = match.end("sep") + len(raw) - len(raw.lstrip(_SPACE)) if raw.strip(_SPACE) else match.end("sep")
        stop = begin + len(raw.strip(_SPACE))
        first = match.start("export") if match["export"] else match.start("key")
        line_start = max(plain.rfind(mark, 0, first) for mark in "\n\u2028\u2029") + 1
        line_end = plain.find("\n", stop)
        line_end = len(plain) if line_end < 0 else line_end + 1
        found.append(
            Statement(
                key=match["key"],
                value=value,
                quote=quote,
                start=offsets[line_start],
                end=offsets[line_end],
                value_start=offsets[begin],
                value_end=offsets[stop],
            )
        )
    return tuple(found)


def parse(text: str) -> dict[str, str]:
    """What the application sees: the last assignment of a key wins."""
    return {statement.key: statement.value for statement in statements(text)}


def _spellings(value: str, quote: str) -> list[str]:
    """Ways to write a value, best first: as the line was written before, then bare, then the quotes that alter least."""
    escaped = value.replace("\n", "\\n").replace("\r", "\\r")
    quoted = {"'": f"'{value}'", '"': f'"{escaped}"', "`": f"`{value}`"}
    order = [quoted.pop(quote)] if quote else []
    if BARE.match(value):
        order.append(value)
    order += [*quoted.values(), f'"{value}"', value]
    # A quote inside its own kind reads back in dotenv but in nothing else: last choice.
    return sorted(order, key=lambda spelling: spelling[:1] in ("'", '"', "`") and spelling[:1] in value)


def _line_end(text: str) -> str:
    return "\r\n" if text.count("\r\n") * 2 > text.count("\n") else "\n"


def _assign(text: str, key: str, value: str) -> str:
    """The text with one key set, in the first spelling with which the whole file reads back as meant."""
    before = statements(text)
    own = [statement for statement in before if statement.key == key]
    expected = {statement.key: statement.value for statement in before} | {key: value}
    for spelling in _spellings(value, own[-1].quote if own else ""):
        if own:
            last = own[-1]
            result = text[: last.value_start] + spelling + text[last.value_end :]
        else:
            end = _line_end(text)
            closed = not text or text.endswith(("\n", "\r"))
            # A file without a last line end stays one.
            result = text + f"{key}={spelling}{end}" if closed else f"{text}{end}{key}={spelling}"
        if parse(result) == expected:
            return result
    raise OperationsError(
        f"the value for {key} cannot be written so that dotenv reads it back, and reads the rest of the file as before",
        "A value must not mix all three quotes with line ends or '#'; also look for an unclosed quote in the file. Encode such a value (base64).",
        key=key,
    )


def _drop(text: str, key: str) -> str:
    """The text without any assignment of a key: dropping only the last would let an earlier one show."""
    before = statements(text)
    expected = {statement.key: statement.value for statement in before if statement.key != key}
    result = text
    for statement in reversed([statement for statement in before if statement.key == key]):
        result = result[: statement.start] + result[statement.end :]
    if parse(result) != expected:
        raise OperationsError(
            f"{key} cannot be removed without changing how the rest of the file is read",
            "Look for an unclosed quote near it and remove the line by hand.",
            key=key,
        )
    return result


def edit(text: str, assign: Mapping[str, str], unset: Iterable[str] = (), required: Iterable[str] = ()) -> Edit:
    """Set and unset keys; every other byte stays.

    text: the file, decoded with ``surrogateescape`` so that bytes that are not UTF-8 survive
    Raises OperationsError for a key that dotenv cannot read, for one both set and unset, and for a value that cannot be written.
    """
    unset, required = tuple(unset), tuple(required)
    for key in (*assign, *unset, *required):
        if not KEY.match(key):
            raise OperationsError(f"{key!r} is no key that dotenv can read", "Use letters, digits, '_', '.' and '-' only.", key=key)
    both = sorted(set(assign) & set(unset))
    if both:
        raise OperationsError(f"{', '.join(both)} is both set and unset", "Name each key once.", keys=both)
    before = parse(text)
    result = text
    for key in unset:
        if key in before:
            result = _drop(result, key)
    for key, value in assign.items():
        if before.get(key) != value:
            result = _assign(result, key, value)
    after = parse(result)
    return Edit(
        text=result,
        added=tuple(key for key in assign if key not in before),
        updated=tuple(key for key, value in assign.items() if key in before and before[key] != value),
        removed=tuple(key for key in dict.fromkeys(unset) if key in before),
        missing=tuple(key for key in required if not after.get(key)),
    )


def masked(change: Edit, text: str) -> tuple[str, str]:
    """Before and after for a diff: every key in its order, no value, only whether it changes."""
    before = "".join(f"{key}=<{'old value' if key in change.updated else 'value'}>\n" for key in parse(text))
    after = "".join(f"{key}=<{'new value' if key in change.updated else 'value'}>\n" for key in parse(change.text))
    return before, after


def as_text(key: str, value: object) -> str:
    """A declared value as the text the application gets: true and false in lower case, numbers as written."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, int, float)):
        return str(value)
    raise OperationsError(
        f"the value for {key} is {'empty (null)' if value is None else 'a ' + type(value).__name__}, expected a text or a number",
        "Give a string; list the key under unset to remove it; serialise structured values yourself.",
        key=key,
    )
