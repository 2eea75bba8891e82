"""Case 44: a second run of every pg_ module changes nothing, a check touches neither server, and no secret is ever shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.cutover.hetzner.plugins.modules import pg_preflight
from integration.cases.untouched import mark
from integration.conftest import Pair

MODULES = Path(pg_preflight.__file__).parent
PACKAGE = "ansible_collections.cutover.hetzner.plugins.modules"
SECRET = "aVeryPlain-Secret_44"
ROLE_SECRET = "another-Secret_44"
API_ROLE = "api_44"
SHAPE = (
    "CREATE TABLE a (id bigserial PRIMARY KEY, b text)",
    "INSERT INTO a (b) SELECT 'x' FROM generate_series(1, 500)",
    "CREATE TABLE c (id int PRIMARY KEY, a_id bigint REFERENCES a)",
    "INSERT INTO c SELECT g, g FROM generate_series(1, 100) g",
    "CREATE INDEX ON c (a_id)",
    "SELECT lo_from_bytea(0, 'content')",
    "CREATE FUNCTION same() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    "CREATE TRIGGER a_same BEFORE INSERT ON a FOR EACH ROW EXECUTE FUNCTION same()",
)
# In the order of a move: (module, its own arguments).
STEPS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("pg_preflight", {}),
    ("pg_schema_transfer", {"section": "pre_data", "role_passwords": {API_ROLE: ROLE_SECRET}}),
    ("pg_cutover", {"state": "frozen", "side": "target"}),
    ("pg_row_copy", {"workers": 2}),
    ("pg_schema_transfer", {"section": "post_data", "role_passwords": {API_ROLE: ROLE_SECRET}}),
    ("pg_row_verify", {}),
    ("pg_change_stream", {"state": "started"}),
    ("pg_cutover", {"state": "cut_over"}),
)
NEVER_CHANGES = {"pg_preflight", "pg_row_verify"}
# What starts a systemd service is run, and run again, on machines by the role's molecule scenario; here it is planned only.
NEEDS_A_MACHINE = {"pg_change_stream"}


class Witness:
    """Collects every command line of this machine that a module's processes have, and everything that modules print."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.printed: list[str] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Witness:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._thread.join(30)

    def _watch(self) -> None:
        while not self._ended.wait(0.05):
            for place in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.seen.add(place.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
                except OSError:
                    continue


@pytest.fixture
def given(pair: Pair) -> Iterator[dict[str, Any]]:
    """Source and target for a role of its own, whose password nothing else has."""
    roles = "DROP ROLE IF EXISTS mover_44", f"CREATE ROLE mover_44 SUPERUSER LOGIN PASSWORD '{SECRET}'"
    pair.on_both(*roles)
    pair.on_source(f"CREATE ROLE {API_ROLE} LOGIN", *SHAPE, f"GRANT SELECT ON a TO {API_ROLE}")
    try:
        yield {
            side: server.args(pair.dbname, user="mover_44", password=SECRET)
            for side, server in (("source", pair.source_server), ("target", pair.target_server))
        }
    finally:
        for server in (pair.source_server, pair.target_server):
            for name in (API_ROLE, "mover_44"):
                if server.execute(pair.dbname, f"SELECT FROM pg_roles WHERE rolname = '{name}'"):
                    server.execute(pair.dbname, f"REASSIGN OWNED BY {name} TO postgres", f"DROP OWNED BY {name}", f"DROP ROLE {name}")


def run(module: str, arguments: dict[str, Any], witness: Witness, check: bool = False) -> dict[str, Any]:
    """Result of a module as a process of its own; arguments go to its input."""
    text = json.dumps({"ANSIBLE_MODULE_ARGS": {**arguments, "_ansible_check_mode": check, "_ansible_verbosity": 3}})
    done = subprocess.run(
        [sys.executable, "-m", f"{PACKAGE}.{module}"],
        input=text,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    witness.printed += [done.stdout, done.stderr]
    assert done.stdout, (module, arguments, done.stderr)
    result: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == 0 and not result.get("failed"), (module, result.get("msg"), done.stderr)
    return result


def kept(pair: Pair) -> str:
    """Everything that the move has written down: its schema on both sides, and the servers' logs."""
    told = []
    for server in (pair.source_server, pair.target_server):
        names = server.execute(
            pair.dbname,
            "SELECT c.oid::regclass::text FROM pg_class c WHERE c.relnamespace = to_regnamespace('cutover') AND c.relkind IN ('r', 'v', 'm')",
        )
        told += [f"{name}: {server.execute(pair.dbname, f'SELECT t::text FROM {name} t')}" for (name,) in names]
        told.append((server.home / "log").read_text(errors="replace"))
    return "\n".join(told)


def test_case_44_checks_touch_nothing_second_runs_change_nothing_and_secrets_stay_secret(pair: Pair, given: dict[str, Any]) -> None:
    for server in (pair.source_server, pair.target_server):
        server.execute("postgres", f"ALTER DATABASE {pair.dbname} SET log_statement = 'all'")
    assert {path.stem for path in MODULES.glob("pg_*.py")} == {module for module, _own in STEPS}
    with Witness() as witness:
        for module, own in STEPS:
            arguments = {**given, **own}
            before = mark(pair)
            planned = run(module, arguments, witness, check=True)
            assert mark(pair) == before, f"the check of {module} {own} has written"
            assert planned["changed"] is (module not in NEVER_CHANGES), (module, own)
            if module in NEEDS_A_MACHINE:
                continue
            assert run(module, arguments, witness)["changed"] is (module not in NEVER_CHANGES), (module, own)
            if module in NEVER_CHANGES:
                continue
            assert run(module, arguments, witness)["changed"] is False, (module, own)
            before = mark(pair)
            assert run(module, arguments, witness, check=True)["changed"] is False, (module, own)
            assert mark(pair) == before, f"the second check of {module} {own} has written"
    assert pair.on_target("SELECT count(*) FROM a") == [(500,)]
    written = kept(pair)
    assert "COPY" in written and "cutover.run" in written, "the places that are searched have something in them"
    assert any("pg_row_copy" in line for line in witness.seen) and any("pg_dump" in line for line in witness.seen)
    for secret in (SECRET, ROLE_SECRET):
        assert secret not in written.replace(f"CREATE ROLE mover_44 SUPERUSER LOGIN PASSWORD '{SECRET}'", "")
        assert not [line for line in witness.seen if secret in line]
        assert not [text for text in witness.printed if secret in text]


def test_the_mark_sees_what_a_check_must_not_do(pair: Pair) -> None:
    """Each of these would be a touch: rows, temporary tables, settings of roles, sequences' privileges."""
    for statement in (
        "CREATE TEMPORARY TABLE seen (id int)",
        f"ALTER DATABASE {pair.dbname} SET work_mem = '8MB'",
        "CREATE SCHEMA seen",
        "SELECT pg_create_physical_replication_slot('seen')",
    ):
        before = mark(pair)
        pair.on_target(statement)
        assert mark(pair) != before, statement
    pair.on_target("SELECT pg_drop_replication_slot('seen')")
