"""Whose session it is, as its name tells."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import predecessor


def dead() -> int:
    """A process number that was used and is free."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(30)
    return process.pid


def test_a_name_fits_and_says_whose_it_is() -> None:
    name = predecessor.named("cutover receiver")
    assert name.startswith("cutover receiver ") and name.endswith(f" {os.getpid()}") and len(f"{name}0000000") <= 63
    assert predecessor.is_gone(name), "what this process has left may be ended"


def test_only_the_dead_of_this_machine_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    mine, parent = f"cutover applier {predecessor.machine()}", os.getppid()
    assert predecessor.is_gone(f"{mine} {dead()}") and not predecessor.is_gone(f"{mine} {parent}")
    for name in ("", "psql", "cutover applier", mine, f"{mine} x", f"{mine} -1", f"cutover applier 0123456789 {dead()}", f"{mine} 1 2"):
        assert not predecessor.is_gone(name), name
    monkeypatch.setattr(predecessor, "machine", lambda: "elsewhere")
    assert not predecessor.is_gone(f"{mine} {dead()}")


def test_each_machine_and_container_has_its_own_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    here = predecessor.machine.__wrapped__()
    assert here == predecessor.machine.__wrapped__() and len(here) == 10
    monkeypatch.setattr(predecessor.socket, "gethostname", lambda: "another")
    another = predecessor.machine.__wrapped__()
    monkeypatch.setattr(predecessor, "_NAMESPACE", "/nowhere")
    nameless = predecessor.machine.__wrapped__()
    monkeypatch.setattr(predecessor, "_MACHINE", ("/nowhere",))
    assert len({here, another, nameless, predecessor.machine.__wrapped__()}) == 4
