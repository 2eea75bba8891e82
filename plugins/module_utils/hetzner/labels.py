# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Labels are the only state of a stack: whose a resource is, which declaration made it, and what the API does not remember.

A label's value has at most 63 characters of [A-Za-z0-9._-] and begins and ends with a letter or digit.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from .errors import HetznerError
from .schema import Problems

STACK = "cutover.stack"
KEY = "cutover.key"
GROUPS = "cutover.groups"
USER_DATA = "cutover.user-data"
PLACED_FOR = "cutover.placed-for"
UNFINISHED = "cutover.unfinished"
RETIRED = "cutover.retired"
PREFIX = "cutover."
REQUIREMENTS = "requirements"

_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_DNS = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*")
_GROUP = re.compile(r"[a-z0-9](?:[a-z0-9_]*[a-z0-9])?")
MAXIMUM = 63


def problem_of_label(key: str, value: str) -> str | None:
    """Why the API would refuse this label, or None."""
    prefix, slash, name = key.rpartition("/")
    if not _NAME.fullmatch(name) or (slash and (len(prefix) > 253 or not _DNS.fullmatch(prefix))):
        return f"{key!r} is not a label key: at most {MAXIMUM} of letters, digits, '-', '_', '.', optionally behind a DNS name and '/'"
    if prefix == "hetzner.cloud" or prefix.endswith(".hetzner.cloud"):
        return f"{key!r}: the prefix hetzner.cloud/ is reserved"
    if not _VALUE.fullmatch(value):
        return f"{value!r} is not a label value: at most {MAXIMUM} of letters, digits, '-', '_', '.', a letter or digit at both ends"
    return None


def problem_of_name(kind: str, name: str) -> str | None:
    """Why this name cannot be the identity of a resource, or None."""
    longest = MAXIMUM - len(kind) - 1
    if len(name) > longest or not _NAME.fullmatch(name):
        return f"{name!r} cannot name a {kind}: at most {longest} of letters, digits, '-', '_', '.', a letter or digit at both ends"
    if kind == "server" and not _DNS.fullmatch(name):
        return f"{name!r} cannot name a server: it becomes a host name, so lower-case letters, digits, '-' and '.' only"
    return None


def problem_of_group(name: str) -> str | None:
    """Why this cannot be an Ansible group remembered in a label, or None."""
    if len(name) > MAXIMUM or not _GROUP.fullmatch(name):
        return f"{name!r} is not a group name: at most {MAXIMUM} of lower-case letters, digits and '_', a letter or digit at both ends"
    return None


def identity(stack: str, kind: str, name: str) -> dict[str, str]:
    """The labels that make a resource ours. Record sets and zones of very long names fit into no second one: their names never change."""
    key = f"{kind}.{name}"
    return {STACK: stack} | ({KEY: key} if _VALUE.fullmatch(key) else {})


def declared(
    stack: str, kind: str, name: str, path: str, data: Mapping[str, Any], item: Mapping[str, Any], problems: Problems
) -> dict[str, str]:
    """All labels of a declared resource: the topology's, its own and those that make it ours."""
    own = {**data["labels"], **item["labels"]}
    for key, value in own.items():
        problem = problem_of_label(key, value)
        if key.startswith(PREFIX):
            problem = f"{key!r}: labels that begin with {PREFIX} belong to this collection"
        if problem:
            problems.add(f"{path}.labels", problem)
    return {**own, **identity(stack, kind, name)}


def selector(stack: str) -> str:
    """The API's label selector for everything of a stack."""
    return f"{STACK}={stack}"


def pack_groups(groups: Iterable[str]) -> dict[str, str]:
    """Group names as labels: joined with '.', continued in cutover.groups-2, -3 ... when 63 characters are full."""
    lines: list[str] = []
    for group in sorted(set(groups)):
        if lines and len(lines[-1]) + 1 + len(group) <= MAXIMUM:
            lines[-1] += "." + group
        else:
            lines.append(group)
    return {GROUPS if number == 1 else f"{GROUPS}-{number}": line for number, line in enumerate(lines, 1)}


def unpack_groups(labels: Mapping[str, str]) -> list[str]:
    """The group names that pack_groups put into labels, sorted."""
    found: set[str] = set()
    for key, value in labels.items():
        if key == GROUPS or key.startswith(GROUPS + "-"):
            found.update(group for group in value.split(".") if group)
    return sorted(found)


def user_data_hash(user_data: str) -> str:
    """What is remembered of user data: 40 hexadecimal digits of its SHA-256, or '' for none."""
    return hashlib.sha256(user_data.encode()).hexdigest()[:40] if user_data else ""


def placed_for(server_type: str, location: str) -> str:
    """Remembers what was declared when capacity forced another choice. server_type: REQUIREMENTS for a server that names none."""
    return f"{server_type}.{location}"


def check_stack_name(name: str) -> None:
    """Refuse a stack name that no label can hold."""
    if not name or not _VALUE.fullmatch(name):
        raise HetznerError(
            f"name: {name!r} cannot name a stack",
            f"Use at most {MAXIMUM} letters, digits, '-', '_' or '.', with a letter or digit at both ends.",
            name=name,
        )
