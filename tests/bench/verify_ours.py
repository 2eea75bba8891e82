"""Our verification as a command: arguments as JSON on the standard input, what it found as one line of JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.endpoint import Endpoint
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Selection
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.verify import VerifiedTable, verify


def named(table: VerifiedTable) -> list[str]:
    """Keys of the rows that differ, or their texts where there is no key."""
    rows = (*table.missing, *table.extra, *table.changed)
    return [",".join(row.key.values()) if row.key is not None else str(row.row) for row in rows]


def main() -> None:
    """Compare once."""
    args: dict[str, Any] = json.load(sys.stdin)
    source, target = (Endpoint.from_args(args[side]) for side in ("source", "target"))
    selection = Selection.from_args(args["include"], [] if args["include"] else ["public.trap*"])
    result = verify(source, target, selection, workers=args["workers"])
    differences = {one.name: one.missing_count + one.extra_count + one.changed_count for one in result.tables if not one.equal}
    rows = {one.name: named(one) for one in result.tables if not one.equal}
    print(json.dumps({"seconds": result.seconds, "hash": result.hash, "differences": differences, "named": rows}))


if __name__ == "__main__":
    main()
