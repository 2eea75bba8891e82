"""Labels and the label selector language (``k=v``, ``k!=v``, ``k``, ``!k``, ``k in (a,b)``, ``k notin (a,b)``, joined by commas)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from .errors import ApiError, invalid

_NAME = r"[a-zA-Z0-9](?:[-_.a-zA-Z0-9]{0,61}[a-zA-Z0-9])?"
_DNS = r"[a-zA-Z0-9](?:[-a-zA-Z0-9]{0,61}[a-zA-Z0-9])?"
_KEY = rf"(?:{_DNS}(?:\.{_DNS})*/)?{_NAME}"
KEY = re.compile(_KEY)
VALUE = re.compile(rf"(?:{_NAME})?")
_TERM = re.compile(
    rf"\s*(?:(?P<negated>!)\s*(?P<absent>{_KEY})"
    rf"|(?P<set_key>{_KEY})\s+(?P<set_op>in|notin)\s*\((?P<values>[^()]*)\)"
    rf"|(?P<key>{_KEY})\s*(?P<op>==|!=|=)\s*(?P<value>(?:{_NAME})?)"
    rf"|(?P<present>{_KEY}))\s*(?:,|$)"
)
Predicate = Callable[[Mapping[str, str]], bool]


def label_problem(labels: Mapping[str, str]) -> str | None:
    """What is wrong with these labels, or None."""
    for key, value in labels.items():
        prefix = key.rpartition("/")[0]
        if not KEY.fullmatch(key) or len(prefix) > 253:
            return f"label key '{key}' is not correctly formatted"
        if prefix == "hetzner.cloud":
            return f"label key '{key}' uses the reserved prefix hetzner.cloud/"
        if not VALUE.fullmatch(value):
            return f"label value '{value}' is not correctly formatted"
    return None


def _term(match: re.Match[str]) -> Predicate:
    part = match.groupdict()
    if part["negated"]:
        return lambda labels: part["absent"] not in labels
    if part["set_op"]:
        wanted = {value.strip() for value in part["values"].split(",")}
        if part["set_op"] == "in":
            return lambda labels: labels.get(part["set_key"]) in wanted
        return lambda labels: labels.get(part["set_key"]) not in wanted
    if part["op"] == "!=":
        return lambda labels: labels.get(part["key"]) != part["value"]
    if part["op"]:
        return lambda labels: labels.get(part["key"]) == part["value"]
    return lambda labels: part["present"] in labels


def selector(text: str, field: str = "label_selector") -> Predicate:
    """Compile a selector; the empty one matches everything. Raises ApiError 422 naming ``field`` when it cannot be parsed."""
    terms: list[Predicate] = []
    position = 0
    while position < len(text):
        match = _TERM.match(text, position)
        if match is None:
            raise invalid(field, f"cannot be parsed at position {position}: '{text[position:]}'")
        terms.append(_term(match))
        position = match.end()
    if text.rstrip().endswith(","):
        raise invalid(field, "ends with a comma")
    return lambda labels: all(term(labels) for term in terms)


def matches(text: str, labels: Mapping[str, str]) -> bool:
    """Whether labels satisfy a selector; a broken selector matches nothing."""
    try:
        return selector(text)(labels)
    except ApiError:
        return False
