# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""PgBouncer in front of the databases: paused before writes stop and resumed towards the side that opened, so that its clients wait instead of failing.

While it is paused clients keep their connections and their next statement waits, at most for the pooler's ``query_wait_timeout``.
Source: https://www.pgbouncer.org/usage.html, process controlling commands; https://www.pgbouncer.org/config.html, section [databases].
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .endpoint import Endpoint
from .errors import TransferError

if TYPE_CHECKING:
    import psycopg

SIDES = ("source", "target")
PAUSE_SECONDS = 5.0
_CONNECT_SECONDS = 5
_COMMAND_SECONDS = 15.0
_KEYS = ("host", "port", "user", "password", "sslmode", "database", "file", "command", "source", "target")


@dataclass(frozen=True)
class Pooler:
    """One PgBouncer. console: its admin database; database: the entry that its clients use; source, target: what the entry leads to, without its name.

    file: the one with the entry's line, on this machine; command: what points the pooler to a side instead, with CUTOVER_SIDE in its environment
    """

    console: Endpoint
    database: str
    source: str = ""
    target: str = ""
    file: Path | None = None
    command: tuple[str, ...] = field(default=())

    def describe(self) -> str:
        """For messages."""
        found = self.console.parameters()
        return f"the pooler at {found.get('host', 'local')}:{found.get('port', '')}, database {self.database}"

    def line(self, side: str) -> str:
        """Of the file."""
        return f"{self.database} = {self.source if side == 'source' else self.target}"


def from_args(given: Sequence[Mapping[str, Any]]) -> tuple[Pooler, ...]:
    """Poolers of a module's argument. Raises TransferError for what is incomplete or cannot be meant."""
    return tuple(_pooler(number, one) for number, one in enumerate(given))


def _pooler(number: int, args: Mapping[str, Any]) -> Pooler:
    where = f"poolers[{number}]"
    unknown = sorted(set(args) - set(_KEYS))
    if unknown:
        raise TransferError(f"{where} has unknown keys: {', '.join(unknown)}", f"Use only {', '.join(_KEYS)}.")
    database = str(args.get("database") or "")
    if not args.get("host") or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", database):
        raise TransferError(
            f"{where} needs host and database", "Give the pooler's address and the name of the entry in [databases] that clients use."
        )
    file, command = args.get("file"), tuple(str(word) for word in args.get("command") or ())
    if bool(file) == bool(command):
        raise TransferError(f"{where} needs either file or command", "Name the file with the entry's line, or what to run instead.")
    sides = {side: str(args.get(side) or "") for side in SIDES}
    for side, text in sides.items():
        if file and (not text.strip() or "\n" in text):
            raise TransferError(
                f"{where}.{side} is {text!r}, expected one line",
                f"Write what the entry leads to, as in {side}: host=10.0.0.5 port=5432 dbname=app.",
            )
    console = Endpoint.from_args(
        {**{key: args.get(key) for key in ("host", "user", "password", "sslmode")}, "port": args.get("port") or 6432, "dbname": "pgbouncer"}
    )
    return Pooler(console, database, sides["source"], sides["target"], Path(str(file)) if file else None, command)


def check(poolers: Sequence[Pooler]) -> None:
    """See beforehand that each can be paused and pointed elsewhere. Raises TransferError."""
    for pooler in poolers:
        with closing(_console(pooler)) as conn:
            _row(conn, pooler)
        if pooler.file is not None:
            pointed(_text(pooler), pooler, "target")
            if not os.access(pooler.file, os.W_OK) or not os.access(pooler.file.parent, os.W_OK):
                raise TransferError(
                    f"{pooler.file} of {pooler.describe()} cannot be replaced by this user",
                    "Run as its owner or as root, or use command.",
                    kind="pooler",
                )


def pause(poolers: Sequence[Pooler], seconds: float = PAUSE_SECONDS) -> None:
    """Have clients wait. Transactions that run are let end. Raises TransferError when they do not in time; then no pooler is paused."""
    try:
        for pooler in poolers:
            _pause(pooler, seconds)
    except BaseException:
        resume(poolers)
        raise


def turn(poolers: Sequence[Pooler], side: str) -> bool:
    """Point every pooler to a side and let its clients go on; whether anything had to be done.

    Raises TransferError, after trying all of them, that names those which still wait or lead elsewhere.
    """
    changed, failed = False, []
    for pooler in poolers:
        try:
            changed |= _turn(pooler, side)
        except Exception as error:
            failed.append(f"{pooler.describe()}: {error.message if isinstance(error, TransferError) else error}")
    if failed:
        raise TransferError(
            f"the {side} is in service, but {len(failed)} poolers do not lead there: {'; '.join(failed)}",
            f"Point them to the {side} by hand, then run RELOAD and RESUME on their consoles; or mend the cause and run the same state again.",
            kind="pooler",
        )
    return changed


def resume(poolers: Sequence[Pooler]) -> tuple[str, ...]:
    """Let clients go on where they were. Returns what could not be resumed, for the message of whoever has failed."""
    failed = []
    for pooler in poolers:
        try:
            with closing(_console(pooler)) as conn:
                _resume(conn, pooler)
        except Exception as error:
            failed.append(f"{pooler.describe()}: {error}")
    return tuple(failed)


def pointed(text: str, pooler: Pooler, side: str) -> str:
    """The file's text with the entry's line for a side. Pure. Raises TransferError when there is not exactly one such line."""
    pattern = re.compile(rf"^[ \t]*\"?{re.escape(pooler.database)}\"?[ \t]*=.*$", re.MULTILINE)
    if len(pattern.findall(text)) != 1:
        raise TransferError(
            f"{pooler.file} has {len(pattern.findall(text))} lines for database {pooler.database}, expected one",
            f"Write it as {pooler.line('source')} below [databases].",
            kind="pooler",
        )
    return pattern.sub(lambda _found: pooler.line(side), text)


def _console(pooler: Pooler) -> psycopg.Connection[Any]:
    import psycopg

    try:
        # The console speaks the simple protocol only and knows no transactions.
        return psycopg.connect(
            pooler.console.conninfo(connect_timeout=_CONNECT_SECONDS, application_name="cutover"),
            autocommit=True,
            cursor_factory=psycopg.ClientCursor,
        )
    except psycopg.OperationalError as error:
        raise TransferError(
            f"the console of {pooler.describe()} does not answer: {error}",
            "Give the address of PgBouncer, and a user of its admin_users with the password.",
            kind="pooler",
        ) from error


def _row(conn: psycopg.Connection[Any], pooler: Pooler) -> dict[str, Any]:
    """Of SHOW DATABASES."""
    cursor = conn.execute("SHOW DATABASES")
    names = [column.name for column in cursor.description or ()]
    for row in cursor.fetchall():
        found = dict(zip(names, row, strict=True))
        if found["name"] == pooler.database:
            return found
    raise TransferError(
        f"{pooler.describe()}: there is no such entry", "Give it an entry of its own in [databases]; * cannot be paused.", kind="pooler"
    )


def _pause(pooler: Pooler, seconds: float) -> None:
    with closing(_console(pooler)) as conn:
        if int(_row(conn, pooler)["paused"]):
            return
        # The console answers when the last transaction has ended; a client that is gone takes its wish back.
        conn.pgconn.send_query(f"PAUSE {pooler.database}".encode())
        message = _answer(conn, seconds)
    if message is None:
        raise TransferError(
            f"{pooler.describe()} could not be paused within {seconds:.1f} s: transactions go on",
            "In pool_mode session every client must leave first: take this pooler out of poolers, or end long transactions and run again.",
            kind="pooler_busy",
        )
    if message:
        raise TransferError(f"{pooler.describe()} refuses to be paused: {message}", "Use a user of its admin_users.", kind="pooler")


def _answer(conn: psycopg.Connection[Any], seconds: float) -> str | None:
    """What the console says to a command: '' for yes, the error, or None when the time is over."""
    import select

    deadline = time.monotonic() + seconds
    while conn.pgconn.is_busy():
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([conn.pgconn.socket], [], [], left)[0]:
            return None
        conn.pgconn.consume_input()
    message = ""
    while (result := conn.pgconn.get_result()) is not None:
        message = message or result.error_message.decode(errors="replace").strip()
    return message


def _turn(pooler: Pooler, side: str) -> bool:
    changed = False
    if pooler.file is not None:
        text = _text(pooler)
        wanted = pointed(text, pooler, side)
        if wanted != text:
            _replace(pooler.file, wanted)
            changed = True
    else:
        _run(pooler, side)
    with closing(_console(pooler)) as conn:
        if changed or pooler.file is None:
            conn.execute("RELOAD")
        return _resume(conn, pooler) or changed


def _resume(conn: psycopg.Connection[Any], pooler: Pooler) -> bool:
    if not int(_row(conn, pooler)["paused"]):
        return False
    conn.execute(f"RESUME {pooler.database}")
    return True


def _text(pooler: Pooler) -> str:
    try:
        return Path(str(pooler.file)).read_text()
    except OSError as error:
        raise TransferError(
            f"{pooler.file} of {pooler.describe()} cannot be read: {error.strerror}",
            "Name the file with the entry's line on this machine.",
            kind="pooler",
        ) from error


def _replace(path: Path, text: str) -> None:
    """Whole or not at all, owner and mode as before."""
    path = path.resolve()
    was = path.stat()
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            os.fchmod(file.fileno(), was.st_mode & 0o7777)
            if os.geteuid() == 0:
                os.fchown(file.fileno(), was.st_uid, was.st_gid)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


def _run(pooler: Pooler, side: str) -> None:
    done = subprocess.run(
        pooler.command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_COMMAND_SECONDS,
        check=False,
        env={**os.environ, "CUTOVER_SIDE": side},
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-300:]
        raise TransferError(f"{pooler.command[0]} ended with {done.returncode}: {said}", "Mend the command.", kind="pooler")
