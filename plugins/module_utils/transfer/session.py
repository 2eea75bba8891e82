# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Connections whose settings are pinned and read back, and the meaning of a refused one."""

from __future__ import annotations

import locale
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from . import pooler
from .endpoint import Endpoint
from .errors import TransferError, certain

try:
    import psycopg
    from psycopg import pq

    PSYCOPG_ERROR: str | None = None
except ImportError as error:
    PSYCOPG_ERROR = str(error)

__all__ = [
    "PINNED",
    "PSYCOPG_ERROR",
    "TRANSIENT",
    "Refusal",
    "classify",
    "connect",
    "is_lost",
    "pq",
    "psycopg",
    "retrying",
    "wanted_settings",
]
T = TypeVar("T")
# Addresses behind which each connection has been seen to have a session of its own.
_OWN_SESSIONS: set[Endpoint] = set()

# Everything that changes what a row looks like, how one is read, or how a statement may run. Order matters nowhere.
PINNED: dict[str, str] = {
    "row_security": "off",
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "xmloption": "content",
    "lc_monetary": "C",
    "array_nulls": "on",
    "quote_all_identifiers": "off",
    "standard_conforming_strings": "on",
    "search_path": "pg_catalog",
    "client_encoding": "UTF8",
    "jit": "off",
    "synchronize_seqscans": "off",
    "default_transaction_isolation": "read committed",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
}
TRANSIENT = ("unreachable", "starting", "too_many_connections", "lost")
# What libpq says of a connection that has ended, whenever that is noticed.
_ENDED = (
    "server closed the connection|Connection reset|terminating connection|connection to server was lost|could not receive data|could not send data"
    "|SSL SYSCALL|SSL connection has been closed|unexpected eof while reading"
)
# What else is said of one that was good before: by libpq, by psycopg, by our own way of moving frames. All in English (see _speak_plainly).
_GONE = re.compile(
    f"{_ENDED}|SSL error|Broken pipe|timed out|no connection to the server|connection not open|connection pointer is NULL|connection socket closed"
    "|the connection (is|was) (closed|lost)|connection lost while rows moved"
)
_KEEPALIVE = {"keepalives": 1, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 6, "tcp_user_timeout": 120000}


@dataclass(frozen=True)
class Refusal:
    """Why a server did not let us in. kind: one word for machines; remedy: what to do."""

    kind: str
    message: str
    remedy: str


def connect(
    endpoint: Endpoint,
    *,
    application_name: str,
    read_only: bool = False,
    replica: bool = False,
    replication: bool = False,
    autocommit: bool = True,
) -> psycopg.Connection[Any]:
    """A connection with pinned settings, each read back from the server.

    read_only: every transaction is read only
    replica: the session passes ordinary triggers (session_replication_role) and does not wait for the disk at commit
    replication: a session of the replication protocol in this database, for slots; takes plain statements without parameters only
    Raises TransferError with ``details.kind`` as in :func:`classify`.
    """
    if PSYCOPG_ERROR is not None:
        raise TransferError(f"psycopg is missing on this machine: {PSYCOPG_ERROR}", "Install psycopg 3.1 or later.", kind="no_driver")
    where = endpoint.describe()
    if endpoint.flavour == "supabase" and endpoint.parameters().get("port") == "6543":
        raise TransferError(
            f"{where} is Supabase's transaction pooler, which keeps neither settings nor snapshots",
            "Use the direct address or the session pooler, both on port 5432.",
            kind="transaction_pooler",
        )
    more: dict[str, str | int] = {"replication": "database"} if replication else {}
    conninfo = endpoint.conninfo(
        **more, connect_timeout=15, application_name=application_name, fallback_application_name="cutover", **_KEEPALIVE
    )

    _speak_plainly()

    def reach() -> psycopg.Connection[Any]:
        try:
            return psycopg.connect(conninfo, autocommit=True, prepare_threshold=None)
        except psycopg.OperationalError as error:
            refusal = classify(str(error), where)
            raise TransferError(refusal.message, refusal.remedy, kind=refusal.kind, endpoint=where) from error

    conn = reach()
    try:
        _refuse_shared(conn, reach, endpoint)
        _pin(conn, where, read_only=read_only, replica=replica)
        _notice_loss(conn, endpoint)
        conn.autocommit = autocommit
    except BaseException:
        conn.close()
        raise
    return conn


def _speak_plainly() -> None:
    """Have libpq and the system tell their errors in English: Ansible sets the language of the user, and we read what they say."""
    if locale.setlocale(locale.LC_MESSAGES) != "C":
        locale.setlocale(locale.LC_MESSAGES, "C")


def _notice_loss(conn: psycopg.Connection[Any], endpoint: Endpoint) -> None:
    """Let the server look after the link as often as we do: by default it notices a vanished mover after two hours, and holds its locks so long."""
    given = {**{name: str(value) for name, value in _KEEPALIVE.items()}, **endpoint.parameters()}
    calls = [
        f"pg_catalog.set_config('tcp_{name}', '{int(given[name])}', false)"
        for name in ("keepalives_idle", "keepalives_interval", "keepalives_count")
    ]
    conn.execute(f"SELECT {', '.join(calls)}")


def _refuse_shared(conn: psycopg.Connection[Any], reach: Callable[[], psycopg.Connection[Any]], endpoint: Endpoint) -> None:
    """Raise before a setting is left on a session that other clients of a pooler get next."""
    if endpoint in _OWN_SESSIONS:
        return
    if pooler.kind(conn, reach) == pooler.TRANSACTION:
        raise TransferError(
            f"{endpoint.describe()} is a pooler in transaction mode, which keeps neither settings nor snapshots",
            "Give the server's direct address, or a pooler in session mode (Supabase: port 5432).",
            kind="transaction_pooler",
        )
    _OWN_SESSIONS.add(endpoint)


def wanted_settings(server_version: int, *, read_only: bool, replica: bool) -> dict[str, str]:
    """Settings of a session on a server of this version (150018 is 15.18)."""
    wanted = dict(PINNED)
    if server_version >= 170000:
        wanted["transaction_timeout"] = "0"
    if read_only:
        wanted["default_transaction_read_only"] = "on"
    if replica:
        wanted["session_replication_role"] = "replica"
        wanted["synchronous_commit"] = "off"
    return wanted


def _pin(conn: psycopg.Connection[Any], where: str, *, read_only: bool, replica: bool) -> None:
    wanted = wanted_settings(conn.info.server_version, read_only=read_only, replica=replica)
    calls = ", ".join(f"pg_catalog.set_config('{name}', '{value}', false)" for name, value in wanted.items())
    try:
        conn.execute(f"SELECT {calls}")
    except psycopg.errors.InsufficientPrivilege as error:
        raise TransferError(
            f"{where} may not set session_replication_role, so triggers would fire on moved rows",
            f'Run, on PostgreSQL 15 or later: GRANT SET ON PARAMETER session_replication_role TO "{conn.info.user}"; else use a superuser.',
            kind="session_replication_role",
            endpoint=where,
        ) from error
    # Read back in a second statement: a pooler or a hook may have taken the first and done nothing.
    shown = ", ".join(f"pg_catalog.current_setting('{name}')" for name in wanted)
    row = certain(conn.execute(f"SELECT {shown}").fetchone(), "the row of the settings")
    wrong = {name: got for (name, value), got in zip(wanted.items(), row, strict=True) if got != value}
    if wrong:
        listed = ", ".join(f"{name} is {got!r} instead of {wanted[name]!r}" for name, got in wrong.items())
        raise TransferError(
            f"{where} did not keep the session's settings: {listed}",
            "Connect without a transaction pooler in between.",
            kind="settings",
            endpoint=where,
        )


# First match wins: pattern in the text of libpq or the server, kind, what it means, remedy.
# {w} is the endpoint, {d} the database, {u} the role, {h} the host. pg_hba's text names a database and a role too, so it comes first.
_REFUSALS: tuple[tuple[str, str, str, str], ...] = (
    (
        "no pg_hba.conf entry|pg_hba.conf rejects",
        "pg_hba",
        "pg_hba.conf of {h} does not let role {u} into database {d} from this machine",
        "Add an entry for this machine's address to pg_hba.conf and reload.",
    ),
    (
        "replication role to start walsender|permission denied to start WAL sender",
        "no_replication_right",
        "role {u} on {w} may not replicate",
        "Run ALTER ROLE <role> REPLICATION; as a superuser.",
    ),
    (
        "exceeds max_wal_senders",
        "no_wal_sender",
        "{w} has no free WAL sender",
        "End a replication connection that nobody needs, or raise max_wal_senders and restart the server.",
    ),
    (
        "unsupported startup parameter",
        "pooler",
        "{w} is a pooler, through which no replication connection passes",
        "Give the server's direct address.",
    ),
    (
        "password authentication failed|SASL authentication failed",
        "wrong_password",
        "{w} refuses the password of role {u}",
        "Check password of the endpoint.",
    ),
    (
        "no password supplied",
        "no_password",
        "{w} wants a password for role {u} and none is given",
        "Set password of the endpoint, from the vault.",
    ),
    (
        "Tenant or user not found",
        "wrong_tenant",
        "the pooler at {w} does not know role {u}",
        "Use postgres.<project> as user and the pooler of the project's region.",
    ),
    (
        'role "[^"]*" does not exist',
        "no_role",
        "role {u} does not exist on {w}",
        "Create the role or correct user of the endpoint.",
    ),
    (
        'database "[^"]*" does not exist',
        "no_database",
        "database {d} does not exist on {w}",
        "Create the database or correct dbname of the endpoint.",
    ),
    (
        "permission denied for database",
        "no_connect",
        "role {u} may not connect to database {d} on {w}",
        "Run GRANT CONNECT ON DATABASE for the role.",
    ),
    (
        "too many clients|connection slots|too many connections|MaxClientsInSessionMode|max clients",
        "too_many_connections",
        "{w} has no free connection",
        "Use fewer workers or raise the server's or the pooler's limit.",
    ),
    (
        "starting up|shutting down|in recovery mode|not yet accepting connections",
        "starting",
        "{w} is starting up or shutting down",
        "Try again when it accepts connections.",
    ),
    (
        "root certificate file .* does not exist",
        "tls_no_root",
        "sslmode asks to verify the certificate of {w}, and there is no file with the authorities to trust",
        "Set sslrootcert to the file with the authority that signed it (Supabase: Database settings, SSL certificate), or to system.",
    ),
    (
        "certificate .*does not match host name",
        "tls_name",
        "the TLS certificate of {w} is for another name than {h}",
        "Set host to a name in the certificate, and hostaddr of a dsn to the address if the name leads elsewhere.",
    ),
    (
        "certificate verify failed",
        "tls_authority",
        "the TLS certificate of {w} is signed by an authority that sslrootcert does not hold, or has expired",
        "Set sslrootcert to the file with the authority that signed it.",
    ),
    (
        "does not support SSL",
        "tls_unsupported",
        "{w} offers no TLS, and sslmode asks for it",
        "Set ssl = on at the server with a certificate; sslmode: disable only on a link that nobody else reads.",
    ),
    (
        "could not translate host name|Name or service not known|failed to resolve host",
        "unknown_host",
        "the name {h} does not resolve on this machine",
        "Check host of the endpoint and the resolver; a direct Supabase address has only IPv6.",
    ),
    (
        "Connection refused|No route to host|timeout expired|[Nn]etwork is unreachable|connection timeout|No such file or directory|timed out",
        "unreachable",
        "{w} cannot be reached from this machine",
        "Check host and port, the firewall in between and whether the server runs.",
    ),
    (
        _ENDED,
        "lost",
        "the connection to {w} was lost",
        "Try again; a rerun continues where this one stopped.",
    ),
    (
        "certificate",
        "tls",
        "the TLS certificate of {w} is not accepted",
        "Set sslrootcert to the authority that signed it and host to a name in it.",
    ),
    (
        "SSL",
        "tls",
        "{w} and this machine do not agree on TLS",
        "Check sslmode of the endpoint and ssl of the server.",
    ),
)


def classify(text: str, where: str) -> Refusal:
    """Meaning of libpq's text about a failed connection to ``where`` (``user@host:port/dbname``)."""
    user, _unused, rest = where.rpartition("@")
    host, _unused, dbname = rest.rpartition("/")
    for pattern, kind, message, remedy in _REFUSALS:
        if re.search(pattern, text):
            return Refusal(kind, message.format(w=where, u=user, d=dbname, h=host), remedy)
    first = text.strip().splitlines()[-1] if text.strip() else "no reason given"
    return Refusal("refused", f"{where} refuses the connection: {first}", "See the server's log for the reason.")


def is_lost(error: BaseException) -> bool:
    """Whether trying again on a new connection can help: the link or the server went away, nothing was wrong with the statement.

    An error without a state is libpq's or psycopg's own. It counts as a lost link only where its text says so: "no COPY in progress" or
    "another command is already in progress" are faults of ours, which no new connection mends.
    """
    if isinstance(error, TransferError):
        return error.details.get("kind") in TRANSIENT
    if not isinstance(error, psycopg.OperationalError):
        return False
    state = error.sqlstate
    if state is None:
        return bool(_GONE.search(str(error)))
    if state == "08P01":
        # Of a server our own message was wrong; a pooler ends a connection with it.
        return "FATAL" in (error.diag.severity_nonlocalized, error.diag.severity) or str(error).startswith("FATAL")
    # Class 08 connection, 57P0x shutdown, crash or an idle session's end, 53300 too many connections.
    return state[:2] == "08" or state in ("57P01", "57P02", "57P03", "57P05", "53300")


def retrying(
    action: Callable[[], T],
    *,
    budget_seconds: float = 600.0,
    first_pause: float = 0.5,
    on_retry: Callable[[BaseException], None] | None = None,
) -> T:
    """Result of ``action``, repeated with growing pauses (to 30 s) while its error is a lost connection and the budget lasts.

    The budget counts from the first failure, and anew after an attempt that held for longer than the longest pause.
    """
    pause, deadline = first_pause, 0.0
    while True:
        began = time.monotonic()
        try:
            return action()
        except Exception as error:
            now = time.monotonic()
            if deadline == 0.0 or now - began > 30.0:
                pause, deadline = first_pause, now + budget_seconds
            wait = pause * random.uniform(0.7, 1.3)
            if not is_lost(error) or now + wait > deadline:
                raise
            if on_retry is not None:
                on_retry(error)
            time.sleep(wait)
            pause = min(pause * 2, 30.0)
