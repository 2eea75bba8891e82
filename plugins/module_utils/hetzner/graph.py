# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""In which order, and how many at once. The order is pure; ``run`` works it off in threads.

One step per resource, so each has one writer. A step that failed takes only those with it that need it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from .model import Change, Snapshot

# Steps mostly wait for actions; what is really at work at once is bounded by the number of clients.
MOST_STEPS_AT_ONCE = 64
WATCH_SECONDS = 1.0
# Kinds that let go of a server, or anything else they use, before that is deleted, if they can.
_LET_GO = ("floating_ip", "load_balancer", "rrset")


@dataclass
class Outcome:
    """What became of the steps: keys done with their seconds, failed with their error, and skipped with what they waited for."""

    done: dict[str, float] = field(default_factory=dict)
    failed: dict[str, Exception] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def dependencies(changes: Iterable[Change], found: Snapshot) -> dict[str, set[str]]:
    """Which steps must end before which: makers before users, and users' release before deletion. Never a cycle."""
    by_key = {change.key: change for change in changes}
    graph: dict[str, set[str]] = {key: set() for key in by_key}
    for key, change in by_key.items():
        if change.want is not None:
            graph[key] |= {ref for ref in change.want.refs if ref in by_key and by_key[ref].action != "delete"}
        if change.action == "delete":
            users = (one for one in by_key.values() if one.have is not None and key in one.have.refs and one.key != key)
            graph[key] |= {user.key for user in users if not _lets_go(user, change)}
    # A volume or address that moves leaves its old server first; two servers that exchange theirs cannot both come first.
    holders = {
        ref: item.key
        for item in found.resources.values()
        if item.kind != "rrset"
        for ref in item.refs
        if not ref.startswith(("network.", "firewall.", "placement", "server.", "certificate."))
    }
    for key, change in sorted(by_key.items()):
        for ref in change.want.refs if change.want else ():
            holder = holders.get(ref)
            if holder in by_key and holder != key and not _reaches(graph, holder, key):
                graph[key].add(holder)
    for key, change in sorted(by_key.items()):
        if change.kind in _LET_GO:
            _order_by_old_server(graph, by_key, key, change)
        if change.kind == "rrset" and change.action == "create":
            graph[key] |= {other for other in by_key if _same_name(other, key) and by_key[other].action == "delete"}
    return graph


def _lets_go(user: Change, used: Change) -> bool:
    """Whether one can go on without the other: a load balancer without a server, not without its network or certificate."""
    return user.kind in _LET_GO and (user.kind != "load_balancer" or used.kind == "server")


def _same_name(one: str, other: str) -> bool:
    """Whether both are record sets of one name: a CNAME cannot come before what it takes the place of has gone."""
    return one != other and one.startswith("rrset.") and one.rpartition("/")[0] == other.rpartition("/")[0]


def _order_by_old_server(graph: dict[str, set[str]], by_key: Mapping[str, Change], key: str, change: Change) -> None:
    """A floating IP leaves a server before that is deleted, so that it is never without one; and not while it is written to.

    A load balancer takes it out of its targets, a record leaves the address of what is deleted, and the zone, in the same way.
    It is no must: the deletion releases it, and when its new server waits for that deletion, it has to come after it.
    """
    for server in change.have.refs if change.have else ():
        if server not in by_key or not _lets_go(change, by_key[server]):
            continue
        first, then = (key, server) if by_key[server].action == "delete" else (server, key)
        if not _reaches(graph, first, then):
            graph[then].add(first)


def _reaches(graph: Mapping[str, set[str]], start: str, goal: str) -> bool:
    seen: set[str] = set()
    heap = [start]
    while heap:
        key = heap.pop()
        if key == goal:
            return True
        if key not in seen:
            seen.add(key)
            heap += graph[key]
    return False


Watcher = Callable[[Outcome, Mapping[str, float]], None]


def run(
    changes: Iterable[Change], graph: Mapping[str, set[str]], work: Callable[[Change], None], watcher: Watcher | None = None
) -> Outcome:
    """Call ``work`` for every change when all it waits for is done; never raises for a step's error.

    watcher: told about once a second, and at the end, what has become of the steps and for how many seconds others have been running
    """
    waiting = {change.key: change for change in changes}
    outcome = Outcome()
    running: dict[Future[float], str] = {}
    begun: dict[str, float] = {}
    told = time.monotonic()
    with ThreadPoolExecutor(max_workers=max(1, min(MOST_STEPS_AT_ONCE, len(waiting)))) as pool:
        while waiting or running:
            _skip(waiting, graph, outcome)
            for key in [key for key in waiting if graph[key] <= outcome.done.keys()]:
                running[pool.submit(_timed, work, waiting.pop(key))] = key
                begun[key] = time.monotonic()
            if not running:
                # Only a cycle leaves steps that wait for nothing running; ``dependencies`` makes none.
                outcome.skipped.update(dict.fromkeys(waiting, "steps that wait for one another"))
                break
            for future in wait(running, timeout=WATCH_SECONDS if watcher else None, return_when=FIRST_COMPLETED).done:
                key = running.pop(future)
                error = future.exception()
                if error is None:
                    outcome.done[key] = future.result()
                elif isinstance(error, Exception):
                    outcome.failed[key] = error
                else:
                    raise error
            if watcher and time.monotonic() - told >= WATCH_SECONDS:
                told = time.monotonic()
                watcher(outcome, {key: told - begun[key] for key in running.values()})
    if watcher:
        watcher(outcome, {})
    return outcome


def _skip(waiting: dict[str, Change], graph: Mapping[str, set[str]], outcome: Outcome) -> None:
    again = True
    while again:
        again = False
        for key in list(waiting):
            lost = sorted(graph[key] & (outcome.failed.keys() | outcome.skipped.keys()))
            if lost:
                outcome.skipped[key] = lost[0]
                del waiting[key]
                again = True


def _timed(work: Callable[[Change], None], change: Change) -> float:
    started = time.monotonic()
    work(change)
    return time.monotonic() - started
