# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What one side's catalogues say, what the other lacks, and the statements that make owners and privileges equal."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from . import acl
from . import schema_catalog as facts_of
from .catalog import quote_ident
from .toc import ALWAYS, Entry, Fact, Key

if TYPE_CHECKING:
    import psycopg

# What pg_dump makes in place of a view that needs what comes later, and what servers of different versions put into other words.
_PLACEHOLDER = "SELECT NULL::"
_QUERY = re.compile(r"\bSELECT\b", re.IGNORECASE)

Identity = tuple[str, str]
"""(kind, identity) as pg_identify_object says"""


@dataclass(frozen=True)
class Survey:
    """One side. details: see :func:`.schema_catalog.details`; version: as the server's number."""

    identities: frozenset[Identity]
    privileges: Mapping[tuple[str, str, str], facts_of.Privileges]
    details: Mapping[str, Mapping[Identity, str]]
    version: int

    @property
    def role_names(self) -> set[str]:
        """Owners, grantees and grantors."""
        found = {one.subject.owner for one in self.privileges.values()}
        for one in self.privileges.values():
            found |= {item.grantee for item in one.items} | {item.grantor for item in one.items}
        return found - {acl.PUBLIC}


def without_columns(one: Survey, gone: Collection[tuple[str, str]]) -> Survey:
    """Without the privileges on these columns. gone: (schema.table, column), as for a target whose tables lack them. Pure."""
    if not gone:
        return one
    kept = {key: value for key, value in one.privileges.items() if not key[2] or (key[1].replace('"', ""), key[2]) not in gone}
    return replace(one, privileges=kept)


def defaults_there(wanted: Survey, there: Survey) -> list[tuple[str, str]]:
    """Default privileges that only the target has: (object, what to know). What comes along is not touched by them. Pure."""
    mine, other = wanted.details.get("definition", {}), there.details.get("definition", {})
    return [
        (f"{kind} {identity}", f"on the target only; objects made later by this role get {text}, ALTER DEFAULT PRIVILEGES ends that")
        for (kind, identity), text in sorted(other.items())
        if kind == "default acl" and (kind, identity) not in mine
    ]


def unproved(wanted: Survey, there: Survey, among: Collection[Identity]) -> list[str]:
    """Statements that prove constraints which the source has proved and the target, but for that, has alike. Pure."""
    mine, other = wanted.details.get("definition", {}), there.details.get("definition", {})
    return [
        statement
        for identity, statement in sorted(wanted.details.get("proof", {}).items())
        if identity in among and mine.get(identity, "").startswith("true") and _only_unproved(mine[identity], other.get(identity, ""))
    ]


def _only_unproved(mine: str, other: str) -> bool:
    return other == f"false{mine.removeprefix('true')} NOT VALID"


@dataclass(frozen=True)
class Differences:
    """repairs: privileges and owners that a run puts right; lasting: definitions that only a person can."""

    repairs: tuple[str, ...] = ()
    lasting: tuple[str, ...] = ()


def survey(conn: psycopg.Connection[Any], facts: Mapping[Key, Fact]) -> Survey:
    """Read one side."""
    identities = frozenset((fact.kind, fact.identity) for fact in facts.values())
    return Survey(identities, facts_of.privileges(conn), facts_of.details(conn), conn.info.server_version)


def lacking(entries: Sequence[Entry], facts: Mapping[Key, Fact], wanted: Survey, there: Survey) -> list[Entry]:
    """Entries of which the target lacks the object or the property. Pure."""
    by_number = {entry.number: entry for entry in entries}
    return [entry for entry in entries if entry.description not in ALWAYS and _lacks(entry, by_number, facts, wanted, there)]


def _lacks(entry: Entry, by_number: Mapping[int, Entry], facts: Mapping[Key, Fact], wanted: Survey, there: Survey) -> bool:
    if entry.description == "ROW SECURITY":
        table = facts.get((1259, entry.key[1]))
        return table is not None and _differs("rls", (table.kind, table.identity), wanted, there)
    if entry.key[0]:
        fact = facts.get(entry.key)
        if fact is None:
            return True
        if (fact.kind, fact.identity) not in there.identities:
            return True
        if entry.description == "RULE" and fact.identity.startswith('"_RETURN" on '):
            view = ("view", fact.identity.partition(" on ")[2])
            if _same_major(wanted, there):
                return _differs("view", view, wanted, there)
            return there.details.get("view", {}).get(view, "").lstrip().startswith(_PLACEHOLDER)
        return False
    needed = [facts[by_number[number].key] for number in entry.needs if number in by_number and by_number[number].key in facts]
    what = {"TABLE ATTACH": "attached", "INDEX ATTACH": "attached", "SEQUENCE OWNED BY": "owned", "COMMENT": "comment"}.get(
        entry.description
    )
    if what is None:
        return False
    return any(
        _differs(what, (fact.kind, fact.identity), wanted, there)
        for fact in needed
        if (fact.kind, fact.identity) in wanted.details.get(what, {})
    )


def _same_major(one: Survey, other: Survey) -> bool:
    return one.version // 10000 == other.version // 10000


def _differs(what: str, identity: Identity, wanted: Survey, there: Survey) -> bool:
    return wanted.details.get(what, {}).get(identity) != there.details.get(what, {}).get(identity)


def adapted(one: facts_of.Privileges, wanted_version: int, version: int) -> tuple[acl.Item, ...]:
    """Items as a server of ``version`` has them: MAINTAIN came with 17 and belongs to an owner who holds everything else. Pure."""
    if wanted_version < 170000 <= version and one.subject.kind == "TABLE":
        owners = [item for item in one.items if item.grantee == one.subject.owner == item.grantor and item.privilege == "TRIGGER"]
        more = [replace(item, privilege="MAINTAIN") for item in owners]
        return (*one.items, *more)
    if version < 170000 <= wanted_version:
        return tuple(item for item in one.items if item.privilege != "MAINTAIN")
    return one.items


def in_scope(privileges: Iterable[facts_of.Privileges], scope: frozenset[Key]) -> list[facts_of.Privileges]:
    """Lists of objects that came along. A column's list belongs to its table."""
    return [one for one in privileges if one.key in scope]


def owner_statements(
    wanted: Survey, there: Mapping[tuple[str, str, str], facts_of.Privileges], scope: frozenset[Key], owned: Mapping[Identity, str]
) -> list[str]:
    """ALTER … OWNER TO for every object whose owner differs. Pure. owned: sequences that follow their table."""
    statements = []
    for one in in_scope(wanted.privileges.values(), scope):
        other = there.get(one.identity)
        if other is None or one.subject.column or one.subject.owner == other.subject.owner:
            continue
        if one.subject.kind == "SEQUENCE" and ("sequence", one.identity[1]) in owned:
            continue
        statements.append(f"ALTER {one.subject.kind} {other.subject.name} OWNER TO {quote_ident(one.subject.owner)}")
    return statements


def privilege_statements(wanted: Survey, there: Survey, scope: frozenset[Key], columns: bool) -> list[tuple[int, str]]:
    """(number of the object on the target, statement) that make the lists equal, of objects or of columns. Pure."""
    statements: list[tuple[int, str]] = []
    chosen = {one.identity: one for one in in_scope(wanted.privileges.values(), scope)}
    tables = {(one.identity[0], one.identity[1]) for one in chosen.values() if not one.subject.column}
    names = {key for key in (*chosen, *there.privileges) if bool(key[2]) == columns}
    for key in sorted(names):
        if key not in chosen and not (columns and ("TABLE", key[1]) in tables):
            continue
        one, other = chosen.get(key), there.privileges.get(key)
        items = adapted(one, wanted.version, there.version) if one else ()
        now = other.items if other else ()
        if set(items) == set(now):
            continue
        if other is not None:
            statements += [(other.key[1], statement) for statement in acl.rebuild(other.subject, now, items)]
        elif one is not None and columns:
            statements += [(0, statement) for statement in acl.rebuild(one.subject, now, items)]
    return statements


def apply_owners(conn: psycopg.Connection[Any], wanted: Survey, scope: frozenset[Key]) -> None:
    """Make owners equal, inside the caller's transaction."""
    owned = wanted.details.get("owned", {})
    for statement in owner_statements(wanted, facts_of.privileges(conn), scope, owned):
        conn.execute(statement)


def apply_privileges(conn: psycopg.Connection[Any], wanted: Survey, scope: frozenset[Key]) -> None:
    """Make privileges equal, inside the caller's transaction: objects first, since their REVOKE takes the columns' lists along."""
    for columns in (False, True):
        there = Survey(frozenset(), facts_of.privileges(conn), {}, conn.info.server_version)
        for oid, statement in privilege_statements(wanted, there, scope, columns):
            conn.execute(statement)
            # What a freeze remembered of this list is not what it will be after the thaw any more.
            facts_of.forget(conn, oid)


def differences(wanted: Survey, there: Survey, scope: frozenset[Key], facts: Mapping[Key, Fact]) -> Differences:
    """What is on both sides and not equal. Pure. Servers of different major versions word queries differently, so those are not compared."""
    repairs = owner_statements(wanted, there.privileges, scope, wanted.details.get("owned", {}))
    if not repairs:
        for columns in (False, True):
            repairs += [statement for _oid, statement in privilege_statements(wanted, _only_existing(there, wanted), scope, columns)]
    here = {(fact.kind, fact.identity) for key, fact in facts.items() if key in scope}
    mine, other = wanted.details.get("definition", {}), there.details.get("definition", {})
    same = _same_major(wanted, there)
    lasting = [
        f"{kind} {identity} is defined differently" for kind, identity in sorted(here) if _unlike(mine, other, (kind, identity), same)
    ]
    return Differences(tuple(repairs), tuple(lasting))


def _unlike(mine: Mapping[Identity, str], other: Mapping[Identity, str], identity: Identity, same_major: bool) -> bool:
    if (
        identity not in mine
        or identity not in other
        or mine[identity] == other[identity]
        or _only_unproved(mine[identity], other[identity])
    ):
        return False
    return same_major or not _QUERY.search(mine[identity])


def _only_existing(there: Survey, wanted: Survey) -> Survey:
    """Without lists that are only on the source: their objects are missing and said so elsewhere."""
    tables = {key[1] for key in there.privileges if not key[2]}
    kept = {key: value for key, value in there.privileges.items() if not key[2] or key[1] in tables}
    return replace(there, privileges=kept)
