# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The table of contents of a pg_dump archive: read, and judged entry by entry. Pure.

Entries are known by the catalogue identity that pg_dump prints (class and object number on the source), not by their names: a name may
hold anything, a line break or something that reads like another entry among it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from .selection import SUPABASE_SCHEMAS, Name, Selection

Key = tuple[int, int]
"""(class, object) in the catalogues of the source"""

DESCRIPTIONS = (
    "ACCESS METHOD", "ACL", "AGGREGATE", "CAST", "CHECK CONSTRAINT", "COLLATION", "COMMENT", "CONSTRAINT", "CONVERSION", "DATABASE",
    "DATABASE PROPERTIES", "DEFAULT", "DEFAULT ACL", "DOMAIN", "ENCODING", "EVENT TRIGGER", "EXTENSION", "FK CONSTRAINT", "FOREIGN DATA WRAPPER",
    "FOREIGN TABLE", "FUNCTION", "INDEX", "INDEX ATTACH", "LANGUAGE", "MATERIALIZED VIEW", "MATERIALIZED VIEW DATA", "OPERATOR",
    "OPERATOR CLASS", "OPERATOR FAMILY", "POLICY", "PROCEDURAL LANGUAGE", "PROCEDURE", "PUBLICATION", "PUBLICATION TABLE",
    "PUBLICATION TABLES IN SCHEMA", "ROW SECURITY", "RULE", "SCHEMA", "SEARCHPATH", "SECURITY LABEL", "SEQUENCE", "SEQUENCE OWNED BY",
    "SERVER", "SHELL TYPE", "STATISTICS", "STATISTICS DATA", "STDSTRINGS", "SUBSCRIPTION", "SUBSCRIPTION TABLE", "TABLE", "TABLE ATTACH",
    "TABLE DATA", "TEXT SEARCH CONFIGURATION", "TEXT SEARCH DICTIONARY", "TEXT SEARCH PARSER", "TEXT SEARCH TEMPLATE", "TRANSFORM",
    "TRIGGER", "TYPE", "USER MAPPING", "VIEW",
)  # fmt: skip
ALWAYS = ("ENCODING", "STDSTRINGS", "SEARCHPATH")
# Brought over from the catalogues themselves, where "equal" can be seen: extensions by name, privileges item by item.
ELSEWHERE = (
    "EXTENSION",
    "ACL",
    "DATABASE",
    "DATABASE PROPERTIES",
    "MATERIALIZED VIEW DATA",
    "SECURITY LABEL",
    "STATISTICS DATA",
    "TABLE DATA",
)
NEVER = {
    "EVENT TRIGGER": "it would act on every change of the target's schema; create it there when it is wanted",
    "PUBLICATION": "it belongs to the source's own subscribers, which would receive every row twice",
    "SUBSCRIPTION": "it would receive from its publisher a second time",
}
_RELATIONS = ("TABLE", "FOREIGN TABLE", "VIEW", "MATERIALIZED VIEW", "SEQUENCE")
_LINE = re.compile(r"(\d+); (\d+) (\d+) (.*)", re.DOTALL)
_LONGEST_FIRST = sorted(DESCRIPTIONS, key=len, reverse=True)


@dataclass(frozen=True)
class Entry:
    """An entry. number: its own; key: (class, object), zeros for what has no row of its own; text: rest of the line; needs: other numbers."""

    number: int
    key: Key
    description: str
    text: str
    needs: tuple[int, ...] = ()


@dataclass(frozen=True)
class Fact:
    """What the source's catalogues know about an object. identity: as pg_identify_object; table: the one it belongs to, with its root."""

    kind: str
    identity: str
    schema: str = ""
    table: Name | None = None
    root: Name | None = None

    @property
    def named(self) -> str:
        return f"{self.kind} {self.identity}"


@dataclass(frozen=True)
class Verdict:
    """keep: entries in archive order; skipped: (object, reason) worth telling; broken: tables that move but need something that does not."""

    keep: tuple[Entry, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    broken: tuple[tuple[str, str], ...] = ()
    dropped: Mapping[int, str] = field(default_factory=dict)


def parse(listing: str) -> tuple[Entry, ...]:
    """Entries of ``pg_restore --list --verbose``."""
    entries: list[Entry] = []
    for line in listing.split("\n"):
        if line.startswith(";\tdepends on:") and entries:
            last = entries[-1]
            needs = tuple(dict.fromkeys(int(number) for number in line.partition(":")[2].split()))
            entries[-1] = Entry(last.number, last.key, last.description, last.text, needs)
            continue
        found = _LINE.fullmatch(line)
        if not found:
            continue
        number, class_number, object_number, rest = found.groups()
        description = next((known for known in _LONGEST_FIRST if rest == known or rest.startswith(f"{known} ")), "")
        if not description:
            upper = re.match(r"[A-Z]+(?: [A-Z]+)*(?= |$)", rest)
            description = upper.group() if upper else rest
        entries.append(Entry(int(number), (int(class_number), int(object_number)), description, rest[len(description) :].strip()))
    return tuple(entries)


def is_platform(schema: str) -> bool:
    """Whether a schema is the Supabase platform's own."""
    return any(fnmatchcase(schema, pattern) for pattern in SUPABASE_SCHEMAS)


def left_out_schemas(schemas: Iterable[str], selection: Selection) -> list[str]:
    """Schemas of which nothing moves: the platform's own without an include pattern that names them, and ours."""
    return sorted(
        schema
        for schema in schemas
        if schema == "cutover"
        or (selection.flavour == "supabase" and is_platform(schema) and not any(p.startswith(f"{schema}.") for p in selection.include))
    )


def judge(
    entries: Sequence[Entry],
    facts: Mapping[Key, Fact],
    selection: Selection,
    left_out: frozenset[str],
    homes: frozenset[str],
    blocked: Mapping[Key, str],
    unwanted: Mapping[Key, str],
) -> Verdict:
    """Decide what is restored.

    left_out: schemas of which nothing moves; homes: those among them that extensions live in, so the bare schema is needed
    blocked: objects that use something which does not come along, with what it is; unwanted: objects with the reason to leave them
    """
    dropped: dict[int, str] = {}
    keep: list[Entry] = []
    skipped: list[tuple[str, str]] = []
    broken: list[tuple[str, str]] = []
    for entry in entries:
        fact = _fact(entry, facts)
        reason = _reason(entry, fact, selection, left_out, homes, blocked, unwanted)
        told = reason is not None
        if reason is None:
            cause = next((number for number in entry.needs if number in dropped), None)
            reason = f"it needs {dropped[cause]}" if cause is not None else None
            told = reason is not None and entry.description not in ("COMMENT", "ACL", "SEQUENCE OWNED BY", "TABLE ATTACH", "INDEX ATTACH")
        if reason is None:
            keep.append(entry)
            continue
        name = fact.named if fact else f"{entry.description.lower()} {entry.text}"
        dropped[entry.number] = name
        if entry.description in ("TABLE", "FOREIGN TABLE") and fact and fact.table and _taken(fact, selection):
            broken.append((name, reason))
        elif told and not (fact and fact.table and entry.description not in _RELATIONS and not _taken(fact, selection)):
            skipped.append((name, reason))
    visible = tuple(entry for entry in keep if entry.description not in ELSEWHERE)
    return Verdict(visible, tuple(skipped), tuple(broken), dropped)


def _fact(entry: Entry, facts: Mapping[Key, Fact]) -> Fact | None:
    # ROW SECURITY carries the number of its table and no class.
    return facts.get((1259, entry.key[1]) if entry.description == "ROW SECURITY" else entry.key)


def _taken(fact: Fact, selection: Selection) -> bool:
    return fact.table is not None and selection.matches(*fact.table, fact.root)


def _reason(
    entry: Entry,
    fact: Fact | None,
    selection: Selection,
    left_out: frozenset[str],
    homes: frozenset[str],
    blocked: Mapping[Key, str],
    unwanted: Mapping[Key, str],
) -> str | None:
    if entry.key in unwanted:
        return unwanted[entry.key]
    if entry.description in ALWAYS or entry.description in ELSEWHERE:
        return None
    for description, why in NEVER.items():
        if entry.description.startswith(description):
            return why
    blocking = f"it uses {blocked[entry.key]}, which does not come along" if entry.key in blocked else None
    if fact is None:
        return blocking
    if entry.description == "SCHEMA":
        return "the platform runs this schema itself" if fact.identity.strip('"') in left_out - homes else None
    if fact.table is not None:
        if not _taken(fact, selection):
            return "its table is not selected" if fact.schema not in left_out else "it belongs to the platform"
        return blocking
    if fact.schema in left_out:
        return "it belongs to the platform"
    if entry.description in ("VIEW", "MATERIALIZED VIEW", "SEQUENCE"):
        return "it is excluded" if _excluded(fact, selection) else blocking
    return blocking


def _excluded(fact: Fact, selection: Selection) -> bool:
    plain = ".".join(part.strip('"') for part in fact.identity.split(".", 1))
    return any(fnmatchcase(plain, pattern) for pattern in selection.exclude)
