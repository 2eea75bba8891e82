"""Command line: build the cached files, load them, count what a loaded database holds."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from . import cache, pack

PASSWORDS = {
    "postgres": "OLD_WORLD_POSTGRES_PASSWORD",
    "booking_app": "OLD_WORLD_APP_PASSWORD",
    "authenticator": "OLD_WORLD_AUTHENTICATOR_PASSWORD",
    "supabase_admin": "OLD_WORLD_ADMIN_PASSWORD",
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m e2e.old_world", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("build", "make the COPY files"),
        ("pack", "make them, and archives of this package with them and of the application"),
        ("load", "build the database from them"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument(
            "--cache", type=Path, default=Path(".cache/old_world"), help="folder of the cached files (default: %(default)s)"
        )
        if name == "load":
            command.add_argument(
                "--dsn", required=True, help="superuser of a fresh cluster, e.g. 'host=/var/run/postgresql user=supabase_admin'"
            )
            command.add_argument(
                "--built", action="store_true", help="--cache is one finished folder as 'build' printed it; nothing is built"
            )
    arguments = parser.parse_args()
    started = time.monotonic()
    if arguments.command == "build":
        folder = cache.build(arguments.cache)
        rows = sum(part.rows for part in cache.parts(folder))
        print(json.dumps({"folder": str(folder.resolve()), "rows": rows, "seconds": round(time.monotonic() - started, 1)}))
        return 0
    if arguments.command == "pack":
        print(json.dumps(pack.pack(cache.build(arguments.cache))))
        return 0
    # psycopg is needed for loading only: the machine that builds may lack it.
    from . import load

    folder = arguments.cache if arguments.built else cache.build(arguments.cache)
    passwords = {role: os.environ[name] for role, name in PASSWORDS.items() if os.environ.get(name)}
    try:
        changed = load.load(arguments.dsn, folder, passwords)
    except load.RefusedError as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2
    print(json.dumps({"changed": changed, "world": folder.name, "seconds": round(time.monotonic() - started, 1)}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
