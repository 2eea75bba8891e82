"""Rules that need no server: sequences, deadlines, poolers."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import (
    catalog,
    findings,
    preflight_disk,
    preflight_pair,
    preflight_reach,
    preflight_shapes,
    preflight_source,
    sequences,
)
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.endpoint import Endpoint
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Selection
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.steps import Steps
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).parents[3]


def position(last: int, called: bool, increment: int = 1, cycle: bool = False) -> sequences.Position:
    return sequences.Position(("public", "s"), last, called, increment, cycle)


@given(st.integers(-50, 50), st.booleans(), st.integers(-50, 50), st.booleans(), st.sampled_from([1, 5, -1, -3]))
def test_the_next_value_is_never_one_that_either_side_handed_out(
    last: int, called: bool, other: int, other_called: bool, step: int
) -> None:
    here, there = position(last, called, step), position(other, other_called, step)
    todo, _ahead = sequences.plan([here], [there], Selection())
    after = todo[0][1] if todo else there
    following = after.last_value + (step if after.called else 0)
    for side in (here, there):
        if side.called:
            assert following > side.last_value if step > 0 else following < side.last_value


def test_a_missing_sequence_is_named() -> None:
    with pytest.raises(TransferError, match="no sequence public.s"):
        sequences.plan([position(1, False)], [], Selection())


def test_a_pooler_limits_the_workers_and_its_transaction_port_is_refused() -> None:
    def judge(workers: int, **endpoint: object) -> list[str]:
        return [finding.severity for finding in preflight_reach.declared(Endpoint(dbname="d", user="u", **endpoint), workers, None)]  # type: ignore[arg-type]

    assert judge(4, host="db.example.org") == []
    assert judge(4, host="aws-0-eu.pooler.supabase.com") == []
    assert judge(13, host="aws-0-eu.pooler.supabase.com") == ["error"]
    assert judge(1, host="db.example.org", port=6543) == ["error"]


def test_a_step_that_hangs_is_interrupted_and_the_rest_is_not_begun() -> None:
    released = threading.Event()
    steps = Steps(10, {"slow": 0.1}, released.set)
    assert steps.run("quick", lambda: 5) == 5
    started = time.monotonic()
    with pytest.raises(TransferError, match=r"step slow was not finished within 0\.1 s"):
        steps.run("slow", lambda: released.wait(5))
    assert time.monotonic() - started < 2 and released.is_set()
    assert [step["name"] for step in steps.report()] == ["quick"]
    with pytest.raises(TransferError, match="has passed before step late"):
        Steps(-1, {}, released.set).run("late", lambda: None)


def document() -> tuple[dict[str, tuple[str, ...]], set[str]]:
    """Rules of docs/preflight.md with their severities, and the rules that its table of traps names."""
    rules, traps = (ROOT / "docs" / "preflight.md").read_text().split("## Rules")[1].split("## Known traps")
    stated = {}
    for line in rules.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 6 and cells[1].startswith("`"):
            assert cells[3] and cells[4], line
            stated[cells[1].strip("`")] = tuple(cells[2].split(", "))
    named = set()
    for line in traps.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 5 and not cells[1].startswith(("trap", "-")):
            assert cells[2] or cells[3], f"nothing meets {cells[1]}"
            named |= set(re.findall(r"`([a-z0-9-]+)`", cells[2]))
    return stated, named


def test_the_document_has_exactly_the_rules_of_the_code() -> None:
    stated, named = document()
    assert stated == findings.RULES
    assert named - set(stated) == set()
    assert set(stated) - named == set(), "rules without a trap"


def test_each_rule_is_used_by_the_code() -> None:
    source = "".join(path.read_text() for path in (ROOT / "plugins/module_utils/transfer").glob("preflight*.py"))
    assert [rule for rule in findings.RULES if f'"{rule}"' not in source] == []


def test_a_finding_has_a_severity_of_its_rule() -> None:
    assert findings.finding("rls", "t", "p", "f").severity == "error"
    with pytest.raises(ValueError, match="no severity info"):
        findings.finding("rls", "t", "p", "f", "info")
    with pytest.raises(KeyError):
        findings.finding("unheard-of", "t", "p", "f")
    both = [
        findings.finding("wal-level", "b", "p", "f"),
        findings.finding("rls", "z", "p", "f"),
        findings.finding("wal-level", "b", "p", "f"),
    ]
    assert [one.rule for one in findings.ordered(both)] == ["rls", "wal-level"]
    assert findings.listed([str(n) for n in range(12)]).endswith("9 and 2 more")


def test_only_ipv6_without_a_route_is_refused() -> None:
    def judge(known: list[str], route: bool, host: str = "db.x.supabase.co") -> findings.Finding | None:
        return preflight_reach.ipv6_only(host, known, lambda _address: route)

    refused = judge(["2001:db8::1"], False)
    assert refused is not None and refused.rule == "ipv6-only" and "IPv4 add-on" in refused.fix and "session pooler" in refused.fix
    own = judge(["2001:db8::1"], False, "db.example.org")
    assert own is not None and "add-on" not in own.fix
    assert judge(["2001:db8::1"], True) is None and judge(["2001:db8::1", "192.0.2.1"], False) is None and judge([], False) is None


def test_an_open_or_unchecked_line_is_told_unless_it_stays_on_this_machine() -> None:
    def judge(address: str, encrypted: bool, sslmode: str = "prefer") -> list[str]:
        return [one.rule for one in preflight_reach.tls("source", address, encrypted, sslmode)]

    assert judge("", False) == judge("127.0.0.1", False) == judge("::1", False) == []
    assert judge("10.0.0.5", False) == ["tls-off"] and judge("fe80::1%eth0", False) == ["tls-off"]
    assert judge("10.0.0.5", True) == ["tls-unverified"] and judge("10.0.0.5", True, "verify-full") == []


def test_versions_ages_and_room() -> None:
    def rules(found: list[findings.Finding]) -> list[tuple[str, str]]:
        return [(one.rule, one.severity) for one in found]

    assert rules(preflight_pair.versions(140023, 180004)) == []
    assert rules(preflight_pair.versions(170010, 150018)) == [("version-older", "error")]
    assert rules(preflight_pair.versions(130020, 190001)) == [("version-unsupported", "error")] * 2
    assert rules(preflight_source.ages("d", 999_999_999, 0)) == []
    assert rules(preflight_source.ages("d", 1_000_000_000, 1_950_000_000)) == [("xid-age", "warning"), ("multixact-age", "error")]
    gigabyte = 1024**3
    need = preflight_disk.needed(100 * gigabyte, 40 * gigabyte, 20 * gigabyte)
    assert need == pytest.approx(190 * gigabyte, rel=0.01)
    assert preflight_disk.needed(1024, 0, 20 * gigabyte) < 4096, "WAL is never more than what is written"
    assert preflight_disk.judge(need, None).severity == "info" and preflight_disk.judge(need, need + 1).severity == "info"
    lacking = preflight_disk.judge(need, need - gigabyte)
    assert lacking.severity == "error" and "1025 MiB or more" in lacking.fix
    assert preflight_disk.judge(need, 1, present=True).severity == "info"


def number(
    last: int, maximum: int, increment: int = 1, minimum: int = 1, start: int = 1, called: bool = True, cycle: bool = False
) -> catalog.Sequence:
    owner = ("public", "t", "id")
    return catalog.Sequence(1, "public", "s", "bigint", start, minimum, maximum, increment, 1, cycle, last, called, owner, False)


def test_a_sequence_is_near_the_end_of_its_column_too() -> None:
    def judge(one: catalog.Sequence, column: str = "pg_catalog.int8") -> list[str]:
        return [found.problem for found in preflight_shapes.near_end([one], {("public", "t", "id"): column})]

    assert judge(number(91, 100)) and not judge(number(90, 100))
    assert "column public.t.id is int4" in judge(number(2_000_000_000, 2**63 - 1), "pg_catalog.int4")[0]
    assert not judge(number(2_000_000_000, 2**63 - 1))
    assert judge(number(-95, -1, -1, -100, -1)) and not judge(number(-50, -1, -1, -100, -1))
    assert not judge(number(99, 100, cycle=True)) and not judge(number(100, 100, called=False))
