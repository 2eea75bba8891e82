"""``python -m mirror build DIR [NAME…]`` and ``python -m mirror serve DIR --bind ADDRESS --port PORT``."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from .build import RECIPES, MirrorError, build
from .serve import server


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m mirror", description="Release servers for tests")
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("build", help="assemble the releases that are not there yet and print them as JSON")
    making.add_argument("dir", type=Path)
    making.add_argument("names", nargs="*", metavar="NAME", help=f"only these of: {', '.join(RECIPES)}")
    serving = commands.add_parser("serve", help="serve the folder until ended")
    serving.add_argument("dir", type=Path)
    serving.add_argument("--bind", default="127.0.0.1")
    serving.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    if arguments.command == "build":
        unknown = sorted(set(arguments.names) - set(RECIPES))
        if unknown:
            parser.error(f"no recipe for {', '.join(unknown)}; there are: {', '.join(RECIPES)}")
        try:
            releases = build(arguments.dir, tuple(arguments.names) or tuple(RECIPES))
        except MirrorError as error:
            print(f"mirror: {error}", file=sys.stderr)
            return 1
        print(json.dumps({name: asdict(release) for name, release in releases.items()}, indent=2))
        return 0
    if not arguments.dir.is_dir():
        parser.error(f"{arguments.dir} is no folder; build it first")
    with server(arguments.dir, arguments.bind, arguments.port) as running:
        try:
            running.serve_forever()
        except KeyboardInterrupt:
            return 0
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
