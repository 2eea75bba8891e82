"""A copy in a process of its own, to be killed: arguments as JSON on the standard input, the result or the error on the standard output."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import workers
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.copy import copy
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.endpoint import Endpoint
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Selection


def move(args: dict[str, Any]) -> dict[str, Any]:
    """args: source, target (module arguments), exclude, ``copy``: further keywords of the engine's copy, ``heartbeat``: seconds instead of its own."""
    workers.HEARTBEAT_SECONDS = args.get("heartbeat", workers.HEARTBEAT_SECONDS)
    selection = Selection.from_args([], args.get("exclude", []))
    try:
        result = copy(Endpoint.from_args(args["source"]), Endpoint.from_args(args["target"]), selection, **args.get("copy", {}))
    except TransferError as error:
        return {"error": error.message, "remedy": error.remedy, "details": error.details}
    return dataclasses.asdict(result)


if __name__ == "__main__":
    json.dump(move(json.load(sys.stdin)), sys.stdout, default=str)
