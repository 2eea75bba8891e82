# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where a database is and how to log in: one frozen value for every engine and every client program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import TransferError

FLAVOURS = ("postgresql", "supabase")
SSLMODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")

# libpq keyword -> environment variable that its client programs read.
_ENVIRONMENT = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "dbname": "PGDATABASE",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslcrl": "PGSSLCRL",
    "options": "PGOPTIONS",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "channel_binding": "PGCHANNELBINDING",
    "gssencmode": "PGGSSENCMODE",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
    "service": "PGSERVICE",
    "passfile": "PGPASSFILE",
    "application_name": "PGAPPNAME",
}


@dataclass(frozen=True)
class Rest:
    """REST address of a source that offers nothing else. url: without a trailing slash; key: the service key.

    unique: {``schema.table``: columns that are unique and never empty} for tables without a primary key; page_rows: rows asked for at a time
    """

    url: str
    key: str = field(repr=False)
    unique: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    page_rows: int = 5000


@dataclass(frozen=True)
class Endpoint:
    """A database. Either ``dsn``, or ``host`` and its friends, or ``rest`` alone. Secrets never appear in ``repr``."""

    dsn: str | None = field(default=None, repr=False)
    host: str | None = None
    port: int = 5432
    dbname: str | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    sslmode: str = "prefer"
    sslrootcert: str | None = None
    flavour: str = "postgresql"
    rest: Rest | None = None

    @classmethod
    def from_args(cls, args: Mapping[str, Any]) -> Endpoint:
        """Endpoint of a module's ``source`` or ``target`` argument. Raises TransferError for anything it does not understand."""
        known = {"dsn", "host", "port", "dbname", "user", "password", "sslmode", "sslrootcert", "flavour", "rest"}
        unknown = sorted(set(args) - known)
        if unknown:
            raise TransferError(f"unknown key in an endpoint: {', '.join(unknown)}", f"Use only {', '.join(sorted(known))}.")
        ways = [way for way in ("dsn", "host", "rest") if args.get(way)]
        if len(ways) != 1:
            found = " and ".join(ways) or "none of them"
            raise TransferError(f"an endpoint needs exactly one of dsn, host or rest, found {found}", "Give one of the three.")
        flavour = str(args.get("flavour") or "postgresql")
        if flavour not in FLAVOURS:
            raise TransferError(f"unknown flavour {flavour!r} of an endpoint", f"Use one of {', '.join(FLAVOURS)}.")
        sslmode = str(args.get("sslmode") or "prefer")
        if sslmode not in SSLMODES:
            raise TransferError(f"unknown sslmode {sslmode!r} of an endpoint", f"Use one of {', '.join(SSLMODES)}.")
        rest = args.get("rest")
        if rest is not None and not (rest.get("url") and rest.get("key")):
            raise TransferError("rest of an endpoint needs url and key", "Give the address of the REST interface and a service key.")
        return cls(
            dsn=args.get("dsn") or None,
            host=args.get("host") or None,
            port=int(args.get("port") or 5432),
            dbname=args.get("dbname") or None,
            user=args.get("user") or None,
            password=args.get("password") or None,
            sslmode=sslmode,
            sslrootcert=args.get("sslrootcert") or None,
            flavour=flavour,
            rest=_rest(rest) if rest else None,
        )

    def parameters(self) -> dict[str, str]:
        """libpq keywords and values, the password among them. Raises TransferError for a REST-only endpoint or a broken dsn."""
        if self.rest is not None:
            raise TransferError(f"{self.describe()} has only a REST address", "Give host, user and password, or a dsn, for this step.")
        if self.dsn is not None:
            found = _parse_dsn(self.dsn)
            if self.password is not None:
                found.setdefault("password", self.password)
            return found
        values = {
            "host": self.host,
            "port": str(self.port),
            "dbname": self.dbname,
            "user": self.user,
            "password": self.password,
            "sslmode": self.sslmode,
            "sslrootcert": self.sslrootcert,
        }
        return {keyword: value for keyword, value in values.items() if value is not None}

    def conninfo(self, **more: str | int) -> str:
        """libpq connection string with every value quoted. ``more`` adds keywords that the endpoint itself does not set."""
        merged = {**{keyword: str(value) for keyword, value in more.items()}, **self.parameters()}
        return " ".join(f"{keyword}={_quote(value)}" for keyword, value in merged.items())

    def describe(self) -> str:
        """``user@host:port/dbname`` for messages, without secrets."""
        if self.rest is not None:
            return f"REST {self.rest.url}"
        found = self.parameters()
        host = found.get("host") or found.get("hostaddr") or found.get("service") or "local"
        return f"{found.get('user', '')}@{host}:{found.get('port', '5432')}/{found.get('dbname', '')}"

    def env(self) -> dict[str, str]:
        """Environment for pg_dump, pg_restore and psql: PG* only, to be added to the caller's own. Nothing goes to argv."""
        found = self.parameters()
        return {variable: found[keyword] for keyword, variable in _ENVIRONMENT.items() if keyword in found}


def _rest(given: Mapping[str, Any]) -> Rest:
    unknown = sorted(set(given) - {"url", "key", "unique", "page_rows"})
    if unknown:
        raise TransferError(f"unknown key in rest of an endpoint: {', '.join(unknown)}", "Use only url, key, unique and page_rows.")
    unique: dict[str, tuple[str, ...]] = {}
    for table, columns in (given.get("unique") or {}).items():
        if "." not in str(table) or not isinstance(columns, list | tuple) or not columns:
            raise TransferError(f"rest.unique has {table!r}: {columns!r}", "Write schema.table: [column, …].")
        unique[str(table)] = tuple(str(column) for column in columns)
    page_rows = int(given.get("page_rows") or 5000)
    if page_rows < 1:
        raise TransferError(f"rest.page_rows is {page_rows}, it must be at least 1", "Correct the number.")
    return Rest(str(given["url"]).rstrip("/"), str(given["key"]), unique, page_rows)


def _quote(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _parse_dsn(dsn: str) -> dict[str, str]:
    try:
        from psycopg import ProgrammingError
        from psycopg.conninfo import conninfo_to_dict
    except ImportError as error:
        raise TransferError("psycopg is missing on this machine", "Install psycopg 3.1 or later, for example with role mover.") from error
    try:
        return {keyword: str(value) for keyword, value in conninfo_to_dict(dsn).items() if value is not None}
    except ProgrammingError as error:
        # libpq quotes parts of the string in its message; a password may be among them.
        raise TransferError("dsn is not a libpq connection string or URI", "Check its quoting, or give host, user and password.") from error
