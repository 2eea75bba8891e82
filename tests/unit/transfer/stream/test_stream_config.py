"""The file that a stream's processes are told by is understood as a whole or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.config import Config

ARGS: dict[str, Any] = {
    "direction": "forward",
    "source": {"host": "old", "dbname": "app", "user": "u", "password": "secret-one"},
    "target": {"host": "new", "dbname": "app", "user": "u", "password": "secret-two"},
    "slot": "cutover",
    "publication": "moved",
    "spool": "/var/lib/spool",
}


def test_the_direction_says_who_sends() -> None:
    rename = {"schemas": {"public": "app"}}
    forward = Config.from_args({**ARGS, "rename": rename, "include": ["public.*"], "metrics_port": 9187, "keep_seconds": 60})
    assert (forward.sending.host, forward.receiving.host) == ("old", "new") and forward.sent.target_name("public", "t") == ("app", "t")
    assert (forward.metrics_port, forward.keep_seconds, forward.heartbeat_seconds) == (9187, 60.0, 60.0)
    reverse = Config.from_args({**ARGS, "direction": "reverse", "rename": rename, "include": ["public.*"]})
    assert (reverse.sending.host, reverse.receiving.host) == ("new", "old") and reverse.sent.target_name("app", "t") == ("public", "t")
    assert reverse.sent.matches("app", "t") and not reverse.sent.matches("other", "t")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"slots": "x"}, "unknown key in the stream's configuration: slots"),
        ({"slot": ""}, "missing key in the stream's configuration: slot"),
        ({"source": None, "spool": None}, "missing key in the stream's configuration: source, spool"),
        ({"direction": "sideways"}, "direction is 'sideways'"),
        ({"spool": "here"}, "no absolute path"),
        ({"keep_seconds": -1}, "keep_seconds is -1"),
        ({"keep_seconds": True}, "keep_seconds is True"),
        ({"heartbeat_seconds": "5"}, "heartbeat_seconds is '5'"),
        ({"metrics_port": 70000}, "metrics_port is 70000"),
        ({"source": {"host": "old", "hosts": "x"}}, "unknown key in an endpoint: hosts"),
        ({"include": ["everything"]}, "include has 'everything'"),
    ],
)
def test_what_is_not_understood_is_refused(change: dict[str, Any], text: str) -> None:
    with pytest.raises(TransferError, match=text):
        Config.from_args({**ARGS, **change})


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "stream.json"
    path.write_text(json.dumps(ARGS))
    path.chmod(0o640)
    with pytest.raises(TransferError, match="holds passwords") as caught:
        Config.load(path)
    assert caught.value.details["kind"] == "config" and caught.value.remedy == f"Run chmod 600 {path}."
    path.chmod(0o600)
    found = Config.load(path)
    assert found == Config.from_args(ARGS) and "secret" not in repr(found)
    for text in ("{", "[]"):
        path.write_text(text)
        with pytest.raises(TransferError, match="JSON"):
            Config.load(path)
    with pytest.raises(TransferError, match="cannot be read"):
        Config.load(tmp_path / "none.json")
