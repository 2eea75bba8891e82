"""The logs against the database, asked directly or through a dump that was made where the database can be reached."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg

from . import log
from .figures import Stored, summary

# By request id and by the id in the comment: a row that is there under another request id is found as well.
STORED = r"""
SELECT coalesce(substring(comment FROM '^load ([0-9a-f-]{36})$'), request_id::text), id, receipt_no
  FROM public.bookings WHERE request_id = ANY (%(ids)s::uuid[]) OR comment = ANY (%(comments)s)
"""
CONFIRMED = "SELECT count(DISTINCT job_id) FROM public.messages WHERE job_id = ANY (%(jobs)s)"


def judge(folder: Path, dsn: str) -> dict[str, object]:
    """The figures of a run. dsn: libpq connection string of a role that sees all rows. Raises LogError, psycopg.Error."""
    attempts, acknowledged, reads = log.read(folder)
    ids = sorted({attempt.id for attempt in attempts})
    known = sorted({entry.id for entry in acknowledged})
    with psycopg.connect(dsn, options="-c statement_timeout=60000 -c row_security=off") as connection:
        rows = connection.execute(STORED, {"ids": ids, "comments": [f"load {key}" for key in ids]}).fetchall()
        confirmed = connection.execute(CONFIRMED, {"jobs": [f"confirm-{key}" for key in known]}).fetchone()
    stored = [Stored(str(key), int(booking), int(receipt)) for key, booking, receipt in rows]
    return summary(attempts, acknowledged, reads, stored, int(confirmed[0]) if confirmed else 0)


def judge_dump(folder: Path, dump: Path) -> dict[str, object]:
    """The figures of a run from ``{"bookings": [[key, id, receipt_no], ...], "jobs": [job_id, ...]}`` as tests/e2e/judge.yml makes it.

    Raises LogError, OSError, ValueError.
    """
    attempts, acknowledged, reads = log.read(folder)
    found = json.loads(dump.read_text())
    stored = [Stored(str(key), int(booking), int(receipt)) for key, booking, receipt in found["bookings"]]
    known = {f"confirm-{entry.id}" for entry in acknowledged}
    return summary(attempts, acknowledged, reads, stored, len(known & set(found["jobs"])))
