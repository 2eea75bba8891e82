# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The report of a run, made from the journal's events alone: pure.

What was not measured is None (or missing from a list), never assumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .journal import Event, moment

#: Steps between which the application could not write: the first line's time to the last line's time.
FREEZE_STEP = "freeze"
OPEN_STEP = "endpoint_switched"


def _last(events: Sequence[Event], what: str, name: str) -> Event | None:
    return next((e for e in reversed(events) if e.what == what and e.name == name), None)


def _figures(events: Sequence[Event], name: str) -> dict[str, Any] | None:
    event = _last(events, "figures", name)
    return event.figures if event else None


def _pick(figures: dict[str, Any] | None, *keys: str) -> dict[str, Any] | None:
    return None if figures is None else {key: figures.get(key) for key in keys}


def phases(events: Sequence[Event]) -> list[dict[str, Any]]:
    """Each phase once, as it went last: name, start (seconds since the run's start), seconds, result, failure.

    A phase without an end is ``interrupted``; its seconds run to the last event that it wrote. failure: task, host and message of a failed
    one, else None.
    """
    if not events:
        return []
    origin = moment(events[0].time)
    found: dict[str, dict[str, Any]] = {}
    for event in events:
        if event.what == "phase" and event.result == "started":
            found.pop(event.name, None)
            found[event.name] = {
                "name": event.name,
                "started": round(moment(event.time) - origin, 3),
                "seconds": 0.0,
                "result": "interrupted",
                "failure": None,
            }
        elif event.what == "phase" and event.name in found:
            found[event.name].update(seconds=round(moment(event.time) - origin - found[event.name]["started"], 3), result=event.result)
            found[event.name]["failure"] = _pick(event.figures, "task", "host", "message") if event.result == "failed" else None
        elif event.phase in found and found[event.phase]["result"] == "interrupted":
            found[event.phase]["seconds"] = round(moment(event.time) - origin - found[event.phase]["started"], 3)
    return list(found.values())


def gate_results(events: Sequence[Event]) -> list[dict[str, Any]]:
    """Every gate as it was judged last: name, decision, failed criteria, by, judgements."""
    found: dict[str, dict[str, Any]] = {}
    for event in events:
        if event.what == "gate":
            found.pop(event.name, None)
            found[event.name] = {
                "name": event.name,
                "decision": event.result,
                "failed": list(event.figures.get("failed", [])),
                "by": event.figures.get("by", ""),
                "at": event.time,
                "criteria": list(event.figures.get("judgements", [])),
            }
    return list(found.values())


def table_rows(verified: dict[str, Any] | None, copied: dict[str, Any] | None) -> list[dict[str, Any]]:
    """One entry per table of the last verification, with the bytes of its copy where they were measured."""
    if not verified:
        return []
    size = {t["name"]: t.get("bytes") for t in (copied or {}).get("tables", [])}
    rows = []
    for table in verified.get("tables", []):
        missing, extra, changed = (_count(table, key) for key in ("missing", "extra", "changed"))
        rows.append(
            {
                "name": table["name"],
                "rows": table.get("rows"),
                "bytes": size.get(table["name"]),
                "missing": missing,
                "extra": extra,
                "changed": changed,
                "verified": missing == extra == changed == 0,
                "checksum": table.get("checksum", ""),
            }
        )
    return rows


def _count(table: dict[str, Any], key: str) -> int:
    counted = table.get(f"{key}_count")
    return int(counted) if counted is not None else len(table.get(key) or [])


def _tables(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    if not rows:
        return None
    return {
        "count": len(rows),
        "rows": sum(r["rows"] or 0 for r in rows),
        "bytes": sum(r["bytes"] or 0 for r in rows),
        "missing": sum(r["missing"] for r in rows),
        "extra": sum(r["extra"] for r in rows),
        "changed": sum(r["changed"] for r in rows),
        "verified": sum(1 for r in rows if r["verified"]),
    }


def _at(event: Event) -> float:
    """When a step began, in seconds since the epoch: as the step itself said (ISO 8601 or seconds), else when it was noted."""
    at = event.figures.get("at", event.time)
    return moment(at) if isinstance(at, str) else float(at)


def write_stop(events: Sequence[Event]) -> dict[str, Any] | None:
    """The last time that writes stopped: seconds from the freeze to the switched endpoint, and the steps between.

    None before the first freeze; seconds is None while the endpoint was not switched (a failed or running cutover).
    """
    start = _last(events, "step", FREEZE_STEP)
    if start is None:
        return None
    began = _at(start)
    steps: list[dict[str, Any]] = [
        {"name": e.name, "started": round(_at(e) - began, 3), "seconds": e.seconds, "result": e.result}
        for e in events
        if e.what == "step" and _at(e) >= began and e.name != OPEN_STEP
    ]
    steps.sort(key=lambda step: step["started"])
    opened = next((e for e in reversed(events) if e.what == "step" and e.name == OPEN_STEP and moment(e.time) >= began), None)
    if opened is None:
        return {"seconds": None, "steps": steps}
    seconds = round(moment(opened.time) - began, 3)
    done = max((step["started"] + (step["seconds"] or 0) for step in steps), default=0.0)
    # From the open database to the moved name: the application's reload and its probe.
    steps.append(
        {"name": "application and endpoint", "started": round(done, 3), "seconds": round(seconds - done, 3), "result": opened.result}
    )
    return {"seconds": seconds, "steps": steps}


def latencies(events: Sequence[Event]) -> list[dict[str, Any]]:
    """Probes that measured a latency: name, phase, p50_ms, p95_ms, max_ms."""
    return [
        {
            "name": e.name,
            "phase": e.phase,
            "host": e.host,
            "result": e.result,
            **{k: e.figures.get(k) for k in ("samples", "p50_ms", "p95_ms", "max_ms")},
        }
        for e in events
        if e.what == "probe"
    ]


def result_of(events: Sequence[Event]) -> str:
    """How the run ended: the result that it was closed with, else ``no_go``, ``failed`` or ``running``.

    What counts is how each phase went last: a phase that failed once and then went well has not failed. A phase that its gate stopped is a
    no-go, not a failure.
    """
    run = [e for e in events if e.what == "run"]
    if run and run[-1].result != "opened":
        return run[-1].result
    gates = [e for e in events if e.what == "gate"]
    stopped = bool(gates) and gates[-1].result == "no_go"
    failed = [phase["name"] for phase in phases(events) if phase["result"] == "failed"]
    if failed and not (stopped and failed == [gates[-1].phase]):
        return "failed"
    return "no_go" if stopped else "running"


def summarise(events: Sequence[Event]) -> dict[str, Any]:
    """``report.json`` of one run. Keys are fixed; a value that was not measured is None."""
    verified, copied = _figures(events, "verify"), _figures(events, "copy")
    rows = table_rows(verified, copied)
    stop = write_stop(events)
    client = _figures(events, "client")
    return {
        "name": next((e.name for e in events if e.what == "run"), ""),
        "result": result_of(events),
        "started": events[0].time if events else None,
        "ended": events[-1].time if events else None,
        "phases": phases(events),
        "gates": gate_results(events),
        "provision": _pick(
            _figures(events, "provision"), "servers", "seconds", "requests", "cost_monthly", "cost_before", "currency", "lines"
        ),
        "tables": _tables(rows),
        "table_list": rows,
        "critical_tables": [r for r in rows if r["name"] in ((verified or {}).get("critical") or [])],
        "copy": _pick(copied, "seconds", "mb_per_s", "rows", "bytes", "workers"),
        "verification": _pick(verified, "mode", "equal", "seconds", "at"),
        "method": (_figures(events, "cutover") or {}).get("method"),
        "cutover": _figures(events, "cutover"),
        "write_stop_seconds": None if stop is None else stop["seconds"],
        "write_stop_steps": [] if stop is None else stop["steps"],
        "client": client,
        "application": _pick(_figures(events, "application"), "processes", "online", "restarts", "list"),
        "latencies": latencies(events),
        "decisions": [{"at": e.time, "name": e.name, "result": e.result, **e.figures} for e in events if e.what == "decision"],
        "slowest_tasks": sorted(
            ({"name": e.name, "host": e.host, "phase": e.phase, "seconds": e.seconds} for e in events if e.what == "task" and e.seconds),
            key=lambda t: -float(str(t["seconds"] or 0)),
        )[:10],
    }
