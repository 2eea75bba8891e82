# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a preflight can find: one rule for each trap. ``docs/preflight.md`` says for every rule what it means and what mends it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

ERROR = "error"
WARNING = "warning"
INFO = "info"
ORDER = {ERROR: 0, WARNING: 1, INFO: 2}
LISTED = 10

# Rule to the severities that it may have, the usual one first.
RULES: dict[str, tuple[str, ...]] = {
    # the way to the server
    "connection": (ERROR,),
    "ipv6-only": (ERROR,),
    "pooler-transaction": (ERROR,),
    "pooler-session": (WARNING,),
    "workers": (ERROR,),
    "connections": (ERROR,),
    "tls-off": (WARNING,),
    "tls-unverified": (INFO,),
    "login-role": (WARNING,),
    # what is declared
    "selection": (ERROR,),
    "rename": (ERROR,),
    "rename-text": (WARNING,),
    "name-taken": (ERROR,),
    # what our role may do
    "database-create": (ERROR,),
    "schema-usage": (ERROR,),
    "table-select": (ERROR,),
    "rls": (ERROR,),
    "table-trigger": (ERROR,),
    "table-lock": (ERROR,),
    "table-owner": (WARNING,),
    "sequence-select": (ERROR,),
    "large-object-select": (ERROR,),
    "replica-role": (ERROR, WARNING),
    "role-rights": (ERROR, WARNING),
    "activity-hidden": (INFO,),
    # the server and what runs on it
    "standby": (ERROR,),
    "read-only": (ERROR,),
    "settings-timeout": (INFO,),
    "settings-render": (INFO,),
    "long-transaction": (WARNING,),
    "idle-in-transaction": (WARNING,),
    "prepared-transaction": (ERROR, WARNING),
    "xid-age": (WARNING, ERROR),
    "multixact-age": (WARNING, ERROR),
    "collation-version": (WARNING,),
    # the stream
    "wal-level": (INFO,),
    "replication-right": (INFO,),
    "slots-free": (WARNING,),
    "senders-free": (WARNING,),
    "slot-existing": (WARNING, INFO),
    "slot-keep-size": (WARNING,),
    "sender-timeout": (WARNING,),
    "output-plugin": (WARNING,),
    "replica-identity": (WARNING,),
    "published-without-identity": (WARNING,),
    # the shape of tables
    "key-missing": (WARNING,),
    "key-nullable": (WARNING,),
    "key-json": (INFO,),
    "key-text": (INFO,),
    "unlogged": (WARNING,),
    "foreign-table": (WARNING,),
    "matview": (INFO,),
    "inheritance": (INFO,),
    "partition-hash": (INFO,),
    "generated": (INFO,),
    "type-oid": (WARNING,),
    "type-money": (INFO,),
    "columns-many": (INFO,),
    "value-large": (WARNING, INFO),
    "triggers-fire": (WARNING,),
    "not-valid": (WARNING, INFO),
    "fk-switched-off": (WARNING,),
    "index-invalid": (WARNING,),
    "sequence-end": (WARNING,),
    "large-objects": (WARNING,),
    # what acts by itself
    "event-trigger": (WARNING, INFO),
    "publication": (INFO,),
    "subscription": (WARNING,),
    "cron-jobs": (WARNING,),
    "webhooks": (WARNING,),
    "vault": (WARNING,),
    "column-keys": (WARNING,),
    "supabase-logins": (INFO,),
    # the target
    "version-older": (ERROR,),
    "version-unsupported": (ERROR,),
    "client-programs": (ERROR,),
    "encoding": (ERROR,),
    "collation": (WARNING,),
    "collation-missing": (ERROR,),
    "extension-map": (ERROR,),
    "extension-missing": (ERROR, WARNING),
    "extension-version": (INFO,),
    "target-rows": (ERROR,),
    "target-large-objects": (ERROR,),
    "target-triggers": (WARNING,),
    "target-rls": (ERROR,),
    "column-missing": (ERROR, INFO),
    "column-required": (ERROR,),
    "role-missing": (INFO,),
    "synchronous": (ERROR, INFO),
    "checksums": (INFO,),
    "load-settings": (INFO,),
    "disk": (ERROR, INFO),
}


@dataclass(frozen=True)
class Finding:
    """severity: error (the move would fail or lose something), warning (it needs a decision), info; fix: a statement or a sentence.

    rule: the key in RULES
    """

    severity: str
    object: str
    problem: str
    fix: str
    rule: str


def finding(rule: str, name: str, problem: str, fix: str, severity: str | None = None) -> Finding:
    """A finding of a rule about the object ``name``, with the rule's usual severity unless another of its own is given."""
    allowed = RULES[rule]
    if severity is not None and severity not in allowed:
        raise ValueError(f"rule {rule} has no severity {severity}")
    return Finding(severity or allowed[0], name, problem, fix, rule)


def listed(names: Iterable[str], most: int = LISTED) -> str:
    """Names for a sentence: the first of them, and how many more there are."""
    known = list(names)
    more = f" and {len(known) - most} more" if len(known) > most else ""
    return ", ".join(known[:most]) + more


def ordered(found: Iterable[Finding]) -> tuple[Finding, ...]:
    """Each once, worst first, then by object and rule."""
    return tuple(sorted(dict.fromkeys(found), key=lambda one: (ORDER[one.severity], one.object, one.rule, one.problem)))
