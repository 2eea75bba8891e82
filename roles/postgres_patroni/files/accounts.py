"""Brings roles and databases of a PostgreSQL server to what is declared; needs psql and Python's standard library.

Standard input: {"users": [...], "databases": [...]}; the shapes are those of the role's variables.
Arguments: ``--apply``, or ``--check``, which changes nothing; ``--port N``; ``--superuser NAME``.
Standard output: {"changed": bool, "changes": [words]}. No password, clear or hashed, is printed or put on a command line:
a password is compared with the stored verifier, and a new one reaches the server as a verifier only.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import json
import os
import re
import stringprep
import subprocess
import sys
import unicodedata
from typing import Any

ATTRIBUTES = {
    "SUPERUSER": "rolsuper",
    "INHERIT": "rolinherit",
    "CREATEROLE": "rolcreaterole",
    "CREATEDB": "rolcreatedb",
    "LOGIN": "rolcanlogin",
    "REPLICATION": "rolreplication",
    "BYPASSRLS": "rolbypassrls",
}
ITERATIONS = 4096
VERIFIER = re.compile(r"^SCRAM-SHA-256\$(\d+):([A-Za-z0-9+/=]+)\$[A-Za-z0-9+/=]+:[A-Za-z0-9+/=]+$")
# What is sent must appear neither in the server's log nor in its statistics.
QUIET = (
    "SET log_statement = 'none'; SET log_min_duration_statement = -1; SET log_min_error_statement = panic; "
    "SET pg_stat_statements.track = 'none'; SET pg_stat_statements.track_utility = off;\n"
)
STATE = """
SELECT json_build_object(
  'version', current_setting('server_version_num')::int,
  'roles', coalesce((SELECT json_object_agg(r.rolname, to_jsonb(a) || jsonb_build_object(
      'settings', coalesce((SELECT s.setconfig FROM pg_db_role_setting s WHERE s.setrole = r.oid AND s.setdatabase = 0), '{}'),
      'member_of', array(SELECT g.rolname FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid WHERE m.member = r.oid)))
    FROM pg_roles r JOIN pg_authid a ON a.oid = r.oid), '{}'),
  'databases', (SELECT json_object_agg(d.datname, json_build_object('owner', pg_get_userbyid(d.datdba), 'encoding', pg_encoding_to_char(d.encoding),
      'locale', d.datcollate,
      'connect', array(SELECT CASE WHEN x.grantee = 0 THEN 'public' ELSE pg_get_userbyid(x.grantee) END
                       FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) x WHERE x.privilege_type = 'CONNECT')))
    FROM pg_database d));
"""


def identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def prepared(password: str) -> str:
    """As PostgreSQL prepares a password before hashing (RFC 4013); ASCII is unchanged."""
    if password.isascii():
        return password
    mapped = "".join(" " if stringprep.in_table_c12(c) else c for c in password if not stringprep.in_table_b1(c))
    return unicodedata.normalize("NFKC", mapped)


def verifier(password: str, salt: bytes, iterations: int = ITERATIONS) -> str:
    """The SCRAM-SHA-256 verifier of a password, as pg_authid stores it."""
    salted = hashlib.pbkdf2_hmac("sha256", prepared(password).encode(), salt, iterations)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    encoded = [base64.b64encode(part).decode() for part in (salt, stored, server)]
    return f"SCRAM-SHA-256${iterations}:{encoded[0]}${encoded[1]}:{encoded[2]}"


def matches(password: str, stored: str | None) -> bool:
    """Whether the stored verifier was made from this password."""
    found = VERIFIER.match(stored or "")
    if not found:
        return False
    return hmac.compare_digest(verifier(password, base64.b64decode(found[2]), int(found[1])), stored or "")


def option(attribute: str) -> tuple[str, bool]:
    """("rolcreatedb", False) for NOCREATEDB."""
    word = attribute.upper()
    if word in ATTRIBUTES:
        return ATTRIBUTES[word], True
    if word.startswith("NO") and word[2:] in ATTRIBUTES:
        return ATTRIBUTES[word[2:]], False
    raise SystemExit(f"unknown attribute {attribute!r}: expected one of {', '.join(ATTRIBUTES)}, or one of them with NO before it")


def user_statements(user: dict[str, Any], current: dict[str, Any] | None) -> list[tuple[str, str]]:
    """What makes one role as declared: (words for the report, statement), in order."""
    name, out = user["name"], []
    role = identifier(name)
    if current is None:
        out.append((f"role {name} created", f"CREATE ROLE {role}"))
        current = {"rolinherit": True}
    wanted = [word for word in user.get("attributes", ["LOGIN"]) if bool(current.get(option(word)[0], False)) != option(word)[1]]
    if wanted:
        out.append((f"role {name}: {' '.join(w.upper() for w in wanted)}", f"ALTER ROLE {role} {' '.join(w.upper() for w in wanted)}"))
    limit = user.get("connection_limit")
    if limit is not None and int(limit) != current.get("rolconnlimit", -1):
        out.append((f"role {name}: connection limit {int(limit)}", f"ALTER ROLE {role} CONNECTION LIMIT {int(limit)}"))
    password = user.get("password")
    if password and not matches(password, current.get("rolpassword")):
        out.append((f"role {name}: password", f"ALTER ROLE {role} PASSWORD {literal(verifier(password, os.urandom(16)))}"))
    settings = dict(line.split("=", 1) for line in current.get("settings", []))
    for key, value in user.get("settings", {}).items():
        if settings.get(key) != str(value):
            out.append((f"role {name}: {key} = {value}", f"ALTER ROLE {role} SET {identifier(key)} = {literal(str(value))}"))
    for group in user.get("member_of", []):
        if group not in current.get("member_of", []):
            out.append((f"role {name}: member of {group}", f"GRANT {identifier(group)} TO {role}"))
    return out


def database_statements(database: dict[str, Any], current: dict[str, Any] | None) -> list[tuple[str, str]]:
    """What makes one database as declared, extensions apart; what cannot be changed afterwards is refused."""
    name, out = database["name"], []
    here, owner = identifier(name), database.get("owner", "")
    if current is None:
        words = [f"CREATE DATABASE {here}"]
        words += [f"OWNER {identifier(owner)}"] if owner else []
        words += [f"ENCODING {literal(database['encoding'])}"] if database.get("encoding") else []
        words += [f"LOCALE {literal(database['locale'])}"] if database.get("locale") else []
        if database.get("template") or database.get("encoding") or database.get("locale"):
            words += [f"TEMPLATE {identifier(database.get('template', 'template0'))}"]
        out.append((f"database {name} created", " ".join(words)))
        current = {"owner": owner, "connect": ["public"]}
    elif owner and current["owner"] != owner:
        out.append((f"database {name}: owner {owner}", f"ALTER DATABASE {here} OWNER TO {identifier(owner)}"))
    for key in ("encoding", "locale"):
        if database.get(key) and current.get(key, database[key]) != database[key]:
            raise SystemExit(f"database {name} has {key} {current[key]}, declared is {database[key]}: it cannot be changed, only made anew")
    if "connect" in database:
        if "public" in current["connect"]:
            out.append((f"database {name}: closed to others", f"REVOKE CONNECT, TEMPORARY ON DATABASE {here} FROM PUBLIC"))
        out += [
            (f"database {name}: open to {user}", f"GRANT CONNECT, TEMPORARY ON DATABASE {here} TO {identifier(user)}")
            for user in database["connect"]
            if user not in current["connect"]
        ]
    return out


class Server:
    """psql on this machine, as the operating system's user postgres."""

    def __init__(self, port: int, superuser: str) -> None:
        self._command = ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-p", str(port), "-U", superuser]
        if os.geteuid() == 0:
            self._command = ["runuser", "-u", "postgres", "--", *self._command]

    def run(self, text: str, database: str = "postgres") -> str:
        done = subprocess.run(
            [*self._command, "-d", database], input=text, capture_output=True, text=True, cwd="/", timeout=120, check=False
        )
        if done.returncode != 0:
            raise SystemExit("psql: " + "; ".join(line for line in done.stderr.splitlines() if "SCRAM-SHA-256" not in line))
        return done.stdout


def extension_statements(server: Server, database: dict[str, Any], exists: bool) -> list[tuple[str, str]]:
    wanted = database.get("extensions", [])
    present = server.run("SELECT extname FROM pg_extension", database["name"]).split() if wanted and exists else []
    return [(f"database {database['name']}: extension {e}", f"CREATE EXTENSION {identifier(e)}") for e in wanted if e not in present]


def apply(server: Server, declared: dict[str, Any], check: bool) -> list[str]:
    """Compare and, unless check, change: roles in one transaction, databases one by one."""
    state = json.loads(server.run(STATE))
    missing = {user["name"] for user in declared["users"]} - set(state["roles"])
    for database in declared["databases"]:
        owner = database.get("owner")
        if owner and owner not in state["roles"] and owner not in missing:
            raise SystemExit(f"database {database['name']}: its owner {owner} is neither there nor declared; add it to the users")
    steps = [step for user in declared["users"] for step in user_statements(user, state["roles"].get(user["name"]))]
    # Every role exists before one becomes a member of another.
    steps.sort(key=lambda step: (not step[1].startswith("CREATE ROLE"), step[1].startswith("GRANT")))
    if steps and not check:
        server.run(QUIET + "BEGIN;\n" + ";\n".join(statement for _unused, statement in steps) + ";\nCOMMIT;\n")
    changes = [words for words, _unused in steps]
    for database in declared["databases"]:
        current = state["databases"].get(database["name"])
        own = database_statements(database, current)
        if not check:
            for _unused, statement in own:
                server.run(statement + ";\n")
        inside = extension_statements(server, database, exists=current is not None)
        if inside and not check:
            server.run(";\n".join(statement for _unused, statement in inside) + ";\n", database["name"])
        changes += [words for words, _unused in own + inside]
    return changes


def main() -> None:
    parser = argparse.ArgumentParser()
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--check", action="store_true")
    mode.add_argument("--apply", action="store_true")
    parser.add_argument("--port", type=int, default=5432)
    parser.add_argument("--superuser", default="postgres")
    arguments = parser.parse_args()
    changes = apply(Server(arguments.port, arguments.superuser), json.load(sys.stdin), arguments.check)
    sys.stdout.write(json.dumps({"changed": bool(changes), "changes": changes}) + "\n")


if __name__ == "__main__":
    main()
