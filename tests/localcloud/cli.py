"""The commands of the local cloud: up, down, status, doctor, env (and serve, files: its background processes)."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from localcloud import instance as instances
from localcloud import lifecycle
from localcloud.backend import BackendError
from localcloud.instance import Instance, LocalCloudError


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m localcloud", description="A Hetzner Cloud on this machine, with real systemd machines as servers."
    )
    commands = top.add_subparsers(dest="command", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=text, description=text)
        found.add_argument("--name", default="demo", help="which instance (default: demo)")
        return found

    up = command("up", "start the instance, or make it whole again; a second run changes nothing")
    up.add_argument("--index", type=int, default=10, help="0-99: picks the public range 10.93.INDEX.0/24 and the port (default: 10)")
    up.add_argument("--backend", choices=("nspawn", "none"), default="nspawn", help="nspawn: real machines (root); none: records only")
    up.add_argument("--port", type=int, help="of the API on 127.0.0.1 (default: 8600 + INDEX)")
    up.add_argument(
        "--images", default="debian-12", help="images to have ready, by commas (default: debian-12; others are built when first used)"
    )
    up.add_argument(
        "--mirror", type=Path, metavar="DIR", help=f"serve DIR read-only to the machines on the gateway's port {instances.MIRROR_PORT}"
    )
    up.add_argument(
        "--speed",
        type=float,
        default=0.0,
        help="how long actions take: factor on the real cloud's durations (default: 0, as fast as machines are)",
    )
    down = command("down", "remove everything of the instance; images stay cached")
    down.add_argument("--purge", action="store_true", help="remove the cached images too")
    status = command("status", "show the instance and its machines")
    status.add_argument("--json", action="store_true", help="as JSON")
    command("doctor", "check what this host has, and what was left behind")
    command("env", "print the variables that point a client to the instance")
    serve = command("serve", "(internal) the API process")
    serve.add_argument("--speed", type=float, default=0.0)
    files = command("files", "(internal) the file server for the machines")
    files.add_argument("directory", type=Path)
    return top


def known(name: str) -> Instance:
    found = instances.load(name)
    if found is None:
        others = ", ".join(other.name for other in instances.everyone()) or "none"
        raise LocalCloudError(f"no instance {name!r} here (found: {others}): run `python -m localcloud up --name {name}`")
    return found


def show_status(found: Instance, as_json: bool) -> int:
    state = lifecycle.status(found)
    if as_json:
        print(json.dumps(state, indent=2))
        return 0
    print(f"instance {found.name}: backend {found.backend}, API {found.endpoint} {state['api']}, public range {found.public_range}")
    print(f"name server {state['dns']}, namespaces {state['namespaces']}, files for machines: {state['mirror'] or 'none'}")
    for machine in state["machines"]:
        private = " ".join(f"{name}={address}" for name, address in machine["private"].items())
        print(
            f"  {machine['id']:>10}  {machine['name']:<28} {machine['public_ipv4'] or '-':<15} {machine['state']:<8} {machine['image']} {private}"
        )
    return 0


def up(options: argparse.Namespace) -> int:
    wanted = instances.make(options.name, options.index, options.port, options.backend)
    lifecycle.up(wanted, images=[name for name in options.images.split(",") if name], mirror=options.mirror, speed=options.speed)
    print(f"instance {wanted.name} is up: {wanted.endpoint}, machines in {wanted.public_range}, token in {wanted.token_file}")
    print(f'use it:  eval "$(python -m localcloud env --name {wanted.name})"   remove it:  python -m localcloud down --name {wanted.name}')
    return 0


def serve(options: argparse.Namespace) -> int:
    import uvicorn

    from localcloud.api import create_app
    from localcloud.api.store import Store
    from localcloud.dns import server as name_server

    found = known(options.name)
    app = create_app(
        state_dir=found.directory,
        token=found.token(),
        backend=lifecycle.backend_of(found),
        public_range=found.public_range,
        speed=options.speed,
    )
    store, public_range = Store(found.directory / "cloud.sqlite"), ipaddress.IPv4Network(found.public_range)
    addresses = [found.name_server] + ([(found.gateway, instances.DNS_PORT)] if found.backend == "nspawn" else [])
    with name_server.serving(lambda: name_server.zones(store, public_range), addresses):
        uvicorn.run(app, host="127.0.0.1", port=found.port, log_level="warning", access_log=False)
    return 0


def dispatch(options: argparse.Namespace) -> int:
    match options.command:
        case "up":
            return up(options)
        case "down":
            for line in lifecycle.down(options.name, purge=options.purge):
                print(line)
            return 0
        case "status":
            return show_status(known(options.name), options.json)
        case "doctor":
            from localcloud.doctor import examine

            return examine()
        case "env":
            found = known(options.name)
            print(f"export HCLOUD_ENDPOINT={found.endpoint}\nexport HCLOUD_TOKEN={found.token()}")
            return 0
        case "serve":
            return serve(options)
        case _unused:
            from localcloud.files import serve_files

            return serve_files(known(options.name).gateway, instances.MIRROR_PORT, options.directory)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    os.umask(0o022)
    try:
        return dispatch(options)
    except (LocalCloudError, BackendError) as error:
        print(f"localcloud {options.command}: {error}", file=sys.stderr)
        return 1
    except subprocess.SubprocessError as error:
        print(f"localcloud {options.command}: {error}; run `python -m localcloud doctor`", file=sys.stderr)
        return 1
    except PermissionError as error:
        with contextlib.suppress(OSError):
            print(
                f"localcloud {options.command}: {error}: machines need root; `--backend none` with CUTOVER_LOCALCLOUD_STATE set does not",
                file=sys.stderr,
            )
        return 1
