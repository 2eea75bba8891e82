"""Rules about a Patroni cluster, and its client against a REST interface that really answers."""

from __future__ import annotations

import base64
import importlib.util
import json
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.operations import patroni
from ansible_collections.cutover.hetzner.plugins.module_utils.operations.errors import OperationsError
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[3]


def member(name: str, role: str = "replica", state: str = "streaming", **more: Any) -> dict[str, Any]:
    return {"name": name, "role": role, "state": state, "host": "10.0.0.2", "port": 5432, "api_url": "", "timeline": 3, **more}


LEADER = member("db1", "leader", "running")
SYNC = member("db2", "sync_standby", lag=0)
REPLICA = member("db3", lag=4096)


def cluster(*members: dict[str, Any], **more: Any) -> patroni.Cluster:
    return patroni.parse_cluster({"scope": "main", "members": list(members), **more})


class TestParse:
    def test_a_healthy_cluster_of_three(self) -> None:
        found = cluster(REPLICA, LEADER, SYNC)
        assert [m.name for m in found.members] == ["db1", "db2", "db3"]
        assert found.leader is not None and found.leader.name == "db1"
        assert (found.timeline, found.lag, found.paused) == (3, 4096, False)
        assert patroni.problems(found, 3, synchronous=True) == []

    def test_an_unknown_lag_is_not_taken_for_none(self) -> None:
        assert cluster(LEADER, member("db2", lag="unknown")).lag is None
        assert cluster(LEADER, member("db2")).lag is None

    def test_an_old_patroni_calls_every_replica_running(self) -> None:
        assert patroni.problems(cluster(LEADER, member("db2", state="running", lag=0)), 2) == []

    def test_one_member_alone_has_no_lag_and_needs_no_standby(self) -> None:
        assert cluster(LEADER).lag == 0
        assert patroni.problems(cluster(LEADER), 1, synchronous=True) == []

    @pytest.mark.parametrize("role", ["leader", "master", "primary", "standby_leader"])
    def test_the_leader_under_all_its_names(self, role: str) -> None:
        found = cluster(member("db1", role, "running")).leader
        assert found is not None and found.leads


class TestProblems:
    @pytest.mark.parametrize(
        ("members", "expected", "synchronous", "words"),
        [
            ([], 0, False, "no member leads"),
            ([LEADER, REPLICA], 3, False, "2 of 3 members"),
            ([LEADER, member("db2", state="start failed")], 0, False, "db2 (replica) is in state 'start failed'"),
            ([LEADER, member("db2", timeline=2)], 0, False, "db2 is on another timeline"),
            ([LEADER, REPLICA], 0, True, "no member is a synchronous standby"),
            ([LEADER, SYNC, member("db3", state="running")], 0, False, "db3 (replica) runs and does not follow"),
            ([LEADER, member("db2", state="running", receive_lag=0)], 0, False, "db2 (replica) runs and does not follow"),
        ],
    )
    def test_each_is_named(self, members: list[dict[str, Any]], expected: int, synchronous: bool, words: str) -> None:
        assert any(words in problem for problem in patroni.problems(cluster(*members), expected, synchronous))


class TestConfiguration:
    def test_only_what_differs_is_sent(self) -> None:
        current = {"ttl": 30, "postgresql": {"use_slots": True, "parameters": {"a": 1, "b": "on"}}}
        wanted = {"ttl": 20, "postgresql": {"parameters": {"a": "1", "b": "on", "c": 2}}}
        assert patroni.difference(current, wanted) == {"ttl": 20, "postgresql": {"parameters": {"c": 2}}}

    def test_null_removes_once(self) -> None:
        assert patroni.difference({"slots": {"a": {"type": "physical"}}}, {"slots": {"a": None}}) == {"slots": {"a": None}}
        assert patroni.difference({"slots": {}}, {"slots": {"a": None}}) == {}

    def test_an_empty_mapping_is_made_where_there_is_none(self) -> None:
        assert patroni.difference({}, {"slots": {}}) == {"slots": {}}

    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda v: st.dictionaries(st.sampled_from("abcd"), v)
    )
    mappings = st.dictionaries(st.sampled_from("abcd"), values)

    @given(mappings, mappings)
    def test_after_the_patch_nothing_is_left_to_do(self, current: dict[str, Any], wanted: dict[str, Any]) -> None:
        patch = patroni.difference(current, wanted)
        after = patroni.patched(current, patch)
        assert patroni.difference(after, wanted) == {}
        assert patroni.patched(after, patroni.difference(after, wanted)) == after


class TestOrderAndRefusal:
    def test_the_leader_restarts_last(self) -> None:
        waiting = [{**m, "pending_restart": True} for m in (LEADER, SYNC, REPLICA)]
        assert [m.name for m in patroni.restart_order(cluster(*waiting))] == ["db2", "db3", "db1"]

    @pytest.mark.parametrize(
        ("candidate", "members", "paused", "words"),
        [
            ("db9", [LEADER, SYNC], False, "no member"),
            ("db2", [LEADER, member("db2", state="stopped")], False, "state 'stopped'"),
            ("db2", [SYNC, REPLICA], False, "no leader"),
            ("db2", [LEADER, SYNC], True, "paused"),
        ],
    )
    def test_a_switchover_that_cannot_work_is_refused(self, candidate: str, members: list[Any], paused: bool, words: str) -> None:
        refusal = patroni.refuse_switchover(cluster(*members, pause=paused), candidate)
        assert refusal is not None and words in refusal.message and refusal.remedy

    def test_one_that_can_is_not(self) -> None:
        assert patroni.refuse_switchover(cluster(LEADER, SYNC), "db2") is None


class Rest(ThreadingHTTPServer):
    """A REST interface with a leader, a configuration and a password, on a port of its own."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.config: dict[str, Any] = {"ttl": 30}
        # What is answered comes from an earlier round of the loop, this many more times; and as often a switchover is refused.
        self.rounds_behind = 0
        self.shown: dict[str, Any] = self.config
        self.not_ready = 0
        self.leader = "db1"
        self.seen: list[tuple[str, str, dict[str, Any]]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Rest

    def log_message(self, format: str, *args: Any) -> None:
        return

    def _answer(self, status: int, body: object) -> None:
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        names = ("db1", "db2")
        if self.path == "/config":
            if self.server.rounds_behind <= 0:
                self.server.shown = self.server.config
            self.server.rounds_behind -= 1
        members = [
            member(n, "leader" if n == self.server.leader else "sync_standby", "running", lag=0, api_url=self.server.url + "/patroni")
            for n in names
        ]
        self._answer(200, {"/cluster": {"scope": "main", "members": members}, "/config": self.server.shown}[self.path])

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers.get("Authorization") != "Basic " + base64.b64encode(b"patroni:right").decode():
            self._answer(401, "no auth header received")
            return
        self.server.seen.append((self.command, self.path, body))
        if self.path == "/switchover" and self.server.not_ready > 0:
            self.server.not_ready -= 1
            self._answer(412, "switchover is not possible: no good candidates have been found")
            return
        if self.path == "/config":
            self.server.config = patroni.patched(self.server.config, body)
        if self.path == "/switchover":
            self.server.leader = body["candidate"]
        self._answer(200, "done")

    def do_PATCH(self) -> None:
        self.do_POST()


@pytest.fixture
def rest() -> Iterator[Rest]:
    server = Rest()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def closed_url() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


class TestClient:
    def test_a_member_that_is_down_is_passed_over(self, rest: Rest) -> None:
        client = patroni.Client([closed_url(), rest.url], "patroni", "right")
        assert client.cluster().as_dict()["leader"] == "db1"
        client.patch({"ttl": 20})
        assert client.configuration() == {"ttl": 20}
        assert rest.seen == [("PATCH", "/config", {"ttl": 20})]

    def test_all_down_names_each_and_says_what_to_do(self) -> None:
        url = closed_url()
        with pytest.raises(OperationsError, match="no answer to GET /cluster") as caught:
            patroni.Client([url]).cluster()
        assert url in caught.value.details["unreachable"] and "systemctl status patroni" in caught.value.remedy

    def test_a_wrong_password_is_final_and_not_repeated_in_the_message(self, rest: Rest) -> None:
        with pytest.raises(OperationsError) as caught:
            patroni.Client([rest.url, rest.url], "patroni", "wrong-secret").patch({"ttl": 20})
        assert caught.value.details["status"] == 401 and "wrong-secret" not in str(caught.value.__dict__)
        assert rest.config == {"ttl": 30}

    def test_a_switchover_names_both(self, rest: Rest) -> None:
        client = patroni.Client([rest.url], "patroni", "right")
        client.switch_over(client.cluster(), "db2", 5)
        assert client.cluster().as_dict()["leader"] == "db2"
        assert rest.seen[-1] == ("POST", "/switchover", {"leader": "db1", "candidate": "db2"})

    def test_a_switchover_that_is_not_possible_yet_is_asked_for_again(self, rest: Rest) -> None:
        rest.not_ready = 2
        client = patroni.Client([rest.url], "patroni", "right")
        client.switch_over(client.cluster(), "db2", 10)
        assert rest.leader == "db2" and len(rest.seen) == 3
        rest.not_ready = 1000
        with pytest.raises(OperationsError, match="no good candidates"):
            client.switch_over(client.cluster(), "db1", 0.2)
        assert rest.leader == "db2"

    def test_a_stored_configuration_is_waited_for_until_the_member_shows_it(self, rest: Rest) -> None:
        client = patroni.Client([rest.url], "patroni", "right")
        client.patch({"ttl": 20})
        rest.rounds_behind = 2
        assert client.configuration() == {"ttl": 30}
        assert client.wait_configured({"ttl": 20}, 10) == {"ttl": 20}
        rest.rounds_behind = 1000
        client.patch({"ttl": 25})
        assert client.wait_configured({"ttl": 25}, 0.2) == {"ttl": 20}

    def test_a_restart_goes_to_the_member_itself(self, rest: Rest) -> None:
        client = patroni.Client([rest.url], "patroni", "right")
        client.restart(client.cluster().members[1], 5)
        assert rest.seen[-1][1:] == ("/restart", {"restart_pending": True, "timeout": 5})

    def test_waiting_ends_and_says_what_is_unmet(self, rest: Rest) -> None:
        with pytest.raises(OperationsError, match=r"after 0\.2 s: 2 of 3 members are known"):
            patroni.Client([rest.url]).wait(lambda c: patroni.problems(c, 3), 0.2)

    @pytest.mark.parametrize("url", ["10.0.0.2:8008", "ftp://db1:8008", "https://"])
    def test_what_is_no_address_is_refused_before_anything_is_sent(self, url: str) -> None:
        with pytest.raises(OperationsError, match="no address"):
            patroni.Client([url])


def program(path: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


accounts = program("roles/postgres_patroni/files/accounts.py")
guard = program("roles/base_hardening/files/guard.py")


class TestAccounts:
    # RFC 7677, section 3: user "user", password "pencil", salt and iterations as there; the server signature's key is derived from it.
    def test_the_verifier_is_that_of_the_standard(self) -> None:
        made = accounts.verifier("pencil", base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="), 4096)
        assert (
            made
            == "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
        )

    @given(st.text(min_size=1, max_size=12), st.binary(min_size=16, max_size=16))
    def test_a_password_matches_its_own_verifier_and_no_other(self, password: str, salt: bytes) -> None:
        made = accounts.verifier(password, salt, 10)
        assert accounts.matches(password, made)
        assert not accounts.matches(password + "x", made)

    @pytest.mark.parametrize("stored", [None, "", "md5" + "0" * 32])
    def test_what_is_no_scram_verifier_is_replaced(self, stored: str | None) -> None:
        assert not accounts.matches("pencil", stored)

    def test_a_finished_role_needs_nothing(self) -> None:
        user = {
            "name": "app",
            "password": "pencil",
            "attributes": ["LOGIN", "NOINHERIT"],
            "settings": {"a.b": "1=2"},
            "member_of": ["anon"],
        }
        current = {"rolcanlogin": True, "rolinherit": False, "rolpassword": accounts.verifier("pencil", b"0" * 16), "settings": ["a.b=1=2"]}
        assert accounts.user_statements(user, {**current, "member_of": ["anon"]}) == []

    def test_no_clear_password_is_in_a_statement(self) -> None:
        steps = accounts.user_statements({"name": 'a"b', "password": "pencil"}, None)
        assert [words for words, _unused in steps] == ['role a"b created', 'role a"b: LOGIN', 'role a"b: password']
        assert all("pencil" not in statement and '"a""b"' in statement for _unused, statement in steps)

    def test_what_cannot_be_changed_is_refused(self) -> None:
        with pytest.raises(SystemExit, match="cannot be changed"):
            accounts.database_statements(
                {"name": "app", "encoding": "LATIN1"}, {"owner": "app", "encoding": "UTF8", "locale": "C", "connect": []}
            )

    def test_a_closed_database_is_open_to_those_named(self) -> None:
        steps = accounts.database_statements({"name": "app", "connect": ["reader"]}, {"owner": "app", "connect": ["public", "app"]})
        assert [statement.split()[0] for _unused, statement in steps] == ["REVOKE", "GRANT"]


class TestFirewall:
    WANTED = {"port": 2222, "ssh_trusted": ["10.0.0.9/32"], "ssh_sources": [], "networks": ["10.0.1.7/24"], "rules": []}

    def test_ssh_comes_first_and_the_trusted_before_the_limited(self) -> None:
        assert list(guard.wanted_rules(self.WANTED)) == [
            "allow from 10.0.0.9 to any port 2222 proto tcp",
            "limit 2222/tcp",
            "allow from 10.0.1.0/24",
        ]

    def test_what_ufw_shows_is_read_back_as_it_was_wanted(self) -> None:
        wanted = guard.wanted_rules({**self.WANTED, "rules": [{"comment": "it's web", "port": "80,443", "sources": []}]})
        shown = "Added user rules (see 'ufw status' for running firewall):\n" + "".join(
            f"ufw {r} comment '{c}'\n" for r, c in wanted.items()
        )
        assert guard.rule_changes(guard.added_rules(shown), wanted) == ([], [])

    def test_undeclared_rules_go_and_changed_comments_are_written_again(self) -> None:
        current = {"limit 22/tcp": "SSH", "allow 80/tcp": "old words"}
        assert guard.rule_changes(current, {"limit 2222/tcp": "SSH", "allow 80/tcp": "web"}) == (
            [("limit 2222/tcp", "SSH"), ("allow 80/tcp", "web")],
            ["limit 22/tcp"],
        )

    def test_a_wrong_source_is_refused(self) -> None:
        with pytest.raises(ValueError, match="does not appear"):
            guard.wanted_rules({**self.WANTED, "networks": ["the office"]})
