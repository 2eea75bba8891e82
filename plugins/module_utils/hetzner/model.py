# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The nouns of the engine: what is declared, what is there, and what would change. Plain data, no behaviour beyond look-ups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """A kind of resource: its name, the topology's list key, its API path (also the key of the list answer), the key of one object."""

    name: str
    section: str
    path: str
    protectable: bool
    actions: bool

    @property
    def url(self) -> str:
        return f"/{self.path}"


# In the order of creation; deletion runs backwards.
KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("ssh_key", "ssh_keys", "ssh_keys", protectable=False, actions=False),
        Kind("placement_group", "placement_groups", "placement_groups", protectable=False, actions=False),
        Kind("firewall", "firewalls", "firewalls", protectable=False, actions=True),
        Kind("network", "networks", "networks", protectable=True, actions=True),
        Kind("zone", "zones", "zones", protectable=True, actions=True),
        Kind("primary_ip", "primary_ips", "primary_ips", protectable=True, actions=True),
        Kind("volume", "volumes", "volumes", protectable=True, actions=True),
        Kind("certificate", "certificates", "certificates", protectable=False, actions=True),
        Kind("server", "servers", "servers", protectable=True, actions=True),
        Kind("floating_ip", "floating_ips", "floating_ips", protectable=True, actions=True),
        Kind("load_balancer", "load_balancers", "load_balancers", protectable=True, actions=True),
    )
}
# Record sets come last: they have no list of their own, but one in each zone.
RANK: dict[str, int] = {name: rank for rank, name in enumerate((*KINDS, "rrset"))}


@dataclass(frozen=True)
class Requirements:
    """What a server must have at least, where it names no type; None: no wish.

    memory and disk in GB; price: the most that the type may cost a month, net, by the list price of the server's location
    """

    cores: int | None = None
    memory: Decimal | None = None
    disk: int | None = None
    dedicated: bool | None = None
    architecture: str | None = None
    price: Decimal | None = None


@dataclass(frozen=True)
class Choice:
    """The type taken for Requirements. type: None where nothing will do, which ``note`` explains.

    how: what a change to it takes, as FieldChange.how; "" where the server is new or stays as it is
    upgrade_disk: whether the server's disk has to grow with it
    """

    type: str | None
    how: str = ""
    note: str = ""
    upgrade_disk: bool = False


@dataclass(frozen=True)
class Resource:
    """One declared resource after validation: ``spec`` in the same fields as Observed.spec, ``refs`` the keys it needs first.

    path: where it is declared ("servers[0]"), for messages
    extra: what is no field of the API's object: user_data, ssh_keys, automount, pinned, a home_location that was really declared; of a server
        without a type requirements (Requirements) and, once the catalogue is known, choice (Choice); of a zone exclusive and its
        primary_nameservers as they are sent; of a record set plain (comment or None by value) and references (the same by Reference), and
        once ``records.resolved`` known and open in place of both
    """

    kind: str
    name: str
    spec: Mapping[str, Any]
    labels: Mapping[str, str]
    refs: tuple[str, ...] = ()
    path: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"{self.kind}.{self.name}"


@dataclass(frozen=True)
class Topology:
    """A whole declaration: resources by key, in the order of creation."""

    stack: str
    resources: Mapping[str, Resource]

    def of(self, kind: str) -> Iterator[Resource]:
        return (resource for resource in self.resources.values() if resource.kind == kind)


@dataclass(frozen=True)
class Observed:
    """One resource of this stack as the API showed it; ``refs`` are the keys of our resources that it uses.

    id: of a record set that of its zone, as it has none of its own
    """

    kind: str
    name: str
    id: int
    key: str
    spec: Mapping[str, Any]
    labels: Mapping[str, str]
    protected: bool
    refs: tuple[str, ...]
    raw: Json


@dataclass(frozen=True)
class Snapshot:
    """What was there at one moment: ours by key, and the SSH keys of others that carry a declared public key.

    duplicates: pairs of ids that carry the same key label (never touched, reported)
    strangers: record sets of another hand in the stack's zones, by key
    """

    resources: Mapping[str, Observed]
    shared_ssh_keys: Mapping[str, Json] = field(default_factory=dict)
    duplicates: tuple[str, ...] = ()
    strangers: Mapping[str, Observed] = field(default_factory=dict)

    def of(self, kind: str) -> Iterator[Observed]:
        return (item for item in self.resources.values() if item.kind == kind)

    def id_of(self, key: str) -> int | None:
        item = self.resources.get(key)
        return item.id if item else None


@dataclass(frozen=True)
class FieldChange:
    """One field that differs. how: "in_place", "power_off", "replace" or "refused"."""

    field: str
    before: Any
    after: Any
    how: str
    note: str = ""


@dataclass(frozen=True)
class Change:
    """One step of a plan. action: "create", "update", "replace" or "delete"."""

    action: str
    kind: str
    name: str
    key: str
    reason: str
    fields: tuple[FieldChange, ...] = ()
    want: Resource | None = None
    have: Observed | None = None

    @property
    def power_off(self) -> bool:
        return any(item.how == "power_off" for item in self.fields)

    def field_names(self) -> set[str]:
        return {item.field for item in self.fields}

    def as_dict(self) -> Json:
        """The shape returned in ``plan[]``."""
        return {
            "action": self.action,
            "resource": self.key,
            "kind": self.kind,
            "name": self.name,
            "id": self.have.id if self.have else None,
            "reason": self.reason,
            "power_off": self.power_off,
            "fields": [
                {"field": item.field, "before": item.before, "after": item.after, "how": item.how, "note": item.note}
                for item in self.fields
            ],
        }
