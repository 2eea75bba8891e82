# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Preflight of the way to a server: names, routes, poolers, TLS."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from . import pooler
from .endpoint import Endpoint
from .errors import TransferError
from .findings import Finding, finding
from .session import connect

if TYPE_CHECKING:
    import psycopg

POOLER_SESSIONS = 15
SPARE_SESSIONS = 3
TRANSACTION_PORT = "6543"
SUPABASE_POOLER = ".pooler.supabase.com"


def enter(endpoint: Endpoint, side: str) -> tuple[psycopg.Connection[Any] | None, list[Finding]]:
    """A read-only session, or the reason why there is none."""
    try:
        return connect(endpoint, application_name="cutover preflight", read_only=True), []
    except TransferError as error:
        kind = error.details.get("kind")
        if kind == "transaction_pooler":
            return None, [finding("pooler-transaction", side, error.message, error.remedy)]
        if kind in ("unreachable", "unknown_host") and endpoint.rest is None:
            host = endpoint.parameters().get("host", "")
            missing = ipv6_only(host, addresses(host), ipv6_route)
            if missing is not None:
                return None, [missing]
        return None, [finding("connection", side, error.message, error.remedy)]


def way(conn: psycopg.Connection[Any], endpoint: Endpoint, side: str) -> list[Finding]:
    """Findings about a connection that stands."""
    found = []
    if not pooler.direct(conn):
        text = (
            "is reached through a pooler in session mode, through which nothing can be replicated: changes cannot be streamed from or to it"
        )
        found.append(
            finding(
                "pooler-session", side, text, "Give the server's direct address to stream; set max_connections to what the pooler allows."
            )
        )
    return found + tls(side, conn.info.hostaddr, conn.pgconn.ssl_in_use, endpoint.parameters().get("sslmode", ""))


def tls(side: str, address: str, encrypted: bool, sslmode: str) -> list[Finding]:
    """Findings about the encryption of a connection to an address, '' for a socket of this machine. Pure."""
    if not address or ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        return []
    fix = "Set sslmode: verify-full and sslrootcert of the endpoint."
    if not encrypted:
        return [finding("tls-off", side, "the connection is not encrypted: rows and password travel in the open", fix)]
    if sslmode not in ("verify-ca", "verify-full"):
        return [finding("tls-unverified", side, "the connection is encrypted, but nobody has checked whose certificate it is", fix)]
    return []


def declared(endpoint: Endpoint, workers: int, max_connections: int | None) -> list[Finding]:
    """What the address of a source tells before anything is opened."""
    parameters = endpoint.parameters()
    host, user = parameters.get("host", ""), parameters.get("user", "")
    if parameters.get("port") == TRANSACTION_PORT:
        text = f"port {TRANSACTION_PORT} is a transaction pooler, which keeps neither settings nor snapshots"
        return [finding("pooler-transaction", "source", text, "Use port 5432: the direct address, or the session pooler.")]
    found = []
    if user.startswith("cli_login_"):
        text = f"role {user} belongs to Supabase's command line and lacks rights on auth and storage"
        found.append(finding("login-role", "source", text, "Connect as postgres with the database password."))
    allowed = max_connections
    if allowed is None and host.endswith(SUPABASE_POOLER):
        allowed = POOLER_SESSIONS
    if allowed is not None and workers > allowed - SPARE_SESSIONS:
        text = f"{workers} workers need {workers + SPARE_SESSIONS} sessions, {allowed} are allowed"
        fix = f"Set workers to {max(1, allowed - SPARE_SESSIONS)} or less, or use the direct address."
        found.append(finding("workers", "workers", text, fix))
    return found


def addresses(host: str) -> tuple[str, ...]:
    """Addresses of a name, IPv6 ones included when this machine has no IPv6 itself. Empty for a socket's folder or an unknown name."""
    found: list[str] = []
    if host.startswith("/"):
        return ()
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            found += [str(entry[4][0]) for entry in socket.getaddrinfo(host, 5432, family, socket.SOCK_STREAM)]
    return tuple(dict.fromkeys(found))


def ipv6_route(address: str) -> bool:
    """Whether this machine has a route to an IPv6 address. Nothing is sent: connecting a datagram socket only looks the route up."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 5432))
            return True
    except OSError:
        return False


def ipv6_only(host: str, known: Sequence[str], route: Any) -> Finding | None:
    """The finding for a name with IPv6 addresses only on a machine that reaches none of them. route: as :func:`ipv6_route`."""
    if not known or any("." in address for address in known) or any(route(address) for address in known):
        return None
    fix = "Run the move on a machine with IPv6 (each Hetzner server has it)"
    if host.endswith(".supabase.co"):
        fix += ", or buy Supabase's IPv4 add-on, or use the session pooler on port 5432 (copy without a stream)"
    return finding("ipv6-only", host, f"has only IPv6 addresses ({known[0]}), and this machine has no IPv6 route to them", f"{fix}.")
