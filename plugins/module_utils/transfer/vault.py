# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Secrets of Supabase's vault: made again on the target by the documented functions, or counted. Ciphertext never moves, plaintext never shows.

The extension keeps ``vault.secrets`` encrypted under a key of its server. ``vault.decrypted_secrets`` shows the plaintext to those who may
read it, ``vault.create_secret(secret, name, description)`` encrypts under the target's own key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .schema_deferred import readable

if TYPE_CHECKING:
    import psycopg

MODES = ("report", "recreate")


@dataclass(frozen=True)
class Outcome:
    """found: secrets on the source, None when they cannot be counted; moved: made now; present: there already with the same plaintext.

    not_moved: (name, reason); a secret without a name is called by its number
    """

    found: int | None = 0
    moved: tuple[str, ...] = ()
    present: int = 0
    not_moved: tuple[tuple[str, str], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For a module's result."""
        return {
            "found": self.found,
            "moved": list(self.moved),
            "present": self.present,
            "not_moved": [{"secret": name, "reason": reason} for name, reason in self.not_moved],
        }


@dataclass(frozen=True)
class _Secret:
    number: str
    name: str | None
    description: str | None
    text: str | None

    @property
    def called(self) -> str:
        return self.name or self.number


def transfer(src: psycopg.Connection[Any], dst: psycopg.Connection[Any], mode: str, check: bool) -> Outcome:
    """Make the secrets that the target lacks, when the mode is recreate; else, and where it cannot be done, count them."""
    if not _has(src, "secrets"):
        return Outcome()
    if not readable(src, "vault", "decrypted_secrets"):
        if not readable(src, "vault", "secrets"):
            return Outcome(None, (), 0, (("vault.secrets", "our role may not read it on the source, so how many there are is not known"),))
        names = [number for (number,) in src.execute("SELECT coalesce(name, id::text) FROM vault.secrets ORDER BY 1").fetchall()]
        return Outcome(len(names), (), 0, tuple((name, "our role may not read vault.decrypted_secrets on the source") for name in names))
    ours = _secrets(src)
    if mode != "recreate":
        return Outcome(
            len(ours), (), 0, tuple((one.called, "vault is report; make it on the target with vault.create_secret") for one in ours)
        )
    reason = _hindrance(dst)
    if reason:
        return Outcome(len(ours), (), 0, tuple((one.called, reason) for one in ours))
    there = _secrets(dst)
    named = {one.name: one.text for one in there if one.name}
    unnamed = {(one.description or "", one.text) for one in there if not one.name}
    todo: list[_Secret] = []
    present, refused = 0, []
    for one in ours:
        if one.text is None:
            refused.append((one.called, "the source cannot decrypt it"))
        elif one.name in named or (not one.name and (one.description or "", one.text) in unnamed):
            if one.name and named[one.name] != one.text:
                refused.append((one.called, "the target has another secret of this name; it was left alone"))
            else:
                present += 1
        else:
            todo.append(one)
    if not check and todo:
        _create(dst, todo)
        refused += _unreadable(dst, todo)
    lost = {name for name, _reason in refused}
    return Outcome(len(ours), tuple(one.called for one in todo if one.called not in lost), present, tuple(refused))


def _create(dst: psycopg.Connection[Any], todo: list[_Secret]) -> None:
    with dst.transaction():
        _quiet(dst)
        for one in todo:
            dst.execute("SELECT vault.create_secret(%s::text, %s::text, %s::text)", (one.text, one.name, one.description or ""))


def _unreadable(dst: psycopg.Connection[Any], todo: list[_Secret]) -> list[tuple[str, str]]:
    """Those that the target does not give back as they were."""
    have = {(one.name, one.text) for one in _secrets(dst)}
    return [(one.called, "the target does not give the same plaintext back") for one in todo if (one.name, one.text) not in have]


def _secrets(conn: psycopg.Connection[Any]) -> list[_Secret]:
    rows = conn.execute(
        "SELECT id::text, nullif(name, ''), description, decrypted_secret FROM vault.decrypted_secrets ORDER BY created_at, id"
    ).fetchall()
    return [_Secret(*row) for row in rows]


def _hindrance(dst: psycopg.Connection[Any]) -> str:
    """Why nothing can be made on the target, or ''."""
    row = dst.execute(
        "SELECT count(*) > 0, coalesce(bool_or(has_function_privilege(p.oid, 'EXECUTE')), false) FROM pg_proc p"
        " JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'vault' AND p.proname = 'create_secret'"
    ).fetchone()
    if not row or not row[0]:
        return "the target has no vault.create_secret (extension supabase_vault)"
    if not row[1] or not readable(dst, "vault", "decrypted_secrets"):
        return "our role may not use vault.create_secret and vault.decrypted_secrets on the target"
    if not _superuser(dst):
        logs = dst.execute(
            "SELECT current_setting('log_statement') = 'all' OR current_setting('log_min_duration_statement') <> '-1'"
            " OR current_setting('log_min_duration_sample') <> '-1'"
        ).fetchone()
        if logs and logs[0]:
            return "the target's log would hold the plaintext, and our role may not switch that off"
    return ""


def _quiet(conn: psycopg.Connection[Any]) -> None:
    """Keep plaintext out of the server's log for this transaction, where our role may."""
    if _superuser(conn):
        for setting, value in (
            ("log_statement", "none"),
            ("log_min_duration_statement", "-1"),
            ("log_min_duration_sample", "-1"),
            ("log_parameter_max_length_on_error", "0"),
        ):
            conn.execute(f"SET LOCAL {setting} = '{value}'")


def _superuser(conn: psycopg.Connection[Any]) -> bool:
    return conn.execute("SELECT current_setting('is_superuser')").fetchone() == ("on",)


def _has(conn: psycopg.Connection[Any], table: str) -> bool:
    row = conn.execute("SELECT to_regclass('vault.' || %s) IS NOT NULL", (table,)).fetchone()
    return bool(row and row[0])
