# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Roles that a database's objects, grants and policies name: read on the source, made on the target, never more powerful than there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .catalog import quote_ident, quote_literal

if TYPE_CHECKING:
    import psycopg

SUPABASE_ROLES = ("anon", "authenticated", "service_role", "authenticator", "supabase_auth_admin", "supabase_storage_admin")
# Libraries are files of the old server; a role with one that is missing here cannot log in any more.
UNMOVABLE_SETTINGS = ("session_preload_libraries", "local_preload_libraries", "shared_preload_libraries")
_LIST_SETTINGS = ("search_path", "temp_tablespaces")


@dataclass(frozen=True)
class Role:
    """A role. flags: attribute keyword to whether it has it; settings: (database or '', name, value)."""

    name: str
    flags: Mapping[str, bool]
    connection_limit: int
    valid_until: str
    settings: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True)
class Membership:
    """member is in role. inherit, can_set: None before PostgreSQL 16, where the member's own attribute decides."""

    role: str
    member: str
    admin: bool
    inherit: bool | None = None
    can_set: bool | None = None


@dataclass(frozen=True)
class Roles:
    """Roles by name, who is in whom, settings of the database itself and privileges on it (role, privilege, grantable).

    membership_options: the server keeps INHERIT and SET per membership (PostgreSQL 16 and later)
    """

    roles: Mapping[str, Role]
    memberships: tuple[Membership, ...] = ()
    database_settings: tuple[tuple[str, str], ...] = ()
    database_grants: tuple[tuple[str, str, bool], ...] = ()
    membership_options: bool = False


@dataclass(frozen=True)
class RolePlan:
    """statements: without passwords; created: roles; skipped: (object, reason); without_password: roles that may log in but cannot yet.

    notes: (object, what to know about it), such as a role of the target that differs from the source's and is left as it is
    """

    statements: tuple[str, ...] = ()
    created: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    without_password: tuple[str, ...] = ()
    passwords: Mapping[str, str] = field(default_factory=dict, repr=False)
    notes: tuple[tuple[str, str], ...] = ()


_FLAGS = {
    "SUPERUSER": "rolsuper",
    "INHERIT": "rolinherit",
    "CREATEROLE": "rolcreaterole",
    "CREATEDB": "rolcreatedb",
    "LOGIN": "rolcanlogin",
    "REPLICATION": "rolreplication",
    "BYPASSRLS": "rolbypassrls",
}


def read(conn: psycopg.Connection[Any]) -> Roles:
    """All roles of the server, with what is set and granted for the current database."""
    flags = ", ".join(_FLAGS.values())
    roles = {}
    settings: dict[str, list[tuple[str, str, str]]] = {}
    database_settings = []
    for role, database, entries in conn.execute(
        "SELECT coalesce(r.rolname::text, ''), coalesce(d.datname::text, ''), s.setconfig FROM pg_db_role_setting s"
        " LEFT JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase"
        " WHERE s.setdatabase = 0 OR d.datname = current_database() ORDER BY 1, 2"
    ).fetchall():
        for entry in entries:
            name, _unused, value = entry.partition("=")
            if role:
                settings.setdefault(role, []).append((database, name, value))
            elif database:
                database_settings.append((name, value))
    for name, limit, until, *values in conn.execute(
        f"SELECT rolname::text, rolconnlimit, coalesce(rolvaliduntil::text, ''), {flags} FROM pg_roles"
    ).fetchall():
        roles[name] = Role(name, dict(zip(_FLAGS, values, strict=True)), limit, until, tuple(settings.get(name, ())))
    modern = conn.info.server_version >= 160000
    options = "m.inherit_option, m.set_option" if modern else "NULL, NULL"
    memberships = [
        Membership(*row)
        for row in conn.execute(
            f"SELECT r.rolname::text, u.rolname::text, bool_or(m.admin_option), {_any(options)} FROM pg_auth_members m"
            " JOIN pg_roles r ON r.oid = m.roleid JOIN pg_roles u ON u.oid = m.member GROUP BY 1, 2 ORDER BY 1, 2"
        ).fetchall()
    ]
    grants = conn.execute(
        "SELECT DISTINCT r.rolname::text, x.privilege_type, x.is_grantable FROM pg_database d, aclexplode(d.datacl) x JOIN pg_roles r ON r.oid = x.grantee"
        " WHERE d.datname = current_database() AND x.grantee <> d.datdba ORDER BY 1, 2"
    ).fetchall()
    return Roles(roles, tuple(memberships), tuple(database_settings), tuple((r, p, g) for r, p, g in grants), modern)


def _any(options: str) -> str:
    return ", ".join(f"bool_or({part.strip()}::boolean)" for part in options.split(","))


def referenced(conn: psycopg.Connection[Any]) -> set[str]:
    """Roles that own, are granted or are named by a policy on anything in this database."""
    rows = conn.execute(
        "SELECT DISTINCT r.rolname::text FROM pg_shdepend s JOIN pg_roles r ON r.oid = s.refobjid WHERE s.refclassid = 'pg_authid'::regclass"
        " AND s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())"
    ).fetchall()
    return {name for (name,) in rows}


def wanted(source: Roles, seeds: Iterable[str]) -> list[str]:
    """The seeds with everyone they are in and everyone who is in them, without the server's own ``pg_`` roles. Pure."""
    found = {name for name in seeds if name in source.roles}
    while True:
        more = {m.role for m in source.memberships if m.member in found} | {m.member for m in source.memberships if m.role in found}
        more = {name for name in more if not name.startswith("pg_")} - found
        if not more:
            return sorted(name for name in found if not name.startswith("pg_"))
        found |= more


def plan(
    source: Roles,
    target: Roles,
    names: Sequence[str],
    *,
    source_db: str,
    target_db: str,
    target_settings: frozenset[str],
    passwords: Mapping[str, str],
    with_password: frozenset[str],
) -> RolePlan:
    """Statements that make these roles of the source on the target. Pure.

    target_settings: names of settings that the target knows; with_password: target roles that have a password already
    """
    statements: list[str] = []
    skipped: list[tuple[str, str]] = []
    created = [name for name in names if name not in target.roles]
    for name in created:
        role = source.roles[name]
        flags = [key if on and key != "SUPERUSER" else f"NO{key}" for key, on in role.flags.items()]
        if role.flags["SUPERUSER"]:
            skipped.append((f"role {name}: SUPERUSER", "a role that comes along is never made a superuser"))
        until = f" VALID UNTIL {quote_literal(role.valid_until)}" if role.valid_until else ""
        statements.append(f"CREATE ROLE {quote_ident(name)} {' '.join(flags)} CONNECTION LIMIT {role.connection_limit}{until}")
    for name in names:
        if _is_superuser(target, name):
            continue  # the target's own administrator, whatever the source's role of that name is
        there = {(bool(database), key): value for database, key, value in (target.roles[name].settings if name in target.roles else ())}
        for database, key, value in source.roles[name].settings:
            scope = f" IN DATABASE {quote_ident(target_db)}" if database else ""
            _set(
                f"ALTER ROLE {quote_ident(name)}{scope}", f"role {name}", key, value, there.get((bool(database), key)), target_settings,
                statements, skipped,
            )  # fmt: skip
    known = set(names) | set(target.roles)
    have = {(m.role, m.member): m for m in target.memberships}
    for m in source.memberships:
        if m.member not in names or m.role not in known:
            continue
        there_already = have.get((m.role, m.member))
        if there_already is None or _less(there_already, m, target.membership_options):
            statements.append(_grant_membership(m, there_already, target.membership_options))
    there_too = dict(target.database_settings)
    for key, value in source.database_settings:
        _set(
            f"ALTER DATABASE {quote_ident(target_db)}",
            f"database {source_db}",
            key,
            value,
            there_too.get(key),
            target_settings,
            statements,
            skipped,
        )
    granted = {(role, privilege) for role, privilege, _grantable in target.database_grants}
    for grantee, privilege, grantable in source.database_grants:
        if grantee in names and (grantee, privilege) not in granted and not _is_superuser(target, grantee):
            option = " WITH GRANT OPTION" if grantable else ""
            statements.append(f"GRANT {privilege} ON DATABASE {quote_ident(target_db)} TO {quote_ident(grantee)}{option}")
    given = {name: secret for name, secret in passwords.items() if name in names and name not in with_password}
    logins = [name for name in names if source.roles[name].flags["LOGIN"] and not _is_superuser(target, name)]
    without = [name for name in logins if name not in given and name not in with_password]
    return RolePlan(tuple(statements), tuple(created), tuple(skipped), tuple(without), given, tuple(_unlike(source, target, names)))


def _less(have: Membership, wanted: Membership, options: bool) -> bool:
    """Whether a membership gives less than the wanted one. Without options on both sides only ADMIN counts."""
    if wanted.admin and not have.admin:
        return True
    if not options or wanted.inherit is None:
        return False
    return bool((wanted.inherit and not have.inherit) or (wanted.can_set and not have.can_set))


def _grant_membership(m: Membership, have: Membership | None, options: bool) -> str:
    """Statement that gives a membership, with what is there already kept."""
    words = ["ADMIN OPTION"] if m.admin else []
    if options and m.inherit is not None:
        kept = have or Membership(m.role, m.member, False, False, False)
        words = [
            f"ADMIN {_word(m.admin or kept.admin)}",
            f"INHERIT {_word(bool(m.inherit or kept.inherit))}",
            f"SET {_word(bool(m.can_set or kept.can_set))}",
        ]
    return f"GRANT {quote_ident(m.role)} TO {quote_ident(m.member)}" + (f" WITH {', '.join(words)}" if words else "")


def _unlike(source: Roles, target: Roles, names: Sequence[str]) -> list[tuple[str, str]]:
    """Roles of the target that differ from the source's of that name. They may serve other databases too, so they are only told."""
    found = []
    for name in names:
        if name not in target.roles or _is_superuser(target, name):
            continue
        mine, other = source.roles[name].flags, target.roles[name].flags
        words = [key if on else f"NO{key}" for key, on in mine.items() if key != "SUPERUSER" and other[key] != on]
        if words:
            found.append(
                (f"role {name}", f"the target's differs; to make it as on the source: ALTER ROLE {quote_ident(name)} {' '.join(words)}")
            )
    mine_in = {(m.role, m.member) for m in source.memberships}
    for m in target.memberships:
        if m.member in names and m.role in source.roles and (m.role, m.member) not in mine_in and not _is_superuser(target, m.member):
            found.append(
                (
                    f"role {m.member}",
                    f"on the target it is also in {m.role}; to undo that: REVOKE {quote_ident(m.role)} FROM {quote_ident(m.member)}",
                )
            )
    return found


def _is_superuser(side: Roles, name: str) -> bool:
    return name in side.roles and side.roles[name].flags["SUPERUSER"]


def apply(conn: psycopg.Connection[Any], todo: RolePlan) -> None:
    """Carry the plan out inside the caller's transaction. Passwords are hashed here, so that no server log can hold them."""
    for statement in todo.statements:
        conn.execute(statement)
    for name, secret in todo.passwords.items():
        hashed = conn.pgconn.encrypt_password(secret.encode(), name.encode(), b"scram-sha-256").decode()
        conn.execute(f"ALTER ROLE {quote_ident(name)} PASSWORD {quote_literal(hashed)}")


def with_password(conn: psycopg.Connection[Any]) -> frozenset[str]:
    """Roles that have a password, as far as our role may see it."""
    row = conn.execute("SELECT has_table_privilege('pg_catalog.pg_authid', 'SELECT')").fetchone()
    if not row or not row[0]:
        return frozenset()
    return frozenset(name for (name,) in conn.execute("SELECT rolname::text FROM pg_authid WHERE rolpassword IS NOT NULL").fetchall())


def _set(
    prefix: str,
    owner: str,
    key: str,
    value: str,
    there: str | None,
    known: frozenset[str],
    statements: list[str],
    skipped: list[tuple[str, str]],
) -> None:
    if there == value:
        return
    if there is not None:
        skipped.append((f"{owner}: {key}", "the target has another value of its own"))
    elif key in UNMOVABLE_SETTINGS:
        skipped.append((f"{owner}: {key}", "it names files of the old server"))
    elif "." not in key and key not in known:
        skipped.append((f"{owner}: {key}", "the target does not know this setting"))
    else:
        values = ", ".join(quote_literal(part) for part in _elements(value)) if key in _LIST_SETTINGS else quote_literal(value)
        statements.append(f"{prefix} SET {'.'.join(quote_ident(part) for part in key.split('.'))} TO {values}")


def _elements(value: str) -> list[str]:
    """Elements of a list of identifiers as the catalogue keeps it: ``"$user", public``."""
    elements: list[str] = []
    current, quoted, position = "", False, 0
    while position < len(value):
        char = value[position]
        if char == '"' and quoted and value[position + 1 : position + 2] == '"':
            current, position = current + '"', position + 1
        elif char == '"':
            quoted = not quoted
        elif char == "," and not quoted:
            elements, current = [*elements, current], ""
        elif quoted or not char.isspace():
            current += char
        position += 1
    return [*elements, current]


def _word(on: bool) -> str:
    return "TRUE" if on else "FALSE"
