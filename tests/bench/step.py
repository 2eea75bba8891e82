"""One step of a move in a process of its own, to be killed: what it shall do as JSON on the standard input, result or error on the standard output."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

import psycopg
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import cutover, cutover_sides, pgbouncer
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.copy import copy
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.endpoint import Endpoint
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Selection


def run(args: dict[str, Any]) -> dict[str, Any]:
    """args: what (copy, switch or back), source, target, slot of a copy, poolers and options of a switch."""
    source, target, selection = Endpoint.from_args(args["source"]), Endpoint.from_args(args["target"]), Selection()
    try:
        if args["what"] == "copy":
            return dataclasses.asdict(copy(source, target, selection, slot=args["slot"], workers=2))
        options = cutover_sides.Options(poolers=pgbouncer.from_args(args["poolers"]), **args["options"])
        return (cutover.cut_over if args["what"] == "switch" else cutover.roll_back)(source, target, selection, options)
    except TransferError as error:
        return {"error": error.message, "remedy": error.remedy, "details": error.details}
    except psycopg.OperationalError as error:  # of a session that was cut while nothing had been changed yet
        return {"error": str(error)}


if __name__ == "__main__":
    json.dump(run(json.load(sys.stdin)), sys.stdout, default=str)
