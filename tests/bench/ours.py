"""One move by our own engine, in a process that is measured from outside: JSON on the standard input, JSON on the standard output."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import copy, schema, sequences, session
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.endpoint import Endpoint
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.schema_plan import Options
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Selection


@contextmanager
def step(name: str, into: dict[str, dict[str, float]]) -> Iterator[None]:
    """Note wall seconds and CPU seconds (of this process and of those that it has waited for) of a step."""
    before, began = os.times(), time.monotonic()
    yield
    after = os.times()
    into[name] = {
        "seconds": time.monotonic() - began,
        "own_cpu": after.user + after.system - before.user - before.system,
        "children_cpu": after.children_user + after.children_system - before.children_user - before.children_system,
    }


def move(args: Mapping[str, Any]) -> dict[str, Any]:
    """args: source, target (module arguments), exclude, workers, jobs, rows_only, and ``copy``: further keywords of the engine's copy."""
    source, target = Endpoint.from_args(args["source"]), Endpoint.from_args(args["target"])
    selection = Selection.from_args([], args.get("exclude", []))
    options = Options(jobs=args["workers"])
    steps: dict[str, dict[str, float]] = {}
    whole = not args.get("rows_only")
    if whole:
        with step("pre_data", steps):
            schema.transfer(source, target, selection, "pre_data", options)
    with step("copy", steps):
        result = copy.copy(source, target, selection, workers=args["workers"], indexes=whole, **args.get("copy", {}))
    if whole:
        with step("post_data", steps):
            schema.transfer(source, target, selection, "post_data", options)
        with (
            step("sequences", steps),
            session.connect(source, application_name="bench sequences", read_only=True) as here,
            session.connect(target, application_name="bench sequences") as there,
        ):
            sequences.move(here, there, selection)
    spent = os.times()
    tools = sum(steps[name]["children_cpu"] for name in ("pre_data", "post_data") if name in steps)
    return {
        "steps": steps,
        "rows": result.rows,
        "bytes": result.bytes,
        "python_cpu": spent.user + spent.system + spent.children_user + spent.children_system - tools,
    }


if __name__ == "__main__":
    json.dump(move(json.load(sys.stdin)), sys.stdout)
