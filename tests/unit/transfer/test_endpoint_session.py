"""Addresses without secrets in sight, and the meaning of refused connections."""

from __future__ import annotations

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.endpoint import Endpoint
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.session import classify, connect, is_lost, retrying, wanted_settings
from hypothesis import given
from hypothesis import strategies as st
from psycopg import OperationalError, errors
from psycopg.conninfo import conninfo_to_dict

SECRET = "p'a\\ss wo=rd"


@given(st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), min_size=1))
def test_any_password_survives_the_connection_string(password: str) -> None:
    endpoint = Endpoint.from_args({"host": "h", "dbname": "d", "user": "u", "password": password})
    assert conninfo_to_dict(endpoint.conninfo())["password"] == password


def test_secrets_stay_out_of_repr_and_description() -> None:
    for endpoint in (
        Endpoint.from_args({"host": "h", "dbname": "d", "user": "u", "password": SECRET}),
        Endpoint.from_args({"dsn": "postgresql://u:hidden@h:5433/d?sslmode=require"}),
    ):
        assert SECRET not in repr(endpoint) + endpoint.describe() and "hidden" not in repr(endpoint) + endpoint.describe()
    assert endpoint.describe() == "u@h:5433/d" and endpoint.env()["PGPASSWORD"] == "hidden" and endpoint.env()["PGSSLMODE"] == "require"
    rest = Endpoint.from_args({"rest": {"url": "https://x.example/", "key": "service"}})
    assert "service" not in repr(rest) and rest.describe() == "REST https://x.example"


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"host": "h", "dsn": "x"},
        {"host": "h", "flavour": "mysql"},
        {"host": "h", "sslmode": "no"},
        {"hots": "h"},
        {"rest": {"url": "u", "key": ""}},
    ],
)
def test_bad_endpoints_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(TransferError):
        Endpoint.from_args(arguments)


def test_broken_dsn_does_not_show_itself() -> None:
    with pytest.raises(TransferError) as caught:
        Endpoint.from_args({"dsn": "host=h password=secret oops"}).conninfo()
    assert "secret" not in caught.value.message


def test_transaction_pooler_is_refused_before_connecting() -> None:
    endpoint = Endpoint.from_args({"host": "x.pooler.supabase.com", "port": 6543, "user": "u", "flavour": "supabase"})
    with pytest.raises(TransferError, match="transaction pooler"):
        connect(endpoint, application_name="test")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('FATAL:  password authentication failed for user "u"', "wrong_password"),
        ("fe_sendauth: no password supplied", "no_password"),
        ('FATAL:  no pg_hba.conf entry for host "1.2.3.4", user "u", database "d", no encryption', "pg_hba"),
        ('FATAL:  database "d" does not exist', "no_database"),
        ('FATAL:  role "u" does not exist', "no_role"),
        ('FATAL:  permission denied for database "d"', "no_connect"),
        ("FATAL:  sorry, too many clients already", "too_many_connections"),
        ("FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute", "too_many_connections"),
        ("FATAL:  the database system is starting up", "starting"),
        ('could not translate host name "h" to address: Name or service not known', "unknown_host"),
        ('connection to server at "h" (::1), port 5432 failed: Connection refused', "unreachable"),
        ("server closed the connection unexpectedly", "lost"),
        ('connection to server at "h" (::1), port 5432 failed: SSL error: unexpected eof while reading', "lost"),
        ("SSL error: certificate verify failed", "tls_authority"),
        ("server does not support SSL, but SSL was required", "tls_unsupported"),
        ("FATAL:  Tenant or user not found", "wrong_tenant"),
        ("FATAL:  must be superuser or replication role to start walsender", "no_replication_right"),
        ("FATAL:  permission denied to start WAL sender", "no_replication_right"),
        ("FATAL:  number of requested standby connections exceeds max_wal_senders (currently 1)", "no_wal_sender"),
        ("FATAL:  unsupported startup parameter: replication", "pooler"),
        ("something new", "refused"),
    ],
)
def test_refusals_are_told_apart(text: str, kind: str) -> None:
    refusal = classify(text, "u@h:5432/d")
    assert refusal.kind == kind and refusal.remedy and "h" in refusal.message


def test_only_lost_links_are_tried_again() -> None:
    calls: list[int] = []

    def flaky() -> str:
        calls.append(1)
        if len(calls) < 3:
            raise OperationalError("server closed the connection unexpectedly")
        return "done"

    assert retrying(flaky, first_pause=0.01) == "done" and len(calls) == 3
    assert (
        not is_lost(ValueError())
        and not is_lost(TransferError("x", kind="wrong_password"))
        and is_lost(TransferError("x", kind="starting"))
    )

    def wrong() -> None:
        calls.append(1)
        raise TransferError("no")

    with pytest.raises(TransferError):
        retrying(wrong, first_pause=0.01)
    assert len(calls) == 4


CLOSED = "server closed the connection unexpectedly\n\tThis probably means the server terminated abnormally\n\tbefore or while processing the request."


# As libpq 15 and 18, psycopg 3.3 and our frames say it; none of them comes with a state.
@pytest.mark.parametrize(
    "text",
    [
        CLOSED,
        f"consuming input failed: {CLOSED}",
        f"sending copy data failed: {CLOSED}",
        f"receiving copy data failed: {CLOSED}\n{CLOSED}",
        "consuming input failed: SSL error: unexpected eof while reading",
        "sending copy data failed: SSL SYSCALL error: EOF detected",
        "SSL connection has been closed unexpectedly",
        "SSL error: decryption failed or bad record mac",
        "could not receive data from server: Connection timed out",
        "could not send data to server: Broken pipe\n",
        "FATAL:  terminating connection due to administrator command\n" + CLOSED,
        "no connection to the server\n",
        "the connection is closed",
        "the connection is lost",
        "the connection was lost",
        "server closed the connection: it ended the stream",
        "connection socket closed",
        "receiving copy data failed: connection pointer is NULL",
        "connection lost while rows moved: [Errno 104] Connection reset by peer",
        "server closed the connection unexpectedly while rows moved",
    ],
)
def test_a_link_that_is_gone_is_known_by_what_is_said(text: str) -> None:
    assert is_lost(OperationalError(text))


@pytest.mark.parametrize(
    "text",
    [
        "sending copy data failed: no COPY in progress",
        "sending copy end failed: no COPY in progress\nno COPY in progress",
        "receiving copy data failed: no COPY in progress",
        "sending query failed: another command is already in progress",
        "sending query failed: cannot queue commands during COPY\n",
        "connection not in pipeline mode",
        "failed to enter pipeline mode",
        "setting single row mode failed",
        "out of memory",
        'lost synchronization with server: got message type "D", length 1634886512',
        "unexpected message 'T' from the source while rows moved",
        "the source's messages cannot be told apart",
        "the source sent more than the end of the rows",
        "the target ended the COPY before its rows did",
        "",
    ],
)
def test_a_fault_of_ours_is_not_tried_again(text: str) -> None:
    calls: list[int] = []

    def wrong() -> None:
        calls.append(1)
        raise OperationalError(text)

    with pytest.raises(OperationalError):
        retrying(wrong, first_pause=0.01)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("kind", "text", "lost"),
    [
        (errors.ConnectionFailure, "FATAL:  connection failure", True),
        (errors.AdminShutdown, "FATAL:  terminating connection due to administrator command", True),
        (errors.CannotConnectNow, "FATAL:  the database system is starting up", True),
        (errors.TooManyConnections, "FATAL:  sorry, too many clients already", True),
        (errors.ProtocolViolation, "FATAL:  server conn crashed?", True),
        (errors.ProtocolViolation, "ERROR:  bind message supplies 1 parameters, but prepared statement requires 0", False),
        (errors.DiskFull, "ERROR:  could not extend file", False),
        (errors.QueryCanceled, "ERROR:  canceling statement due to statement timeout", False),
        (errors.LockNotAvailable, "ERROR:  canceling statement due to lock timeout", False),
        (errors.IdleInTransactionSessionTimeout, "FATAL:  terminating connection due to idle-in-transaction timeout", False),
        (errors.UndefinedTable, 'ERROR:  relation "server closed the connection" does not exist', False),
    ],
)
def test_what_a_server_says_with_a_state_is_known_by_its_state(kind: type[errors.Error], text: str, lost: bool) -> None:
    assert is_lost(kind(text)) is lost


def test_settings_by_version_and_role() -> None:
    plain, replica = wanted_settings(150000, read_only=True, replica=False), wanted_settings(170002, read_only=False, replica=True)
    assert "transaction_timeout" not in plain and plain["default_transaction_read_only"] == "on" and plain["row_security"] == "off"
    assert (
        replica["transaction_timeout"] == "0"
        and replica["session_replication_role"] == "replica"
        and replica["synchronous_commit"] == "off"
    )
