"""The whole path on two servers: schema, rows, closed target, writers that never stop, switch, and the way back."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import (
    copy,
    cutover,
    cutover_sides,
    cutover_single,
    preflight,
    schema,
    schema_plan,
)
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Selection
from integration.transfer import supabase_shape as shape

SUPABASE = Selection(flavour="supabase")
OPTIONS = cutover_sides.Options(workers=2, deadline=60)


@dataclass
class Writers:
    """Sessions that write without pause and log what was acknowledged: owner, superuser, prepared statements."""

    dsn: Callable[[str], str]
    tag: str
    acknowledged: list[int] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Writers:
        for number in range(4):
            thread = threading.Thread(target=self._write, args=(number,))
            thread.start()
            self._threads.append(thread)
        return self

    def _write(self, number: int) -> None:
        user = ("postgres", "app_login")[number % 2]
        with psycopg.connect(self.dsn(user), autocommit=True, prepare_threshold=0 if number > 1 else None) as conn:
            while not self._stop.is_set():
                try:
                    row = conn.execute(
                        "INSERT INTO public.bookings (company_id, note) VALUES (%s, %s) RETURNING id", (1, self.tag)
                    ).fetchone()
                    assert row is not None
                    self.acknowledged.append(row[0])
                    conn.execute("UPDATE public.companies SET name = %s WHERE id = %s", (f"{self.tag} {row[0]}", 1 + row[0] % 20))
                except psycopg.Error as error:
                    self.refused.append(error.sqlstate or "lost")
                self._stop.wait(0.003)

    def __exit__(self, *_unused: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(10)


@pytest.fixture
def moving(pair: Any) -> Iterator[Any]:
    """Everything up to the switch: schema, rows, keys; the target closed."""
    pair.on_source(shape.ROLES, shape.SHAPE, "ALTER ROLE app_login PASSWORD 'throw-away'")
    assert preflight.preflight(pair.source, pair.target, SUPABASE, preflight.Wish(workers=2)).ok
    schema.transfer(pair.source, pair.target, SUPABASE, "pre_data", schema_plan.Options(role_passwords={"app_login": "throw-away"}))
    assert cutover_single.frozen(pair.source, pair.target, SUPABASE, "target", OPTIONS)["changed"]
    copy.copy(pair.source, pair.target, SUPABASE, workers=2)
    schema.transfer(pair.source, pair.target, SUPABASE, "post_data", schema_plan.Options())
    assert not cutover_single.frozen(pair.source, pair.target, SUPABASE, "target", OPTIONS)["changed"]
    yield pair
    for server in (pair.source_server, pair.target_server):
        server.execute("postgres", f"DROP DATABASE {pair.dbname} WITH (FORCE)", f"CREATE DATABASE {pair.dbname}")
    for role in shape.ROLE_NAMES:
        pair.target_server.execute("postgres", f"DROP ROLE IF EXISTS {role}")


def writers(pair: Any, server: Any, tag: str) -> Writers:
    return Writers(lambda user: server.endpoint(pair.dbname, user=user).conninfo(), tag)


def ids(rows: list[tuple[Any, ...]]) -> set[int]:
    return {row[0] for row in rows}


def writable(server: Any, dbname: str) -> bool:
    try:
        server.execute(dbname, "INSERT INTO public.loose VALUES (0, 'probe')", "DELETE FROM public.loose WHERE memo = 'probe'")
    except psycopg.errors.ReadOnlySqlTransaction:
        return False
    return True


def fingerprint(pair: Any) -> list[tuple[Any, ...]]:
    return [row for row in pair.on_source(shape.FINGERPRINT) if "cutover" not in row[1]]


def switch(pair: Any, options: cutover_sides.Options = OPTIONS) -> dict[str, Any]:
    return cutover.cut_over(pair.source, pair.target, SUPABASE, options)


def test_there_and_back_and_there_again_without_losing_a_write(moving: Any) -> None:
    before = fingerprint(moving)
    assert not writable(moving.target_server, moving.dbname)
    outlook = cutover_single.outlook(moving.source, moving.target, SUPABASE, "cut_over", "source", OPTIONS)
    assert [step["name"] for step in outlook["steps"]] == ["freeze", "rest", "sequences", "proof", "open"] and writable(
        moving.source_server, moving.dbname
    )
    with writers(moving, moving.source_server, "old") as old:
        time.sleep(0.5)
        first = switch(moving)
        time.sleep(0.2)
    assert set(old.refused) == {"25006"} and len(old.acknowledged) > 20
    assert [step["name"] for step in first["steps"]] == ["freeze", "rest", "sequences", "proof", "open"]
    assert (
        first["proof"]["equal"]
        and first["proof"]["table_count"] == 8
        and first["resync"]["ranges"] > 0
        and 0 < first["write_stop_seconds"] < 20
    )
    assert set(old.acknowledged) <= ids(moving.on_target("SELECT id FROM public.bookings WHERE note = 'old'"))
    assert moving.on_target("SELECT last_value, is_called FROM public.untouched") == [(7, False)]
    assert not writable(moving.source_server, moving.dbname) and writable(moving.target_server, moving.dbname)
    assert {table["name"]: table["rows"] for table in first["proof"]["tables"]}["public.companies"] == 20
    again = switch(moving)
    assert not again["changed"] and again["fence"] == first["fence"] and again["write_stop_seconds"] == first["write_stop_seconds"]
    assert not cutover_single.outlook(moving.source, moving.target, SUPABASE, "cut_over", "source", OPTIONS)["changed"]

    with writers(moving, moving.target_server, "new") as new:
        time.sleep(0.5)
        back = cutover.roll_back(moving.source, moving.target, SUPABASE, OPTIONS)
        time.sleep(0.2)
    assert set(new.refused) == {"25006"} and back["state"] == "rolled_back" and back["proof"]["equal"]
    assert set(new.acknowledged) <= ids(moving.on_source("SELECT id FROM public.bookings WHERE note = 'new'"))
    assert writable(moving.source_server, moving.dbname) and not writable(moving.target_server, moving.dbname)
    assert fingerprint(moving) == before
    (highest,) = moving.on_source("SELECT max(id) FROM public.bookings")
    assert moving.on_source("SELECT nextval('public.bookings_id_seq')")[0][0] > highest[0]
    assert not cutover.roll_back(moving.source, moving.target, SUPABASE, OPTIONS)["changed"]

    with writers(moving, moving.source_server, "third") as third:
        time.sleep(0.3)
        assert switch(moving)["changed"]
    assert set(third.acknowledged) <= ids(moving.on_target("SELECT id FROM public.bookings WHERE note = 'third'"))
    with pytest.raises(TransferError, match="both sides would take writes"):
        cutover_single.thawed(moving.source, moving.target, SUPABASE, "source", OPTIONS)
    done = cutover_single.finalized(moving.source, moving.target, SUPABASE, OPTIONS)
    assert done["removed"] == ["source", "target"]
    for server in (moving.source_server, moving.target_server):
        assert server.execute(moving.dbname, "SELECT count(*) FROM pg_trigger WHERE tgname ~ 'cutover'")[0] == (0,)
    assert moving.on_source(shape.FINGERPRINT) == before
    assert not cutover_single.finalized(moving.source, moving.target, SUPABASE, OPTIONS)["changed"]


GRANTS = """
SELECT c.oid::regclass::text, '', (SELECT string_agg(x::text, ',' ORDER BY x::text) FROM unnest(c.relacl) x) FROM pg_class c JOIN pg_namespace n ON
   n.oid = c.relnamespace
 WHERE n.nspname IN ('public', 'auth', 'storage') AND c.relacl IS NOT NULL
UNION ALL SELECT a.attrelid::regclass::text, a.attname, a.attacl::text FROM pg_attribute a WHERE a.attacl IS NOT NULL AND a.attrelid >= 16384 ORDER BY 1, 2
"""


def test_a_closed_target_and_a_frozen_source_count_as_unchanged_and_grants_end_equal(moving: Any) -> None:
    before = moving.on_source(GRANTS)
    for section in schema.SECTIONS:
        again = schema.transfer(moving.source, moving.target, SUPABASE, section, schema_plan.Options())
        assert not again.changed, again.applied
    assert not writable(moving.target_server, moving.dbname)
    switch(moving)
    assert moving.on_target(GRANTS) == before
    again = schema.transfer(moving.source, moving.target, SUPABASE, "all", schema_plan.Options())
    assert not again.changed and not any("cutover" in name for name, _reason in again.skipped), again
    moving.on_target("DROP INDEX public.bookings_company")
    with pytest.raises(TransferError, match="the target is in service and its schema differs"):
        schema.transfer(moving.source, moving.target, SUPABASE, "all", schema_plan.Options())


POINTS = (
    "freeze",
    "freeze:locked",
    "freeze:triggers",
    "freeze:fenced",
    "freeze:done",
    "rest",
    "rest:done",
    "sequences:done",
    "proof",
    "proof:done",
    "open",
)


@pytest.mark.parametrize("point", POINTS)
def test_a_failure_at_any_step_puts_the_source_back_into_service(moving: Any, point: str) -> None:
    before = fingerprint(moving)

    def fail(at: str) -> None:
        if at == point:
            raise RuntimeError(f"planted at {at}")

    with writers(moving, moving.source_server, "old") as old:
        time.sleep(0.1)
        with pytest.raises(TransferError, match=f"planted at {point}") as caught:
            switch(moving, cutover_sides.Options(workers=2, fault=fail))
        assert caught.value.details["thawed"] and caught.value.details["thaw_seconds"] < 5
        assert caught.value.details["step"] == point.partition(":")[0]
        refused = len(old.refused)
        time.sleep(0.1)
        assert len(old.refused) == refused
    assert fingerprint(moving) == before
    assert writable(moving.source_server, moving.dbname) and not writable(moving.target_server, moving.dbname)
    assert switch(moving)["changed"]
    assert set(old.acknowledged) <= ids(moving.on_target("SELECT id FROM public.bookings WHERE note = 'old'"))


@pytest.mark.parametrize("point", ("freeze:done", "rest:done", "proof:done", "open:done"))
def test_a_killed_run_is_finished_by_the_next_one(moving: Any, point: str) -> None:
    before = fingerprint(moving)
    child = os.fork()
    if child == 0:
        cutover.cut_over(moving.source, moving.target, SUPABASE, cutover_sides.Options(workers=2, fault=lambda at: killed(at, point)))
        os._exit(0)
    _pid, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert not writable(moving.source_server, moving.dbname)
    assert writable(moving.target_server, moving.dbname) == (point == "open:done")
    again = switch(moving)
    # Of a target that had opened, what acts on one side only was left to be switched on.
    assert again["changed"] and again["proof"]["equal"]
    assert moving.on_target("SELECT pubname::text FROM pg_publication") == [("supabase_realtime",)] and not switch(moving)["changed"]
    assert writable(moving.target_server, moving.dbname) and not writable(moving.source_server, moving.dbname)
    assert cutover.roll_back(moving.source, moving.target, SUPABASE, OPTIONS)["changed"]
    assert fingerprint(moving) == before


def killed(at: str, point: str) -> None:
    """End this process as a crash would, without a chance to clean up."""
    if at == point:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_target_that_was_opened_stays_open_whatever_fails_then(moving: Any) -> None:
    def fail(at: str) -> None:
        if at == "open:done":
            raise RuntimeError("planted after the commit")

    assert switch(moving, cutover_sides.Options(workers=2, fault=fail))["changed"]
    assert not writable(moving.source_server, moving.dbname) and writable(moving.target_server, moving.dbname)


@pytest.mark.parametrize("point", ("freeze:done", "rest:done", "proof:done", "record"))
def test_a_failure_on_the_way_back_leaves_the_target_in_service(moving: Any, point: str) -> None:
    switch(moving)
    moving.on_target("INSERT INTO public.loose VALUES (77, 'only here')")

    def fail(at: str) -> None:
        if at == point:
            raise RuntimeError(f"planted at {at}")

    with pytest.raises(TransferError, match="the target is in service again"):
        cutover.roll_back(moving.source, moving.target, SUPABASE, cutover_sides.Options(workers=2, fault=fail))
    assert writable(moving.target_server, moving.dbname) and not writable(moving.source_server, moving.dbname)
    assert cutover.roll_back(moving.source, moving.target, SUPABASE, OPTIONS)["changed"]
    assert moving.on_source("SELECT count(*) FROM public.loose WHERE company_id = 77") == [(1,)]


def test_a_way_back_that_died_before_opening_is_finished_by_the_next_run(moving: Any) -> None:
    switch(moving)

    def fail(at: str) -> None:
        if at == "open":
            raise RuntimeError("planted before opening")

    with pytest.raises(TransferError, match="the source holds everything but opening it failed"):
        cutover.roll_back(moving.source, moving.target, SUPABASE, cutover_sides.Options(workers=2, fault=fail))
    assert not writable(moving.target_server, moving.dbname) and not writable(moving.source_server, moving.dbname)
    with pytest.raises(TransferError, match="a roll back was begun"):
        switch(moving)
    assert cutover.roll_back(moving.source, moving.target, SUPABASE, OPTIONS)["state"] == "rolled_back"
    assert writable(moving.source_server, moving.dbname)


def test_a_step_over_its_deadline_is_ended_and_the_source_serves(moving: Any) -> None:
    before = fingerprint(moving)

    def dawdle(at: str) -> None:
        if at == "rest":
            time.sleep(3)

    started = time.monotonic()
    with pytest.raises(TransferError, match="step rest was not finished within 1.0 s"):
        switch(moving, cutover_sides.Options(workers=2, step_deadlines={"rest": 1.0}, fault=dawdle))
    assert time.monotonic() - started < 12
    assert fingerprint(moving) == before and writable(moving.source_server, moving.dbname)


def test_what_is_not_ready_is_refused_before_anything_is_touched(moving: Any) -> None:
    cutover_single.thawed(moving.source, moving.target, SUPABASE, "target", cutover_sides.Options(force=True))
    with pytest.raises(TransferError, match="the target is not closed"):
        switch(moving)
    moving.on_target("DROP INDEX public.bookings_company")
    with pytest.raises(TransferError, match="index bookings_company on public.bookings"):
        switch(moving)
    moving.on_target(
        "CREATE INDEX bookings_company ON public.bookings (company_id)",
        "UPDATE cutover.chunk SET state = 'todo' WHERE source_table = 'loose'",
    )
    with pytest.raises(TransferError, match="the copy is not finished: 1 of"):
        switch(moving)
    with pytest.raises(TransferError, match="nothing was cut over"):
        cutover.roll_back(moving.source, moving.target, SUPABASE, OPTIONS)
    with pytest.raises(TransferError, match="nothing was cut over yet"):
        cutover_single.finalized(moving.source, moving.target, SUPABASE, OPTIONS)
    assert moving.on_source("SELECT to_regnamespace('cutover') IS NULL") == [(True,)]


def test_a_row_planted_past_the_guards_stops_the_switch(moving: Any) -> None:
    def plant(at: str) -> None:
        if at == "proof":
            moving.on_target("SET session_replication_role = replica", "UPDATE public.companies SET name = 'planted' WHERE id = 3")

    with pytest.raises(TransferError, match="public.companies: 0 missing, 0 extra, 1 changed"):
        switch(moving, cutover_sides.Options(workers=2, fault=plant))
    assert writable(moving.source_server, moving.dbname)
