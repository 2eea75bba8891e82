# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The meaning of an answer of PostgREST, or of the gateway before it, that is no success. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime

_PAUSED = 540
# Gateways that found nobody behind them, or gave up waiting.
_SLOW = (504, 524)
# SQLSTATE of a query that a smaller page may avoid: cancelled by statement_timeout, out of memory, value too large.
_HEAVY = ("57014", "53200", "54000")


@dataclass(frozen=True)
class Refusal:
    """kind: one word for machines; again: asking once more may help; wait: seconds the server asks for; too_big: a smaller page may help."""

    kind: str
    message: str
    remedy: str
    again: bool = False
    wait: float | None = None
    too_big: bool = False
    status: int = 0


def retry_after(text: str | None, now: float) -> float | None:
    """Seconds to wait, of a Retry-After header in either form. now: seconds of the epoch."""
    if not text:
        return None
    if text.strip().isdigit():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, moment.timestamp() - now)


def refusal(status: int, body: bytes, key_kind: str, wait: float | None) -> Refusal:
    """Meaning of a status that is no success. key_kind: as in rest_key; wait: what Retry-After said."""
    code, text = _said(body)
    said = f"status {status}" + (f": {text}" if text else "")
    if status == 401:
        return _unauthorized(code, text, said, key_kind)
    if status == 403:
        return Refusal(
            "privilege",
            f"{said}; the key may not read this",
            "Run in the source's SQL editor: GRANT SELECT ON the table and GRANT USAGE ON its schema TO service_role; or exclude the table.",
            status=status,
        )
    if status == 404:
        return Refusal("not_found", said, "Check rest.url; a table that is gone or new needs NOTIFY pgrst, 'reload schema'.", status=status)
    if status == 406:
        return Refusal("not_exposed", said, "Add the schema to the exposed schemas of the source's API settings.", status=status)
    if status == 416:
        return Refusal(
            "range", f"{said}; rows vanished while they were read", "Run again; stop writes to the table meanwhile.", status=status
        )
    if status in (414, 431):
        return Refusal(
            "too_wide",
            f"{said}; the table has too many columns for one request",
            "Move this table over a direct connection.",
            status=status,
        )
    if status == 429:
        return Refusal(
            "rate_limited",
            f"{said}; too many requests",
            "Use fewer workers, or run at a quieter time.",
            again=True,
            wait=wait,
            status=status,
        )
    if status == _PAUSED:
        return Refusal("paused", f"{said}; the project is paused", "Resume it in the dashboard, then run again.", status=status)
    if 300 <= status < 400:
        return Refusal(
            "redirect", f"{said}; a redirect, which is not followed with a key", "Give the final address as rest.url.", status=status
        )
    heavy = code in _HEAVY or (code == "XX000" and "memory" in text)
    if status >= 500:
        remedy = "See the source's logs, then run again; what is done stays."
        if code == "57014":
            remedy = "Raise statement_timeout of the API's role, or exclude the table; what is done stays."
        return Refusal("server_error", said, remedy, again=not heavy, wait=wait, too_big=heavy or status in _SLOW, status=status)
    return Refusal("bad_request", said, "Correct what the message names.", status=status)


def _unauthorized(code: str, text: str, said: str, key_kind: str) -> Refusal:
    lowered = text.lower()
    if "legacy api keys" in lowered:
        return Refusal(
            "legacy_keys_disabled",
            f"{said}; the project's legacy anon and service_role keys are switched off",
            "Use a secret key (sb_secret_…) from Settings > API Keys.",
            status=401,
        )
    if "expired" in lowered:
        return Refusal("key_expired", f"{said}; the key has expired", "Take a valid service key.", status=401)
    if code == "42501":
        return Refusal("privilege", f"{said}; the key may not read this", "Use a service key, or grant SELECT to its role.", status=401)
    if key_kind == "secret" and not text:
        return Refusal(
            "key_refused",
            f"{said}; the secret key is not accepted",
            "Check that it is of this project and not revoked; secret keys are refused to anything that looks like a browser.",
            status=401,
        )
    return Refusal(
        "key_refused", f"{said}; the key is not accepted", "Check that the key belongs to this address and is not revoked.", status=401
    )


def _said(body: bytes) -> tuple[str, str]:
    """(code, text) of an error's body; texts of gateways are shortened to their first line."""
    try:
        found = json.loads(body)
    except ValueError:
        first = body[:300].decode(errors="replace").strip().splitlines()
        return "", first[0] if first and "<" not in first[0] else ""
    if not isinstance(found, dict):
        return "", ""
    parts = [str(found[name]) for name in ("message", "msg", "error", "details", "hint") if found.get(name)]
    return str(found.get("code") or ""), "; ".join(parts)[:600]
