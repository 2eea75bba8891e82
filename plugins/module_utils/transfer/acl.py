# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Access control lists as data, and the statements that lead from one list to another. Pure.

PostgreSQL keeps a list as an array in which the order of entries is the order of grants. A privilege that is revoked and granted again
returns to its place only if its entry kept something meanwhile; otherwise the list has to be built anew to be the same to the byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from .catalog import quote_ident

PUBLIC = ""
"""Grantee that means everyone."""

WRITES = {
    "TABLE": frozenset({"INSERT", "UPDATE", "DELETE", "TRUNCATE"}),
    "SEQUENCE": frozenset({"USAGE", "UPDATE"}),
    "COLUMN": frozenset({"INSERT", "UPDATE"}),
}


@dataclass(frozen=True)
class Item:
    """One privilege of one entry. grantee: role name or PUBLIC; grantable: WITH GRANT OPTION."""

    grantee: str
    grantor: str
    privilege: str
    grantable: bool = False


@dataclass(frozen=True)
class Subject:
    """Something with an access control list.

    kind: TABLE, SEQUENCE, SCHEMA, ROUTINE, TYPE, DATABASE, LANGUAGE, FOREIGN DATA WRAPPER, FOREIGN SERVER or COLUMN
    name: qualified and quoted, for a routine with its argument types, for a column that of its table
    column: plain name of the column of kind COLUMN
    """

    kind: str
    name: str
    owner: str
    column: str = ""


def items_of(rows: Iterable[Sequence[object]]) -> tuple[Item, ...]:
    """Items of rows (grantee, grantor, privilege, grantable), as aclexplode gives them in their order."""
    return tuple(Item(str(grantee), str(grantor), str(privilege), bool(grantable)) for grantee, grantor, privilege, grantable in rows)


def write_items(items: Sequence[Item], kind: str, roles: frozenset[str]) -> list[Item]:
    """Items that let one of these roles write."""
    return [item for item in items if item.grantee in roles and item.privilege in WRITES[kind]]


def grants(subject: Subject, items: Sequence[Item]) -> list[str]:
    """GRANT statements for these items, in their order as far as a grantor must hold the option first."""
    return [
        _as_grantor(subject, grantor, f"GRANT {_what(subject, chunk)} TO {_role(grantee)}{' WITH GRANT OPTION' if grantable else ''}")
        for (grantor, grantee, grantable), chunk in _chunks(_sorted(subject.owner, items))
    ]


def revokes(subject: Subject, items: Sequence[Item]) -> list[str]:
    """REVOKE statements for these items; what was granted on with them goes too."""
    return [
        _as_grantor(subject, grantor, f"REVOKE {_what(subject, chunk)} FROM {_role(grantee)} CASCADE")
        for (grantor, grantee, _grantable), chunk in _chunks(items, by_option=False)
    ]


def rebuild(subject: Subject, now: Sequence[Item], wanted: Sequence[Item]) -> list[str]:
    """Statements that empty a list and build the wanted one in its order. For a table this empties the lists of its columns too."""
    what = f"ALL PRIVILEGES ({quote_ident(subject.column)})" if subject.column else "ALL PRIVILEGES"
    grantees = dict.fromkeys(item.grantee for item in (*now, *wanted))
    emptied = [f"REVOKE {what} ON {_on(subject)} FROM {_role(grantee)} CASCADE" for grantee in grantees]
    return emptied + grants(subject, wanted)


def missing(now: Sequence[Item], wanted: Sequence[Item]) -> list[Item]:
    """Wanted items that are not there, in wanted order."""
    have = set(now)
    return [item for item in wanted if item not in have]


def _sorted(owner: str, items: Sequence[Item]) -> list[Item]:
    """Items in their order, except that a grantor's own option comes before what was granted with it."""
    left, done = list(items), []
    holders = {owner}
    while left:
        given = {item.grantee for item in left if item.grantable}
        ready = [item for item in left if item.grantor in holders or item.grantor not in given] or left
        first = ready[0]
        left.remove(first)
        done.append(first)
        if first.grantable:
            holders.add(first.grantee)
    return done


def _chunks(items: Sequence[Item], by_option: bool = True) -> list[tuple[tuple[str, str, bool], list[Item]]]:
    def key(item: Item) -> tuple[str, str, bool]:
        return item.grantor, item.grantee, item.grantable and by_option

    return [(k, list(chunk)) for k, chunk in groupby(items, key)]


def _as_grantor(subject: Subject, grantor: str, statement: str) -> str:
    # The owner, a superuser and a member of the owner all grant as the owner; anyone else must be named by being them.
    if grantor == subject.owner:
        return statement
    return f"SET LOCAL ROLE {quote_ident(grantor)}; {statement}; SET LOCAL ROLE NONE"


def _what(subject: Subject, items: Sequence[Item]) -> str:
    column = f" ({quote_ident(subject.column)})" if subject.column else ""
    return ", ".join(f"{item.privilege}{column}" for item in items) + f" ON {_on(subject)}"


def _on(subject: Subject) -> str:
    return f"{'TABLE' if subject.kind == 'COLUMN' else subject.kind} {subject.name}"


def _role(name: str) -> str:
    return "PUBLIC" if name == PUBLIC else quote_ident(name)
