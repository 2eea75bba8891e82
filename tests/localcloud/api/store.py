"""All state of the cloud: JSON documents in one SQLite file that survives a restart of the process.

Reads see a snapshot (WAL) and never wait; writes queue up behind one lock, so a handler that checks and then changes is atomic.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Document = dict[str, Any]
SCHEMA = """
CREATE TABLE IF NOT EXISTS counter (id INTEGER PRIMARY KEY CHECK (id = 1), value INTEGER NOT NULL);
INSERT OR IGNORE INTO counter VALUES (1, 1000);
CREATE TABLE IF NOT EXISTS document (kind TEXT NOT NULL, id INTEGER NOT NULL, name TEXT, body TEXT NOT NULL, PRIMARY KEY (kind, id));
CREATE INDEX IF NOT EXISTS document_name ON document (kind, name);
CREATE TABLE IF NOT EXISTS action (id INTEGER PRIMARY KEY, status TEXT NOT NULL, body TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS action_status ON action (status);
CREATE TABLE IF NOT EXISTS action_resource (action INTEGER NOT NULL, type TEXT NOT NULL, id INTEGER NOT NULL, PRIMARY KEY (type, id, action));
"""


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Tx:
    """One transaction. Documents are plain dicts with at least ``id``; change one and ``put`` it back."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self.started: list[Document] = []

    def get(self, kind: str, ident: int) -> Document | None:
        if not 0 < ident < 2**63:  # more than SQLite can hold, so nobody has it
            return None
        row = self._db.execute("SELECT body FROM document WHERE kind = ? AND id = ?", (kind, ident)).fetchone()
        return None if row is None else json.loads(row[0])

    def all(self, kind: str) -> list[Document]:
        rows = self._db.execute("SELECT body FROM document WHERE kind = ? ORDER BY id", (kind,))
        return [json.loads(row[0]) for row in rows]

    def named(self, kind: str, name: str) -> Document | None:
        row = self._db.execute("SELECT body FROM document WHERE kind = ? AND name = ? ORDER BY id LIMIT 1", (kind, name)).fetchone()
        return None if row is None else json.loads(row[0])

    def put(self, kind: str, document: Document) -> None:
        self._db.execute(
            "INSERT INTO document VALUES (?, ?, ?, ?) ON CONFLICT (kind, id) DO UPDATE SET name = excluded.name, body = excluded.body",
            (kind, document["id"], document.get("name"), json.dumps(document)),
        )

    def drop(self, kind: str, ident: int) -> None:
        self._db.execute("DELETE FROM document WHERE kind = ? AND id = ?", (kind, ident))

    def next_id(self) -> int:
        return int(self._db.execute("UPDATE counter SET value = value + 1 RETURNING value").fetchone()[0])

    def start(
        self,
        command: str,
        resources: Iterable[tuple[str, int]],
        *,
        lane: str | None = None,
        args: Document | None = None,
        locks: bool = True,
        after: int | None = None,
        hidden: bool = False,
    ) -> Document:
        """Record a running action; it is handed to the workers when the transaction commits.

        lane: actions of one lane run one after the other (default: the lane of the first resource).
        locks: while it runs, other changes of its resources are refused. after: fails at once if that action failed.
        """
        touched = list(resources)
        action: Document = {
            "id": self.next_id(),
            "command": command,
            "status": "running",
            "started": now(),
            "finished": None,
            "resources": [{"id": ident, "type": kind} for kind, ident in touched],
            "error": None,
            "lane": lane or "{}-{}".format(*touched[0]),
            "args": args or {},
            "locks": locks,
            "after": after,
            "hidden": hidden,
        }
        self._db.execute("INSERT INTO action VALUES (?, 'running', ?)", (action["id"], json.dumps(action)))
        for kind, ident in touched:
            self._db.execute("INSERT OR IGNORE INTO action_resource VALUES (?, ?, ?)", (action["id"], kind, ident))
        self.started.append(action)
        return action

    def finish(self, action: Document, error: Document | None = None) -> None:
        action.update(status="error" if error else "success", finished=now(), error=error)
        self._db.execute("UPDATE action SET status = ?, body = ? WHERE id = ?", (action["status"], json.dumps(action), action["id"]))

    def action(self, ident: int) -> Document | None:
        row = self._db.execute("SELECT body FROM action WHERE id = ?", (ident,)).fetchone()
        return None if row is None else json.loads(row[0])

    def actions_of(self, kind: str, ident: int | None = None) -> list[Document]:
        """Visible actions of one resource, or of all resources of a kind."""
        query = "SELECT DISTINCT a.id, a.body FROM action a JOIN action_resource r ON r.action = a.id WHERE r.type = ?"
        values: tuple[Any, ...] = (kind,)
        if ident is not None:
            query, values = query + " AND r.id = ?", (kind, ident)
        found = [json.loads(row[1]) for row in self._db.execute(query + " ORDER BY a.id", values)]
        return [action for action in found if not action["hidden"]]

    def running(self, kind: str | None = None, ident: int | None = None) -> list[Document]:
        """Running actions (hidden ones too), oldest first, of one resource or of all."""
        if kind is None:
            rows = self._db.execute("SELECT body FROM action WHERE status = 'running' ORDER BY id")
        else:
            rows = self._db.execute(
                "SELECT a.body FROM action_resource r JOIN action a ON a.id = r.action"
                " WHERE r.type = ? AND r.id = ? AND a.status = 'running' ORDER BY a.id",
                (kind, ident),
            )
        return [json.loads(row[0]) for row in rows]

    def is_locked(self, kind: str, ident: int) -> bool:
        return any(action["locks"] for action in self.running(kind, ident))


class Store:
    """``with store.read() as tx`` or ``with store.write() as tx``; ``on_commit`` receives the actions a write has started."""

    def __init__(self, path: Path, on_commit: Callable[[list[Document]], None] = lambda _actions: None) -> None:
        self._path = path
        self._local = threading.local()
        self._writer = threading.Lock()
        self.on_commit = on_commit
        path.parent.mkdir(parents=True, exist_ok=True)
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(SCHEMA)
        connection.close()

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self._path, isolation_level=None, timeout=30)
            connection.execute("PRAGMA synchronous = NORMAL")
            self._local.connection = connection
        return connection

    @contextmanager
    def read(self) -> Iterator[Tx]:
        connection = self._connection()
        connection.execute("BEGIN")
        try:
            yield Tx(connection)
        finally:
            connection.execute("ROLLBACK")

    @contextmanager
    def write(self) -> Iterator[Tx]:
        connection = self._connection()
        with self._writer:
            connection.execute("BEGIN IMMEDIATE")
            tx = Tx(connection)
            try:
                yield tx
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
        if tx.started:
            self.on_commit(tx.started)
