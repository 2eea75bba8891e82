# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What of a failed task may be written down: why it failed, without what nobody else should know. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

LONGEST = 600
HIDDEN = "***"
UNTOLD = "the task hides its result (no_log)"

# Ansible masks the values of secret parameters itself; these are the shapes that secrets have in texts of other programs.
_NAMES = "password|passwd|pwd|secret|token|api[_-]?key|access[_-]?key|private[_-]?key"
_SECRETS = (
    re.compile(r"(?P<keep>\b[a-z][a-z0-9+.-]*://[^\s:/@]*:)[^\s/]+(?=@)", re.IGNORECASE),
    re.compile(r"(?P<keep>\b(?:proxy-)?authorization\s*[:=]\s*['\"]?(?:(?:bearer|basic)\s+)?)[^\s'\",;]+", re.IGNORECASE),
    re.compile(r"(?P<keep>\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{12,}", re.IGNORECASE),
    re.compile(rf"(?P<keep>[\w.-]*(?:{_NAMES})['\"]?\s*[:=]\s*)(?:'[^']*'|\"[^\"]*\"|[^\s,;&]+)", re.IGNORECASE),
    re.compile(r"(?P<keep>)\beyJ[\w-]+\.[\w-]+\.[\w-]*"),
    re.compile(r"(?P<keep>)\bsb_secret_\w+"),
    re.compile(r"(?P<keep>)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)", re.DOTALL),
)


@dataclass(frozen=True)
class Failure:
    """A task that failed on a host, with the phase it belonged to."""

    phase: str
    task: str
    host: str
    message: str


def clean(text: str) -> str:
    """One line without secrets, at most :data:`LONGEST` characters."""
    for pattern in _SECRETS:
        text = pattern.sub(lambda found: f"{found['keep']}{HIDDEN}", text)
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def message_of(result: Mapping[str, Any], no_log: bool) -> str:
    """Why a task failed, from its result: the message, for a loop that of the first item that failed. Never output or arguments."""
    if no_log or result.get("_ansible_no_log") or "censored" in result:
        return UNTOLD
    items = result.get("results")
    if isinstance(items, list):
        broken = (one for one in items if isinstance(one, Mapping) and (one.get("failed") or one.get("unreachable")))
        found = next(broken, None)
        if found is not None:
            return message_of(found, no_log)
    return clean(str(result.get("msg") or "no reason given"))


def decisive(failures: Iterable[Failure], hosts: Iterable[str], phase: str) -> Failure | None:
    """The failure that ended a phase: of those hosts that did not recover, what each ended with, the earliest of them.

    failures: in order of time, rescued ones among them; hosts: those that a run counts as failed or unreachable
    """
    last: dict[str, tuple[int, Failure]] = {}
    for place, failure in enumerate(failures):
        if failure.phase == phase:
            last[failure.host] = place, failure
    found = [last[host] for host in hosts if host in last]
    return min(found, key=lambda entry: entry[0])[1] if found else None
