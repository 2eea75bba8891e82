from __future__ import annotations

from pathlib import Path

import pytest
from e2e.client.hosts import HostsFile, UnknownNameError, parse


def test_the_first_line_for_a_name_counts() -> None:
    text = "# 10.93.0.9 app\n10.93.0.1 app.demo.test app # 10.93.0.8 other\n\n10.93.0.2 APP db\n"
    assert parse(text) == {"app.demo.test": "10.93.0.1", "app": "10.93.0.1", "db": "10.93.0.2"}


def test_a_changed_file_is_seen_at_once(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("10.93.0.1 app\n")
    hosts = HostsFile(path)
    assert hosts.address("App") == "10.93.0.1"
    other = tmp_path / "hosts.new"
    other.write_text("10.93.0.2 app\n")
    other.replace(path)
    assert hosts.address("app") == "10.93.0.2"


def test_a_missing_name_and_a_missing_file_are_named(tmp_path: Path) -> None:
    hosts = HostsFile(tmp_path / "hosts")
    with pytest.raises(UnknownNameError, match="hosts: No such file"):
        hosts.address("app")
    (tmp_path / "hosts").write_text("10.93.0.1 db\n")
    with pytest.raises(UnknownNameError, match="no line for app"):
        hosts.address("app")
