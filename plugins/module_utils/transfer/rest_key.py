# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What an API key tells about itself, and the headers that carry it. Pure."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from datetime import UTC, datetime

from .errors import TransferError

# Roles for which row level security decides what is seen: a copy with their keys would miss rows without an error.
_FILTERED_ROLES = ("anon", "authenticated")


@dataclass(frozen=True)
class ApiKey:
    """A key. kind: secret (``sb_secret_…``, of today's platform), jwt (legacy, or of a PostgREST of one's own) or opaque.

    role: claimed by a jwt, else ''; headers: to send with every request
    """

    kind: str
    role: str
    headers: dict[str, str]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What cannot be known of the rights of this key."""
        if self.kind == "secret" or self.role == "service_role":
            return ()
        whose = f"role {self.role}" if self.role else "this key's role"
        return (f"whether row level security hides rows from {whose} cannot be seen through REST; compare the counts with the owner's",)


def read_key(key: str, now: float) -> ApiKey:
    """The key's kind and headers. now: seconds of the epoch.

    Raises TransferError for a key that sees only what row level security lets through, is expired, or cannot stand in a header.
    """
    if not key.isascii() or not key.isprintable() or " " in key:
        raise TransferError(
            "the key of the REST source has blanks, line ends or letters that no key has",
            "Copy it again, without what stands around it.",
            kind="bad_key",
        )
    if key.startswith("sb_publishable_"):
        raise _filtered("a publishable key")
    if key.startswith("sb_secret_"):
        # Not a JWT: the platform's gateway changes it for one, and rejects it as bearer token.
        return ApiKey("secret", "service_role", {"apikey": key})
    claims = _claims(key)
    headers = {"apikey": key, "Authorization": f"Bearer {key}"}
    if claims is None:
        return ApiKey("opaque", "", headers)
    role = str(claims.get("role") or "")
    if role in _FILTERED_ROLES:
        raise _filtered(f"a key of role {role}")
    expires = claims.get("exp")
    if isinstance(expires, int | float) and expires <= now:
        raise TransferError(
            f"the key of the REST source expired at {datetime.fromtimestamp(expires, UTC):%Y-%m-%d %H:%M:%S} UTC",
            "Take a valid service key.",
            kind="key_expired",
        )
    return ApiKey("jwt", role, headers)


def _filtered(what: str) -> TransferError:
    return TransferError(
        f"rest.key is {what}, which sees only the rows that row level security lets through",
        "Take a secret key (sb_secret_…, Settings > API Keys) or the legacy service_role key.",
        kind="key_filtered",
    )


def _claims(key: str) -> dict[str, object] | None:
    """Claims of a JWT, unverified; None when the key is none."""
    parts = key.split(".")
    if len(parts) != 3:
        return None
    try:
        found = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, binascii.Error):
        return None
    return found if isinstance(found, dict) else None
