# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Access control lists around a freeze: remembered before, given back afterwards to the byte."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from . import acl
from .catalog import qualified

if TYPE_CHECKING:
    import psycopg

_LISTS = """
WITH lists(kind, oid, attnum, column_name, acl) AS (
    SELECT CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, oid, 0::int2, '', relacl FROM pg_class WHERE oid = ANY(%(oids)s::oid[])
    UNION ALL SELECT 'COLUMN', attrelid, attnum, attname::text, attacl FROM pg_attribute
    WHERE attrelid = ANY(%(oids)s::oid[]) AND attnum > 0 AND NOT attisdropped)
SELECT l.kind, l.oid::bigint, l.attnum, l.column_name, l.acl::text,
       coalesce((SELECT jsonb_agg(jsonb_build_object('grantee', coalesce(g.rolname, ''), 'grantor', o.rolname,
                          'privilege', x.privilege_type, 'grantable', x.is_grantable) ORDER BY x.place)
                 FROM aclexplode(l.acl) WITH ORDINALITY x(grantor, grantee, privilege_type, is_grantable, place)
                 JOIN pg_roles o ON o.oid = x.grantor LEFT JOIN pg_roles g ON g.oid = x.grantee), '[]')
FROM lists l WHERE l.acl IS NOT NULL OR l.attnum = 0
ORDER BY l.oid, l.attnum
"""


@dataclass(frozen=True)
class Relation:
    """A table (kind r, p) or sequence (S) that the freeze covers. owned: our role has the owner's rights."""

    oid: int
    schema: str
    name: str
    kind: str
    owner: str
    owned: bool

    @property
    def sql(self) -> str:
        return qualified(self.schema, self.name)


@dataclass(frozen=True)
class AclState:
    """One access control list now. text: as the catalogue shows it, None for the default."""

    kind: str
    oid: int
    attnum: int
    column: str
    text: str | None
    items: tuple[acl.Item, ...]


def read_acls(conn: psycopg.Connection[Any], relations: Sequence[Relation]) -> list[AclState]:
    """Access control lists of these relations and of their columns that have one."""
    oids = [relation.oid for relation in relations]
    rows = conn.execute(_LISTS, {"oids": oids}).fetchall()
    return [
        AclState(kind, oid, attnum, column, text, tuple(acl.Item(**item) for item in items))
        for kind, oid, attnum, column, text, items in rows
    ]


def remember(conn: psycopg.Connection[Any], before: Sequence[AclState], after: Sequence[AclState], keep: bool) -> None:
    later = {(state.oid, state.attnum): state.text for state in after}
    changed = [state for state in before if later.get((state.oid, state.attnum)) != state.text]
    if not keep:
        conn.execute("DELETE FROM cutover.acl")
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO cutover.acl VALUES (%s, %s, %s, %s::jsonb, %s, %s) ON CONFLICT (oid, attnum) DO UPDATE SET after_text = excluded.after_text",
            [
                (s.kind, s.oid, s.attnum, json.dumps([asdict(item) for item in s.items]), s.text, later.get((s.oid, s.attnum)))
                for s in changed
            ],
        )


def restore(conn: psycopg.Connection[Any]) -> tuple[str, ...]:
    rows = conn.execute(
        "SELECT kind, oid::bigint, attnum, before, before_text, after_text FROM cutover.acl ORDER BY oid, attnum"
    ).fetchall()
    oids = sorted({row[1] for row in rows})
    found = conn.execute(
        "SELECT c.oid::bigint, n.nspname, c.relname, c.relkind::text, pg_get_userbyid(c.relowner), true FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY(%s::oid[])",
        (oids,),
    ).fetchall()
    relations = {row[0]: Relation(*row) for row in found}
    columns = dict(_columns(conn, oids))
    remembered = [
        (AclState(kind, oid, attnum, columns.get((oid, attnum), ""), text, tuple(acl.Item(**item) for item in before)), after)
        for kind, oid, attnum, before, text, after in rows
        if oid in relations and (attnum == 0 or (oid, attnum) in columns)
    ]
    now = {(state.oid, state.attnum): state for state in read_acls(conn, list(relations.values()))}
    ours, statements = [], []
    for state, after in remembered:
        current = now.get((state.oid, state.attnum))
        if (current.text if current else None) == after:
            ours.append(state)
        statements += acl.grants(subject(relations[state.oid], state), acl.missing(current.items if current else (), state.items))
    if statements:
        conn.execute(";\n".join(statements))
    # An entry that had nothing left is now at the end of its list. Such a list is built anew, for a table with those of its columns.
    now = {(state.oid, state.attnum): state for state in read_acls(conn, list(relations.values()))}
    wrong = {state.oid for state in ours if _text(now, state) != state.text}
    wanted = {(state.oid, state.attnum): state for state in ours}
    statements = []
    for oid in sorted(wrong):
        lists = sorted((key for key in {**now, **wanted} if key[0] == oid), key=lambda key: key[1])
        for key in lists:
            state = wanted.get(key) or now[key]
            current = now.get(key)
            statements += acl.rebuild(subject(relations[oid], state), current.items if current else (), state.items)
    if statements:
        conn.execute(";\n".join(statements))
    ours_keys = {(state.oid, state.attnum) for state in ours}
    return tuple(
        f"{relations[state.oid].schema}.{relations[state.oid].name}" + (f".{state.column}" if state.column else "")
        for state, _after in remembered
        if (state.oid, state.attnum) not in ours_keys
    )


def _text(now: dict[tuple[int, int], AclState], state: AclState) -> str | None:
    current = now.get((state.oid, state.attnum))
    return current.text if current else None


def _columns(conn: psycopg.Connection[Any], oids: Sequence[int]) -> list[tuple[tuple[int, int], str]]:
    rows = conn.execute(
        "SELECT attrelid::bigint, attnum, attname::text FROM pg_attribute WHERE attrelid = ANY(%s::oid[]) AND attnum > 0 AND NOT attisdropped",
        (list(oids),),
    ).fetchall()
    return [((oid, attnum), name) for oid, attnum, name in rows]


def subject(relation: Relation, state: AclState) -> acl.Subject:
    return acl.Subject(state.kind, relation.sql, relation.owner, state.column)
