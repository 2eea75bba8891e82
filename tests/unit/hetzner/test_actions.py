from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner.actions import CHUNK, ActionFailedError, ActionWaiter, interval
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner.errors import HetznerError


def action(ident: int, status: str = "running") -> dict[str, Any]:
    return {
        "id": ident,
        "status": status,
        "command": "create_server",
        "error": {"code": "c", "message": "m"} if status == "error" else None,
    }


class Cloud:
    """Actions end at the poll after their ``ends`` was set."""

    def __init__(self) -> None:
        self.polls: list[list[int]] = []
        self.ends: dict[int, str] = {}

    def fetch(self, ids: list[int]) -> list[dict[str, Any]]:
        self.polls.append(ids)
        return [action(one, self.ends.get(one, "running")) for one in ids]


def test_many_waiters_share_the_polls() -> None:
    cloud = Cloud()
    waiter = ActionWaiter(cloud.fetch, pause=lambda age: 0.05)
    threads = [threading.Thread(target=waiter.wait, args=([action(number)], 10)) for number in range(1, 61)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    cloud.ends = dict.fromkeys(range(1, 61), "success")
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()
    waiter.close()
    assert max(len(ids) for ids in cloud.polls) == CHUNK
    assert len(cloud.polls) < 60


def test_what_is_done_is_not_polled() -> None:
    cloud = Cloud()
    waiter = ActionWaiter(cloud.fetch)
    waiter.wait([action(1, "success")], 1)
    waiter.wait([], 1)
    with pytest.raises(ActionFailedError, match="create_server"):
        waiter.wait([action(2, "error")], 1)
    waiter.close()
    assert cloud.polls == []


def test_a_failed_action_a_dead_poll_and_an_overdue_action_are_told() -> None:
    cloud = Cloud()
    cloud.ends[1] = "error"
    waiter = ActionWaiter(cloud.fetch, pause=lambda age: 0.01)
    with pytest.raises(ActionFailedError) as caught:
        waiter.wait([action(1)], 5)
    assert caught.value.code == "c"
    with pytest.raises(HetznerError, match="not finished after"):
        waiter.wait([action(2)], 0.1)
    waiter.close()

    def broken(ids: list[int]) -> list[dict[str, Any]]:
        raise HetznerError("gone")

    dead = ActionWaiter(broken, pause=lambda age: 0.01)
    with pytest.raises(HetznerError, match="gone"):
        dead.wait([action(3)], 5)
    with pytest.raises(HetznerError, match="gone"):
        dead.wait([action(4)], 5)
    dead.close()


def test_polls_become_patient() -> None:
    assert interval(0.5) < interval(5) < interval(60)
