# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a stream's processes are told: one file, read once, refused as a whole when anything in it is not understood."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..endpoint import Endpoint
from ..errors import TransferError
from ..selection import Rename, Selection

FORWARD, REVERSE = "forward", "reverse"
_HEARTBEAT_SECONDS = 60.0


@dataclass(frozen=True)
class Config:
    """One stream. source, target, include, exclude, rename and flavour are those of the move forward in both directions.

    direction: forward (source sends) or reverse (target sends)
    slot, publication: on the sending server; spool: folder on this machine; keep_seconds: how long applied segments stay in it
    metrics_file, metrics_port: where figures for Prometheus go (port of 127.0.0.1), None for nowhere
    heartbeat_seconds: a process that has not shown life for so long is replaced
    """

    direction: str
    source: Endpoint
    target: Endpoint
    slot: str
    publication: str
    spool: Path
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    rename: Rename = field(default_factory=Rename)
    flavour: str = "postgresql"
    keep_seconds: float = 900.0
    metrics_file: Path | None = None
    metrics_port: int | None = None
    heartbeat_seconds: float = _HEARTBEAT_SECONDS

    @property
    def sending(self) -> Endpoint:
        """The database that sends."""
        return self.source if self.direction == FORWARD else self.target

    @property
    def receiving(self) -> Endpoint:
        """The database that receives, and holds schema cutover."""
        return self.target if self.direction == FORWARD else self.source

    @property
    def selection(self) -> Selection:
        """The tables of the move forward."""
        return Selection(self.include, self.exclude, self.rename, self.flavour)

    @property
    def sent(self) -> Selection:
        """The same tables as the sending database calls them, with the way to the receiver's names."""
        return self.selection if self.direction == FORWARD else self.selection.inverted()

    @classmethod
    def from_args(cls, args: Mapping[str, Any]) -> Config:
        """Config of plain data, as the file has it. Raises TransferError of kind config, or of an endpoint or pattern that is wrong."""
        known = {one.name for one in fields(cls)}
        needed = {one.name for one in fields(cls) if one.default is MISSING and one.default_factory is MISSING}
        for what, names in (("unknown key", set(args) - known), ("missing key", needed - {name for name, value in args.items() if value})):
            if names:
                raise _wrong(f"{what} in the stream's configuration: {', '.join(sorted(names))}", f"Use {', '.join(sorted(known))}.")
        if args["direction"] not in (FORWARD, REVERSE):
            raise _wrong(f"direction is {args['direction']!r}", f"Use {FORWARD} or {REVERSE}.")
        spool = Path(str(args["spool"]))
        if not spool.is_absolute():
            raise _wrong(f"spool is {str(spool)!r}, which is no absolute path", "Give the whole path of a folder.")
        selection = Selection.from_args(
            args.get("include"), args.get("exclude"), args.get("rename"), str(args.get("flavour") or "postgresql")
        )
        port = args.get("metrics_port")
        return cls(
            direction=str(args["direction"]),
            source=Endpoint.from_args(args["source"]),
            target=Endpoint.from_args(args["target"]),
            slot=str(args["slot"]),
            publication=str(args["publication"]),
            spool=spool,
            include=selection.include,
            exclude=selection.exclude,
            rename=selection.rename,
            flavour=selection.flavour,
            keep_seconds=_number(args, "keep_seconds", 900.0),
            metrics_file=Path(str(args["metrics_file"])) if args.get("metrics_file") else None,
            metrics_port=_port(port) if port else None,
            heartbeat_seconds=_number(args, "heartbeat_seconds", _HEARTBEAT_SECONDS),
        )

    @classmethod
    def load(cls, path: Path) -> Config:
        """Config of a file of JSON, which holds passwords: nobody but its owner may read it. Raises TransferError of kind config."""
        try:
            mode = path.stat().st_mode & 0o077
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise _wrong(f"{path} cannot be read: {error.strerror}", "Give the stream's configuration, readable by this user.") from error
        if mode:
            raise _wrong(f"{path} holds passwords, and others than its owner may use it", f"Run chmod 600 {path}.")
        try:
            args = json.loads(text)
        except ValueError as error:
            raise _wrong(f"{path} is no JSON: {error}", "Write the file again.") from error
        if not isinstance(args, dict):
            raise _wrong(f"{path} holds no JSON object", "Write the file again.")
        return cls.from_args(args)


def _wrong(message: str, remedy: str) -> TransferError:
    return TransferError(message, remedy, kind="config")


def _number(args: Mapping[str, Any], name: str, default: float) -> float:
    value = args.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise _wrong(f"{name} is {value!r}, expected seconds above 0", f"Correct {name}.")
    return float(value)


def _port(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 65536:
        raise _wrong(f"metrics_port is {value!r}, expected a port from 1 to 65535", "Correct metrics_port.")
    return value
