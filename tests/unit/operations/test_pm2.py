"""PM2's rules: what is declared against what runs."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.operations import pm2
from ansible_collections.cutover.hetzner.plugins.module_utils.operations.errors import OperationsError
from hypothesis import given
from hypothesis import strategies as st

API: dict[str, Any] = {"name": "api", "script": "api.js", "instances": 2, "exec_mode": "cluster", "env": {"PORT": 3000, "DEBUG": False}}
WORKER: dict[str, Any] = {"name": "worker", "script": "worker.js"}


def declared(*raw: dict[str, Any], inputs: dict[str, str] | None = None) -> tuple[pm2.App, ...]:
    return pm2.applications({"apps": list(raw)}, "/opt/app/current", inputs)


def running(app: pm2.App, first: int = 100, **changes: Any) -> list[pm2.Process]:
    process = pm2.Process(app.name, 0, "online", 0, 1, first, 1_000, app.mark, "")
    return [replace(process, id=number, pid=first + number, **changes) for number in range(app.instances or 1)]


def kinds(actions: tuple[pm2.Action, ...]) -> list[tuple[str, str]]:
    return [(action.kind, action.name) for action in actions]


def test_environment_is_text_and_the_mark_is_added() -> None:
    (app,) = declared(API)
    assert app.definition["env"] == {"PORT": "3000", "DEBUG": "false", pm2.MARK: app.mark}
    assert app.definition["cwd"] == "/opt/app/current"


def test_the_mark_of_a_written_ecosystem_is_the_same_again() -> None:
    apps = declared(API, WORKER, inputs={"/x": "1"})
    again = pm2.applications(json.loads(json.dumps([app.definition for app in apps])), None, {"/x": "1"})
    assert [app.mark for app in again] == [app.mark for app in apps]


def test_running_as_declared_needs_nothing() -> None:
    apps = declared(API, WORKER)
    assert pm2.plan("started", apps, [*running(apps[0]), *running(apps[1], 200)]) == ()


def test_new_values_reload_but_a_new_shape_is_started_anew() -> None:
    (before,) = declared(API)
    for changed, kind in (
        ({**API, "env": {"PORT": 3001, "DEBUG": False}}, "reload"),
        ({**API, "env": {"PORT": 3000}}, "recreate"),
        ({**API, "script": "other.js"}, "recreate"),
        ({**API, "instances": 3}, "recreate"),
    ):
        assert kinds(pm2.plan("started", declared(changed), running(before))) == [(kind, "api")]


def test_a_changed_input_file_reloads() -> None:
    (before,) = declared(API, inputs={"/opt/app/shared/.env": "aa"})
    after = declared(API, inputs={"/opt/app/shared/.env": "bb"})
    assert kinds(pm2.plan("started", after, running(before))) == [("reload", "api")]


def test_old_code_is_reloaded() -> None:
    apps = declared(API)
    (action,) = pm2.plan("started", apps, running(apps[0]), {101: "/opt/app/releases/old"})
    assert (action.kind, action.reason) == ("reload", "runs the code in /opt/app/releases/old")


@pytest.mark.parametrize("status", ["stopped", "errored", "waiting restart"])
def test_what_is_down_is_started_anew(status: str) -> None:
    apps = declared(WORKER)
    assert kinds(pm2.plan("started", apps, running(apps[0], status=status))) == [("recreate", "worker")]


def test_a_job_that_ended_is_left_alone() -> None:
    apps = declared({**WORKER, "autorestart": False, "cron_restart": "0 3 * * *"})
    assert pm2.plan("started", apps, running(apps[0], status="stopped")) == ()


def test_foreign_processes_go_only_when_asked() -> None:
    apps = declared(API)
    foreign = pm2.Process("left-over", 9, "online", 0, 0, 900, 0, "", "")
    there = [*running(apps[0]), foreign]
    assert pm2.plan("started", apps, there) == ()
    assert kinds(pm2.plan("started", apps, there, prune=True)) == [("delete", "left-over")]


def test_other_states() -> None:
    apps = declared(API, WORKER)
    there = running(apps[0])
    assert kinds(pm2.plan("reloaded", apps, there)) == [("reload", "api"), ("start", "worker")]
    assert kinds(pm2.plan("stopped", apps, there)) == [("stop", "api")]
    assert pm2.plan("stopped", apps, running(apps[0], status="stopped")) == ()
    assert kinds(pm2.plan("absent", apps, there)) == [("delete", "api")]
    assert pm2.plan("status", apps, ()) == ()


def test_commands_remove_before_they_start() -> None:
    actions = [pm2.Action("reload", "a", ""), pm2.Action("recreate", "b", ""), pm2.Action("start", "c", ""), pm2.Action("delete", "d", "")]
    assert pm2.commands(actions, "/e.json") == (
        ("delete", "b", "d"),
        ("start", "/e.json", "--only", "b,c", "--update-env"),
        ("reload", "/e.json", "--only", "a", "--update-env"),
    )


@pytest.mark.parametrize(
    ("ecosystem", "words"),
    [
        ([], "declares no application"),
        ("text", "declares no application"),
        ([{"script": "a.js"}], "has the name None"),
        ([{"name": "all", "script": "a.js"}], "has the name 'all'"),
        ([{"name": "a b", "script": "a.js"}], "has the name 'a b'"),
        ([{"name": "a"}], "a has no script"),
        ([{"name": "a", "script": "a.js", "instance": 2}], "a: instance is nothing"),
        ([{"name": "a", "script": "a.js", "cwd": "relative"}], "expected an absolute path"),
        ([{"name": "a", "script": "a.js"}, {"name": "a", "script": "b.js"}], "a is declared twice"),
        ([{"name": "a", "script": "a.js", "env": {"X": None}}], "a.env.X"),
    ],
)
def test_refuses(ecosystem: object, words: str) -> None:
    with pytest.raises(OperationsError, match=words) as error:
        pm2.applications(ecosystem, "/opt/app/current")
    assert error.value.remedy


LISTING = [
    {
        "pid": 4242,
        "name": "api",
        "pm_id": 0,
        "monit": {"memory": 52_000_000, "cpu": 0.1},
        "pm2_env": {
            "status": "online",
            "restart_time": 3,
            "pm_uptime": 1_700_000_000_000,
            "pm_err_log_path": "/l/e.log",
            "env": {"PORT": "1"},
            pm2.MARK: "a.b",
        },
    },
    {"pid": 1, "name": "pm2-logrotate", "pm_id": 1, "monit": {}, "pm2_env": {"status": "online", "pmx_module": True}},
]


def test_reads_the_listing_and_leaves_modules_out() -> None:
    (process,) = pm2.processes(">>>> In-memory PM2 is out-of-date\n[PM2] Spawning\n" + json.dumps(LISTING))
    assert (process.pid, process.restarts, process.mark, process.error_log) == (4242, 3, "a.b", "/l/e.log")
    assert process.as_result(1_700_000_060.5) == {
        "name": "api",
        "id": 0,
        "status": "online",
        "restarts": 3,
        "memory": 52_000_000,
        "pid": 4242,
        "uptime": 60,
    }


@pytest.mark.parametrize("text", ["", "[PM2][ERROR] nothing", "[{broken"])
def test_refuses_a_listing_that_is_none(text: str) -> None:
    with pytest.raises(OperationsError, match="no list of processes"):
        pm2.processes(text)


def test_saved_compares_names_definitions_and_stopped() -> None:
    apps = declared(WORKER)
    there = running(apps[0])
    entry = {"name": "worker", pm2.MARK: apps[0].mark, "status": "online"}
    assert pm2.saved(json.dumps([entry]), there)
    assert not pm2.saved(json.dumps([{**entry, "status": "stopped"}]), there)
    assert not pm2.saved(json.dumps([{**entry, pm2.MARK: "old"}]), there)
    assert not pm2.saved("[]", there)
    assert not pm2.saved("", there)
    assert pm2.saved("[]", [])


def test_unsettled_waits_for_the_time_online_and_for_the_right_folder() -> None:
    apps = declared(API)
    there = running(apps[0], started=10_000)
    assert pm2.unsettled(apps, there, {}, now=10.5, settle=1)[0] == ["api: 0 of 2 online for 1 s (online, online)"]
    assert pm2.unsettled(apps, there, {}, now=11.5, settle=1) == ([], [])
    assert "runs in /old" in pm2.unsettled(apps, there, {101: "/old"}, now=11.5, settle=1)[0][0]
    errored = [replace(there[0], status="errored"), there[1]]
    assert pm2.unsettled(apps, errored, {}, now=11.5, settle=1)[1] == [errored[0]]


@given(st.dictionaries(st.from_regex(r"[A-Z]{1,5}", fullmatch=True), st.text(max_size=8), max_size=4))
def test_the_order_of_the_environment_does_not_matter(environment: dict[str, str]) -> None:
    backwards = dict(reversed(environment.items()))
    assert declared({**WORKER, "env": environment})[0].mark == declared({**WORKER, "env": backwards})[0].mark
