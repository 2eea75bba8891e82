"""Pages, sorting and filters that every list shares."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from .errors import invalid
from .labels import selector
from .store import Document

LARGEST = 2**53 - 1


def positive(text: str, field: str) -> int:
    """A number of a path or query string: 1 to the largest that JSON clients can hold. Raises ApiError 422."""
    if not re.fullmatch(r"[0-9]{1,16}", text) or not 1 <= int(text) <= LARGEST:
        raise invalid(field, f"must be a positive integer, not '{text}'")
    return int(text)


@dataclass(frozen=True)
class Query:
    """A query string: repeated keys keep their order."""

    pairs: tuple[tuple[str, str], ...]

    def last(self, key: str) -> str | None:
        found = [value for name, value in self.pairs if name == key]
        return found[-1] if found else None

    def many(self, key: str) -> list[str]:
        return [value for name, value in self.pairs if name == key]

    def number(self, key: str, default: int) -> int:
        text = self.last(key)
        if text is None:
            return default
        return positive(text, key)

    def numbers(self, key: str) -> list[int]:
        return [positive(text, key) for text in self.many(key)]


def ordered(items: list[Document], query: Query, allowed: Sequence[str]) -> list[Document]:
    """Items sorted by all ``sort`` parameters; the first is the most significant one, ids break ties."""
    result = sorted(items, key=lambda item: item["id"])
    for text in reversed(query.many("sort")):
        field, _unused, direction = text.partition(":")
        if field not in allowed or direction not in ("", "asc", "desc"):
            raise invalid("sort", f"'{text}' is not one of {', '.join(allowed)} with :asc or :desc")
        result.sort(key=lambda item, field=field: (item[field] is not None, item[field] or ""), reverse=direction == "desc")  # type: ignore[misc]
    return result


def chosen(items: Iterable[Document], query: Query) -> list[Document]:
    """Items that fit ``name`` and ``label_selector``."""
    name, text = query.last("name"), query.last("label_selector")
    fits = selector(text) if text else lambda _labels: True
    return [item for item in items if (name is None or item.get("name") == name) and fits(item.get("labels", {}))]


def page(
    items: Sequence[Document], query: Query, key: str, path: str, present: Callable[[Document], Mapping[str, Any]], most: int = 50
) -> tuple[dict[str, Any], dict[str, str]]:
    """Body and Link header of one page; only the documents of that page are presented."""
    number, size = query.number("page", 1), min(query.number("per_page", 25), most)
    last = max(1, -(-len(items) // size))
    around = {"prev": number - 1 if number > 1 else None, "next": number + 1 if number < last else None, "last": last}
    body = {
        key: [present(item) for item in items[(number - 1) * size : number * size]],
        "meta": {
            "pagination": {
                "page": number,
                "per_page": size,
                "previous_page": around["prev"],
                "next_page": around["next"],
                "last_page": last,
                "total_entries": len(items),
            }
        },
    }
    rest = [pair for pair in query.pairs if pair[0] not in ("page", "per_page")]
    links = [
        f'<{path}?{urlencode([*rest, ("page", str(to)), ("per_page", str(size))])}>; rel="{rel}"'
        for rel, to in around.items()
        if to is not None
    ]
    return body, {"Link": ", ".join(links)}
