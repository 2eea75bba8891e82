# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The shape of a topology as a table, and its check: every key known, every value of its type, defaults filled in.

Problems are collected, each with the path of its key (``servers[1].networks[0].ip``), so that one run names them all.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from .errors import HetznerError


@dataclass(frozen=True)
class Field:
    """One key.

    type: str, int, number (a Decimal), bool, text (str or int), list (of ``item``), map (str to str), names (str, or a map), object (of ``keys``),
        either (text, or an object)
    """

    type: str
    required: bool = False
    default: Any = None
    choices: tuple[str, ...] = ()
    item: Field | None = None
    keys: Mapping[str, Field] | None = None


def _objects(keys: Mapping[str, Field]) -> Field:
    return Field("list", default=(), item=Field("object", keys=keys))


_STRINGS = Field("list", default=(), item=Field("str"))
_NAME = Field("str", required=True)
_LABELS = Field("map", default={})
_NO = Field("bool", default=False)
_YES = Field("bool", default=True)
_MAYBE = Field("bool")  # not declared: left as it is
_NETWORK_ZONES = ("eu-central", "us-east", "us-west", "ap-southeast")

TOPOLOGY: dict[str, Field] = {
    "location": Field("str"),
    "labels": _LABELS,
    "ssh_keys": _objects({"name": _NAME, "public_key": Field("str", required=True), "labels": _LABELS}),
    "networks": _objects(
        {
            "name": _NAME,
            "ip_range": Field("str", required=True),
            "subnets": _objects(
                {
                    "ip_range": Field("str", required=True),
                    "type": Field("str", default="cloud", choices=("cloud",)),
                    "network_zone": Field("str", default="eu-central", choices=_NETWORK_ZONES),
                }
            ),
            "routes": _objects({"destination": Field("str", required=True), "gateway": Field("str", required=True)}),
            "labels": _LABELS,
            "protection": _MAYBE,
        }
    ),
    "firewalls": _objects(
        {
            "name": _NAME,
            "rules": _objects(
                {
                    "direction": Field("str", default="in", choices=("in", "out")),
                    "protocol": Field("str", required=True, choices=("tcp", "udp", "icmp", "esp", "gre")),
                    "port": Field("text"),
                    "source_ips": _STRINGS,
                    "destination_ips": _STRINGS,
                    "description": Field("str", default=""),
                }
            ),
            "labels": _LABELS,
        }
    ),
    "placement_groups": _objects({"name": _NAME, "type": Field("str", default="spread", choices=("spread",)), "labels": _LABELS}),
    "primary_ips": _objects(
        {
            "name": _NAME,
            "type": Field("str", default="ipv4", choices=("ipv4", "ipv6")),
            "location": Field("str"),
            "server": Field("str"),
            "labels": _LABELS,
            "protection": _MAYBE,
            "dns_ptr": Field("names"),
        }
    ),
    "floating_ips": _objects(
        {
            "name": _NAME,
            "type": Field("str", default="ipv4", choices=("ipv4", "ipv6")),
            "home_location": Field("str"),
            "server": Field("str"),
            "description": Field("str"),
            "labels": _LABELS,
            "protection": _MAYBE,
            "dns_ptr": Field("names"),
        }
    ),
    "volumes": _objects(
        {
            "name": _NAME,
            "size": Field("int", required=True),
            "format": Field("str", choices=("ext4", "xfs")),
            "location": Field("str"),
            "server": Field("str"),
            "automount": _NO,
            "labels": _LABELS,
            "protection": _MAYBE,
        }
    ),
    "servers": _objects(
        {
            "name": _NAME,
            "type": Field("str"),
            "requirements": Field(
                "object",
                keys={
                    "cores": Field("int"),
                    "memory": Field("number"),
                    "disk": Field("int"),
                    "dedicated": _MAYBE,
                    "architecture": Field("str", choices=("x86", "arm")),
                    "price": Field("number"),
                },
            ),
            "image": Field("text", required=True),
            "location": Field("str"),
            "count": Field("int"),
            "networks": _objects({"name": _NAME, "ip": Field("str")}),
            "firewalls": _STRINGS,
            "placement_group": Field("str"),
            "ssh_keys": _STRINGS,
            "labels": _LABELS,
            "user_data": Field("str", default=""),
            "public_ipv4": _YES,
            "public_ipv6": _YES,
            "backups": _NO,
            "protection": _MAYBE,
            "groups": _STRINGS,
        }
    ),
}


def suggest(word: str, known: Any) -> str:
    """'; did you mean 'x'' or '; known: a, b' for a word that is none of the known ones."""
    names = [str(item) for item in known]
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}"
    return f"; known: {', '.join(names)}" if names else "; none is declared"


class Problems:
    """Collects problems by path and raises them all at once."""

    def __init__(self) -> None:
        self.found: list[dict[str, str]] = []

    def add(self, path: str, problem: str) -> None:
        """Once is enough: servers that are declared together have their problems in common."""
        if {"path": path, "problem": problem} not in self.found:
            self.found.append({"path": path, "problem": problem})

    def raise_if_any(self, what: str, remedy: str) -> None:
        """Raise HetznerError with ``details.problems[]{path, problem}`` if anything was found."""
        if not self.found:
            return
        shown = "; ".join(f"{item['path']}: {item['problem']}" for item in self.found[:8])
        more = f"; and {len(self.found) - 8} more" if len(self.found) > 8 else ""
        raise HetznerError(f"{what}: {shown}{more}", remedy, problems=self.found)


def check_object(value: Any, keys: Mapping[str, Field], path: str, problems: Problems) -> dict[str, Any]:
    """A copy of ``value`` with every key of the table present; what does not fit is added to ``problems``."""
    if not isinstance(value, Mapping):
        problems.add(path or "topology", f"a mapping is expected, found {type(value).__name__}")
        return {}
    for key in value:
        if key not in keys:
            problems.add(_join(path, str(key)), f"unknown key{suggest(str(key), keys)}")
    result: dict[str, Any] = {}
    for key, field in keys.items():
        here = _join(path, key)
        if value.get(key) is None:
            if field.required:
                problems.add(here, "is required")
            result[key] = [] if field.type == "list" else dict(field.default) if field.type == "map" else field.default
        else:
            result[key] = _check(value[key], field, here, problems)
    return result


def _check(value: Any, field: Field, path: str, problems: Problems) -> Any:
    if field.type == "object" or (field.type == "either" and isinstance(value, Mapping)):
        return check_object(value, field.keys or {}, path, problems)
    if field.type == "list":
        if not isinstance(value, (list, tuple)):
            problems.add(path, f"a list is expected, found {type(value).__name__} {value!r}")
            return []
        item = field.item or Field("str")
        return [_check(one, item, f"{path}[{index}]", problems) for index, one in enumerate(value)]
    if field.type == "names" and isinstance(value, Mapping):
        return _check_names(value, path, problems)
    if field.type == "map":
        return _check_map(value, path, problems)
    if field.type == "bool":
        return _check_bool(value, path, problems)
    if field.type == "int":
        return _check_int(value, path, problems)
    if field.type == "number":
        return _check_number(value, path, problems)
    if isinstance(value, bool) or not isinstance(value, (str, int) if field.type in ("text", "either") else str):
        problems.add(path, f"text is expected, found {type(value).__name__} {value!r}")
        return ""
    text = str(value)
    if field.choices and text not in field.choices:
        problems.add(path, f"{text!r} is not one of {', '.join(field.choices)}")
    return text


def _check_map(value: Any, path: str, problems: Problems) -> dict[str, str]:
    if not isinstance(value, Mapping):
        problems.add(path, f"a mapping is expected, found {type(value).__name__} {value!r}")
        return {}
    for key, one in value.items():
        if isinstance(one, (Mapping, list, tuple)):
            problems.add(_join(path, str(key)), f"text is expected, found {type(one).__name__}")
    return {str(key): "" if one is None else str(one).lower() if isinstance(one, bool) else str(one) for key, one in value.items()}


def _check_names(value: Mapping[Any, Any], path: str, problems: Problems) -> dict[str, str]:
    for key, one in value.items():
        if one is not None and not isinstance(one, str):
            problems.add(_join(path, str(key)), f"text is expected, found {type(one).__name__} {one!r}")
    return {str(key): one if isinstance(one, str) else "" for key, one in value.items()}


def _check_bool(value: Any, path: str, problems: Problems) -> bool:
    # A template in a playbook hands over "True" and "yes" as text.
    if isinstance(value, str) and value.lower() in ("true", "yes", "on", "1", "false", "no", "off", "0"):
        return value.lower() in ("true", "yes", "on", "1")
    if not isinstance(value, bool):
        problems.add(path, f"true or false is expected, found {value!r}")
        return False
    return value


def _check_int(value: Any, path: str, problems: Problems) -> int:
    if isinstance(value, str) and value.strip().isdigit():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        problems.add(path, f"a whole number is expected, found {value!r}")
        return 0
    return value


def _check_number(value: Any, path: str, problems: Problems) -> Decimal:
    try:
        number = Decimal(str(value)) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else None
    except ArithmeticError:
        number = None
    # Amounts and sizes beyond this are slips, and too long to be told.
    if number is None or not number.is_finite() or abs(number.adjusted()) > 12:
        problems.add(path, f"a number is expected, found {value!r}")
        return Decimal(0)
    return number


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
