# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which texts say less than the value they stand for, or read differently on the target; and rows in COPY's text form. Pure.

A REST source prints values under its own settings, which cannot be changed or asked for. Dates and intervals in another style than ISO would
be read wrongly or not at all. Floats are rounded to 15 (6) digits where extra_float_digits is below 1, as it is on Supabase.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from .catalog import Column

_FLOATS = {"pg_catalog.float8": 15, "pg_catalog.float4": 6}
# Types made of floats, for which the server has no equality that sees every digit.
_GEOMETRY = frozenset(f"pg_catalog.{name}" for name in ("point", "line", "lseg", "box", "path", "polygon", "circle"))
_DATES = frozenset(f"pg_catalog.{name}" for name in ("date", "timestamp", "timestamptz"))
_DATE_RANGES = frozenset(
    f"pg_catalog.{name}" for name in ("daterange", "tsrange", "tstzrange", "datemultirange", "tsmultirange", "tstzmultirange")
)
_INTERVAL = "pg_catalog.interval"

_NUMBER = re.compile(r"[-+]?(\d*)\.?(\d*)(?:[eE][-+]?\d+)?")
_NUMBERS = re.compile(r"[-+]?\d+\.?\d*(?:[eE][-+]?\d+)?")
_ISO = re.compile(r"\d{4,}-\d\d-\d\d(?: \d\d:\d\d:\d\d(?:\.\d+)?(?:[-+]\d\d(?::\d\d){0,2})?)?(?: BC)?|-?infinity")
# Dates of the other styles: 12/17/1997, 17.12.1997, 17-12-1997, Wed Dec 17.
_OTHER_STYLE = re.compile(r"\d\d[/.-]\d\d[/.-]\d{4}|[A-Z][a-z]{2} ")
_POSTGRES_INTERVAL = re.compile(r"(?=.)(?:[-+]?\d+ (?:year|mon|day)s? ?)*(?:[-+]?\d+:\d\d:\d\d(?:\.\d+)?)?|-?infinity")


def holds_floats(column: Column) -> bool:
    """Whether the server may have rounded this column's text. Composites are taken to hold a float."""
    bases = {column.base, column.element}
    return bool(bases & (_FLOATS.keys() | _GEOMETRY)) or "c" in (column.base_kind, column.element_kind)


def has_equality(column: Column) -> bool:
    """Whether the server can be asked if a text is the whole value."""
    return not {column.base, column.element} & _GEOMETRY


def surely_exact(column: Column, text: str) -> bool:
    """Whether this text alone is proof that it was not rounded."""
    return column.base in _FLOATS and text in ("0", "-0", "NaN", "Infinity", "-Infinity")


def shows_all_digits(column: Column, text: str) -> bool:
    """Whether the text has more digits than a server that rounds would show: then none of its floats is rounded."""
    kind = column.base if column.base in _FLOATS else column.element
    if kind not in _FLOATS:
        return False
    return any(_digits(found) > _FLOATS[kind] for found in _NUMBERS.findall(text))


def _digits(text: str) -> int:
    found = _NUMBER.fullmatch(text)
    return len((found[1] + found[2]).strip("0")) if found else 0


def unreadable(column: Column, text: str) -> str:
    """Why this text would be read differently on the target, or ''."""
    kind, values = (column.element, _elements(text)) if column.element else (column.base, [text])
    if kind in _DATES and not all(_ISO.fullmatch(value) for value in values):
        return "a date that is not in ISO style"
    if kind == _INTERVAL and not all(_POSTGRES_INTERVAL.fullmatch(value) for value in values):
        return "an interval that is not in style postgres"
    if kind in _DATE_RANGES and _OTHER_STYLE.search(text):
        return "a date that is not in ISO style"
    return ""


def _elements(text: str) -> list[str]:
    """Elements of an array of dates or intervals, none of which has quotes or braces inside."""
    inside = text.partition("={")[2] if text.startswith("[") else text
    return [value for value in re.split(r'[{},"]+', inside) if value and value != "NULL"]


def copy_text(rows: Iterable[Sequence[str | None]]) -> bytes:
    """Rows as COPY reads them in its text form."""
    lines = ("\t".join("\\N" if value is None else _escaped(value) for value in row) for row in rows)
    return "".join(f"{line}\n" for line in lines).encode()


_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def _escaped(text: str) -> str:
    return text.translate(_ESCAPES)
