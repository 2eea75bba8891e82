"""Command line of the clients."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path


def rate(text: str) -> float:
    """ "20" or "20/s": how many a second, at most 200."""
    value = float(text.removesuffix("/s"))
    if not 0 <= value <= 200:
        raise argparse.ArgumentTypeError(f"{text}: expected 0 to 200 a second")
    return value


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m client", description="Clients of the application during a move")
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="write and read until --seconds are over or SIGTERM comes")
    running.add_argument("--url", required=True, help="like http://app.demo.test:3000; the name is looked up in the hosts file")
    running.add_argument("--hosts-file", type=Path, required=True)
    running.add_argument("--rate", type=rate, default=20.0, help="bookings a second (default: %(default)s)")
    running.add_argument("--readers", type=rate, default=5.0, help="reads a second, 0 for none (default: %(default)s)")
    running.add_argument("--log", type=Path, required=True, help="folder of the logs; lines are added to logs that are there")
    running.add_argument("--seconds", type=float, required=True, help="at most this long, whatever happens")
    judging = commands.add_parser("judge", help="compare the logs with the database; prints figures as JSON")
    judging.add_argument("--log", type=Path, required=True)
    where = judging.add_mutually_exclusive_group(required=True)
    where.add_argument("--dsn", help="libpq connection string; a password belongs into PGPASSWORD")
    where.add_argument("--dump", type=Path, help="the database's answer as JSON, where it cannot be reached from here")
    arguments = parser.parse_args()
    if arguments.command == "run":
        # Only what is needed: the judge works where aiohttp is not installed, the clients where psycopg is not.
        from . import run

        if not arguments.rate or not 0 < arguments.seconds <= 7200:
            parser.error("--rate must be above 0 and --seconds between 0 and 7200")
        settings = run.Settings(arguments.url, arguments.hosts_file, arguments.rate, arguments.readers, arguments.log, arguments.seconds)
        try:
            print(json.dumps(asyncio.run(run.run(settings))), flush=True)
        except (run.StartError, ValueError) as error:
            print(f"client: {error}", file=sys.stderr)
            return 1
        return 0
    from . import figures, judge

    try:
        found = judge.judge_dump(arguments.log, arguments.dump) if arguments.dump else judge.judge(arguments.log, arguments.dsn)
        print(json.dumps(found, indent=2))
    except figures.LogError as error:
        print(f"client: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
