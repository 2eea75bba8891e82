# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A small client of Patroni's REST interface, and the pure rules about what it answers."""

from __future__ import annotations

import base64
import json
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .errors import OperationsError

LEADER_ROLES = frozenset({"leader", "master", "primary", "standby_leader"})
SYNC_ROLES = frozenset({"sync_standby", "quorum_standby"})
HEALTHY_STATES = frozenset({"running", "streaming"})
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Member:
    """One member as the cluster sees it. lag: bytes behind the leader, None where unknown (and 0 on the leader)."""

    name: str
    role: str
    state: str
    host: str
    port: int
    api_url: str
    timeline: int | None
    lag: int | None
    pending_restart: bool

    @property
    def leads(self) -> bool:
        return self.role in LEADER_ROLES

    @property
    def healthy(self) -> bool:
        return self.state in HEALTHY_STATES


@dataclass(frozen=True)
class Cluster:
    """What ``GET /cluster`` said, members in order of their names."""

    scope: str
    members: tuple[Member, ...]
    paused: bool
    # Before 3.0.4 Patroni called every replica running, whether it followed or not.
    tells_streaming: bool = False

    @property
    def leader(self) -> Member | None:
        return next((member for member in self.members if member.leads), None)

    @property
    def timeline(self) -> int | None:
        return self.leader.timeline if self.leader else None

    @property
    def lag(self) -> int | None:
        """Bytes that the slowest replica is behind; None when any is unknown, 0 without replicas."""
        lags = [member.lag for member in self.members if not member.leads]
        known = [lag for lag in lags if lag is not None]
        return max(known, default=0) if len(known) == len(lags) else None

    def member(self, name: str) -> Member | None:
        return next((member for member in self.members if member.name == name), None)

    def as_dict(self) -> dict[str, Any]:
        """The module's result: scope, leader, members[], timeline, lag, paused, pending_restart[]."""
        return {
            "scope": self.scope,
            "leader": self.leader.name if self.leader else None,
            "members": [asdict(member) for member in self.members],
            "timeline": self.timeline,
            "lag": self.lag,
            "paused": self.paused,
            "pending_restart": [member.name for member in self.members if member.pending_restart],
        }


def parse_cluster(document: Mapping[str, Any]) -> Cluster:
    """Read an answer of ``GET /cluster`` of Patroni 3 or 4; a missing or textual lag is unknown."""
    members = []
    for row in document.get("members", []):
        role, lag = str(row.get("role", "")), row.get("lag")
        if role in LEADER_ROLES:
            lag = 0
        members.append(
            Member(
                name=str(row["name"]),
                role=role,
                state=str(row.get("state", "unknown")),
                host=str(row.get("host", "")),
                port=int(row.get("port") or 0),
                api_url=str(row.get("api_url", "")),
                timeline=row.get("timeline") if isinstance(row.get("timeline"), int) else None,
                lag=lag if isinstance(lag, int) else None,
                pending_restart=bool(row.get("pending_restart", False)),
            )
        )
    tells_streaming = any("receive_lag" in row or row.get("state") == "streaming" for row in document.get("members", []))
    ordered = tuple(sorted(members, key=lambda m: m.name))
    return Cluster(str(document.get("scope", "")), ordered, bool(document.get("pause", False)), tells_streaming)


def problems(cluster: Cluster, expected_members: int = 0, synchronous: bool = False) -> list[str]:
    """Why the cluster is not healthy, in words; empty when it is. expected_members 0: as many as there are."""
    found = []
    if cluster.leader is None:
        found.append("no member leads")
    if len(cluster.members) < expected_members:
        found.append(f"{len(cluster.members)} of {expected_members} members are known")
    found += [f"member {m.name} ({m.role}) is in state {m.state!r}" for m in cluster.members if not m.healthy]
    idle = [m for m in cluster.members if m.state == "running" and not m.leads] if cluster.tells_streaming else []
    found += [f"member {m.name} ({m.role}) runs and does not follow the leader" for m in idle]
    if cluster.leader:
        on_other = [m.name for m in cluster.members if m.timeline is not None and m.timeline != cluster.timeline]
        found += [f"member {name} is on another timeline than the leader" for name in on_other]
    if synchronous and len(cluster.members) > 1 and not any(m.role in SYNC_ROLES for m in cluster.members):
        found.append("synchronous replication is wanted and no member is a synchronous standby")
    return found


def _same(current: Any, wanted: Any) -> bool:
    """Equal as Patroni takes it: 100 and "100" are the same, true and "true" too."""
    if isinstance(current, (list, dict)) or isinstance(wanted, (list, dict)):
        return bool(current == wanted)
    return str(current).lower() == str(wanted).lower()


def _without_nulls(value: Any) -> Any:
    """Patroni would store a null of a mapping that is new; there is nothing to remove in it."""
    if not isinstance(value, Mapping):
        return value
    return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}


def difference(current: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The smallest ``PATCH /config`` body that makes current hold wanted; None in wanted removes a key."""
    patch: dict[str, Any] = {}
    for key, value in wanted.items():
        here = current.get(key)
        if value is None:
            if key in current:
                patch[key] = None
        elif isinstance(value, Mapping) and isinstance(here, Mapping):
            inner = difference(here, value)
            if inner:
                patch[key] = inner
        elif key not in current or not _same(here, _without_nulls(value)):
            patch[key] = _without_nulls(value)
    return patch


def patched(current: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """What the configuration is after the patch (for the diff of a check)."""
    result = dict(current)
    for key, value in patch.items():
        here = result.get(key)
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(here, Mapping):
            result[key] = patched(here, value)
        else:
            result[key] = value
    return result


def restart_order(cluster: Cluster) -> tuple[Member, ...]:
    """Members that wait for a restart: replicas first, the leader last."""
    return tuple(sorted((m for m in cluster.members if m.pending_restart), key=lambda m: (m.leads, m.name)))


def refuse_switchover(cluster: Cluster, candidate: str) -> OperationsError | None:
    """Why candidate cannot take over, or None when it can."""
    names = [member.name for member in cluster.members]
    target = cluster.member(candidate)
    if target is None:
        return OperationsError(f"{candidate!r} is no member of {cluster.scope!r}", f"Name one of: {', '.join(names)}.", members=names)
    if not target.healthy:
        remedy = f"Bring it back first (patronictl reinit {cluster.scope} {candidate} rebuilds it)."
        return OperationsError(f"member {candidate!r} is in state {target.state!r}, expected running or streaming", remedy)
    if cluster.leader is None:
        return OperationsError(
            f"cluster {cluster.scope!r} has no leader to hand over from", "Wait for the election or look at patronictl list."
        )
    if cluster.paused:
        return OperationsError(f"cluster {cluster.scope!r} is paused", f"Run patronictl resume {cluster.scope} first.")
    return None


class Client:
    """Talks to whichever of the given members answers.

    urls: base addresses, e.g. ``https://10.0.0.2:8008``, tried in order
    username, password: for requests that change something (both or none)
    ca_path: file with the authority that signed the members' certificates
    timeout: seconds for one request
    """

    def __init__(
        self,
        urls: Sequence[str],
        username: str = "",
        password: str = "",
        ca_path: str | None = None,
        validate_certs: bool = True,
        timeout: float = 10.0,
    ) -> None:
        for url in urls:
            parts = urllib.parse.urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise OperationsError(f"{url!r} is no address of a REST interface", "Give addresses like https://10.0.0.2:8008.")
        self.urls = tuple(url.rstrip("/") for url in urls)
        self._timeout = timeout
        self._authorization = "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode() if username else ""
        # Members are neighbours: a proxy of the environment is not asked.
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
        if any(url.startswith("https:") for url in self.urls):
            try:
                context = ssl.create_default_context(cafile=ca_path)
            except OSError as error:
                raise OperationsError(
                    f"cannot read the authority {ca_path!r}: {error}", "Give the file that signed the certificates."
                ) from error
            if not validate_certs:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            handlers.append(urllib.request.HTTPSHandler(context=context))
        self._opener = urllib.request.build_opener(*handlers)

    def _request(self, base: str, method: str, path: str, body: Mapping[str, Any] | None, timeout: float) -> str:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(base + path, data=data, method=method, headers={"Content-Type": "application/json"})
        if method != "GET" and self._authorization:
            request.add_unredirected_header("Authorization", self._authorization)
        with self._opener.open(request, timeout=timeout) as answer:
            return str(answer.read().decode("utf-8", "replace"))

    def call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, base: str | None = None, timeout: float | None = None
    ) -> str:
        """One request; a member that cannot be reached is passed over, a refusal is final.

        Changes are sent once only: after a lost answer nobody knows whether they arrived.
        """
        unreachable: dict[str, str] = {}
        for url in [base] if base else self.urls:
            try:
                return self._request(url, method, path, body, timeout or self._timeout)
            except urllib.error.HTTPError as error:
                said = error.read().decode("utf-8", "replace").strip()[:500]
                remedy = {
                    401: "Give username and password as in the restapi section of Patroni's configuration.",
                    403: "The restapi allowlist of Patroni does not name this machine.",
                }.get(error.code, "Look at patronictl list and the log of patroni on that member.")
                raise OperationsError(f"{method} {url}{path} was refused with {error.code}: {said}", remedy, status=error.code) from error
            except (OSError, ValueError) as error:
                unreachable[url] = str(getattr(error, "reason", error))
                refused_before_sending = isinstance(getattr(error, "reason", None), ConnectionRefusedError)
                if method != "GET" and not refused_before_sending:
                    break
        raise OperationsError(
            f"no answer to {method} {path}: " + "; ".join(f"{url}: {why}" for url, why in unreachable.items()),
            "See that patroni runs there (systemctl status patroni) and that this machine may reach the port.",
            unreachable=unreachable,
        )

    def _document(self, path: str) -> dict[str, Any]:
        text = self.call("GET", path)
        try:
            document = json.loads(text)
        except ValueError as error:
            raise OperationsError(f"GET {path} did not answer JSON but {text[:80]!r}", "Is this Patroni's REST port (8008)?") from error
        if not isinstance(document, dict):
            raise OperationsError(
                f"GET {path} answered {type(document).__name__}, expected an object", "Is this Patroni's REST port (8008)?"
            )
        return document

    def cluster(self) -> Cluster:
        return parse_cluster(self._document("/cluster"))

    def configuration(self) -> dict[str, Any]:
        """The dynamic configuration, as it is stored for all members."""
        return self._document("/config")

    def patch(self, patch: Mapping[str, Any]) -> None:
        self.call("PATCH", "/config", patch)

    def wait_configured(self, wanted: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """Poll the configuration until it holds what is wanted; after timeout seconds return it as it is.

        A member answers ``GET /config`` from what it last read of the store, which is as old as one round of its loop (loop_wait).
        """
        deadline = time.monotonic() + timeout
        while difference(found := self.configuration(), wanted) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        return found

    def switch_over(self, cluster: Cluster, candidate: str, timeout: float) -> None:
        """Ask for the switchover; returns when Patroni says that it is done.

        Refused with 412 it has not begun: a member just back may not answer the leader yet, and who is synchronous is settled a moment later. Then
        it is asked for again, for timeout seconds.
        """
        leader = cluster.leader.name if cluster.leader else None
        deadline = time.monotonic() + timeout
        while True:
            try:
                self.call("POST", "/switchover", {"leader": leader, "candidate": candidate}, timeout=timeout)
                return
            except OperationsError as error:
                if error.details.get("status") != 412 or time.monotonic() >= deadline:
                    raise
            time.sleep(POLL_SECONDS)

    def restart(self, member: Member, timeout: float) -> None:
        """Restart PostgreSQL of one member if it still waits for that; returns when it is up again."""
        parts = urllib.parse.urlsplit(member.api_url)
        base = f"{parts.scheme}://{parts.netloc}"
        self.call("POST", "/restart", {"restart_pending": True, "timeout": int(timeout)}, base=base, timeout=timeout + self._timeout)

    def wait(self, unmet: Callable[[Cluster], Sequence[str]], timeout: float) -> Cluster:
        """Poll until unmet(cluster) is empty; after timeout seconds fail with what is still unmet."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                cluster = self.cluster()
                reasons = list(unmet(cluster))
                if not reasons:
                    return cluster
                details: dict[str, Any] = {"members": cluster.as_dict()["members"]}
            except OperationsError as error:
                reasons, details = [error.message], error.details
            if time.monotonic() >= deadline:
                raise OperationsError(
                    f"the cluster is not as expected after {timeout:g} s: " + "; ".join(reasons),
                    "Look at patronictl list and journalctl -u patroni -u etcd on the members named.",
                    **details,
                )
            time.sleep(POLL_SECONDS)
