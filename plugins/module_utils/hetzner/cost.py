# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a stack costs a month, before and after a plan, by the account's own list prices. Pure, in Decimal.

Traffic is not counted. Billing is hourly up to these monthly amounts, also for servers that are powered off.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from .catalogue import Catalogue, server_type
from .errors import HetznerError
from .model import Change, Json, Observed, Snapshot
from .observe import REPRICED

Money = tuple[Decimal, Decimal]
ZERO: Money = (Decimal(0), Decimal(0))


@dataclass(frozen=True)
class Item:
    """One position of a resource: amounts are (net, gross) a month for ``quantity`` units."""

    resource: str
    item: str
    quantity: Decimal
    unit: str
    amount: Money
    note: str = ""


@dataclass(frozen=True)
class Cost:
    """Both sums and the positions: (before or None, after or None) each."""

    currency: str
    before: Money
    after: Money
    pairs: tuple[tuple[Item | None, Item | None], ...]

    def as_dict(self) -> Json:
        """The shape returned in ``cost``: amounts are net, numbers with at most 4 decimals."""
        return {
            "before": _number(self.before[0]),
            "after": _number(self.after[0]),
            "before_gross": _number(self.before[1]),
            "after_gross": _number(self.after[1]),
            "currency": self.currency,
            "lines": [_line(before, after) for before, after in self.pairs],
        }


def _number(amount: Decimal) -> float:
    return float(round(amount, 4))


def _line(before: Item | None, after: Item | None) -> Json:
    item = after or before
    if item is None:
        raise ValueError("a pair without a position")
    return {
        "resource": item.resource,
        "item": item.item,
        "quantity": float(item.quantity),
        "unit": item.unit,
        "before": _number(before.amount[0]) if before else 0.0,
        "after": _number(after.amount[0]) if after else 0.0,
        "note": (before.note if before else "") or item.note,
    }


def estimate(changes: Iterable[Change], found: Snapshot, catalogue: Catalogue) -> Cost:
    """The cost of what is there, and of what will be there when the plan is done."""
    by_key = {change.key: change for change in changes}
    before = [item for observed in found.resources.values() for item in _of_observed(observed, catalogue)]
    after: list[Item] = []
    for key, observed in found.resources.items():
        change = by_key.pop(key, None)
        if change is None:
            after += _of_observed(observed, catalogue)
        elif change.want is not None:
            embedded = observed.raw.get("server_type") if change.action == "update" and "type" not in change.field_names() else None
            after += _of_spec(key, _merged(change), catalogue, embedded)
    for key, change in by_key.items():
        if change.want is not None:
            after += _of_spec(key, change.want.spec, catalogue)
    return Cost(catalogue.currency, total(before), total(after), tuple(_pair(before, after)))


def _merged(change: Change) -> Mapping[str, Any]:
    """The declared fields, but the type and place a fallback chose where those stand. What is made anew is tried as declared first."""
    want = change.want.spec if change.want else {}
    have = change.have.spec if change.have and change.action == "update" else {}
    changed = change.field_names()
    return {**want, **{name: have[name] for name in ("type", "location", "home_location") if name in have and name not in changed}}


def total(items: Iterable[Item]) -> Money:
    net, gross = ZERO
    for item in items:
        net, gross = net + item.amount[0], gross + item.amount[1]
    return net, gross


def _pair(before: Sequence[Item], after: Sequence[Item]) -> list[tuple[Item | None, Item | None]]:
    """Positions of the same resource side by side; a server's type is one position even if it changes."""
    new = {(item.resource, _class(item)): item for item in after}
    pairs: list[tuple[Item | None, Item | None]] = []
    for item in before:
        pairs.append((item, new.pop((item.resource, _class(item)), None)))
    return pairs + [(None, item) for item in new.values()]


def _class(item: Item) -> str:
    return item.item.split(" ")[0]


def _of_observed(observed: Observed, catalogue: Catalogue) -> list[Item]:
    old = observed.kind == "server" and str(observed.raw.get("created", "9999")) < REPRICED
    note = "list price; ordered before June 2026 and possibly billed at less" if old else ""
    embedded = observed.raw.get("server_type") if observed.kind == "server" else None
    return _of_spec(observed.key, observed.spec, catalogue, embedded, note)


def _of_spec(key: str, spec: Mapping[str, Any], catalogue: Catalogue, embedded: Json | None = None, note: str = "") -> list[Item]:
    kind = key.partition(".")[0]
    if kind == "server":
        return _server(key, spec, catalogue, embedded, note)
    if kind == "primary_ip":
        price = ip_price(catalogue, spec["type"], spec["location"])
        return [Item(key, f"primary {spec['type']}", Decimal(1), "address", price)] if price != ZERO else []
    if kind == "floating_ip":
        price = ip_price(catalogue, spec["type"], spec["home_location"], "floating_ips")
        note = "the API names no price for it" if price == ZERO else ""
        return [Item(key, f"floating {spec['type']}", Decimal(1), "address", price, note)]
    if kind == "load_balancer":
        return [_balancer(key, spec, catalogue)]
    if kind == "volume":
        each = _money(catalogue.pricing["volume"]["price_per_gb_month"])
        size = Decimal(spec["size"])
        return [Item(key, "volume", size, "GB", (each[0] * size, each[1] * size))]
    return []


def _balancer(key: str, spec: Mapping[str, Any], catalogue: Catalogue) -> Item:
    """Where only a zone is declared, at the price of its first location."""
    zone = [place for place, name in catalogue.zones.items() if name == spec["network_zone"]]
    location = spec["location"] or next(iter(zone), "")
    prices = {entry["name"]: entry["prices"] for entry in catalogue.pricing.get("load_balancer_types", [])}.get(spec["type"], [])
    price = next((_money(one["price_monthly"]) for one in prices if one["location"] == location), ZERO)
    note = "the API names no price for it" if price == ZERO else ""
    return Item(key, f"load balancer {spec['type']} in {location}", Decimal(1), "load balancer", price, note)


def _server(key: str, spec: Mapping[str, Any], catalogue: Catalogue, embedded: Json | None, note: str) -> list[Item]:
    if embedded is None:
        price = server_price(catalogue, spec["type"], spec["location"])
    else:
        known = list_price(catalogue, spec["type"], spec["location"], embedded)
        price, note = (known, note) if known else (ZERO, "the API names no price for it")
    items = [Item(key, f"server {spec['type']} in {spec['location']}", Decimal(1), "server", price, note)]
    if spec["backups"]:
        share = Decimal(catalogue.pricing["server_backup"]["percentage"]) / 100
        items.append(Item(key, "backups", Decimal(1), "server", (price[0] * share, price[1] * share)))
    # A primary IP of the stack has a line of its own; True is the address that comes with the server.
    if spec["public_ipv4"] is True:
        items.append(Item(key, "ipv4", Decimal(1), "address", ip_price(catalogue, "ipv4", spec["location"])))
    return items


def list_price(catalogue: Catalogue, name: str, location: str, embedded: Json | None = None) -> Money | None:
    """Net and gross a month. A retired type's price is only known from the server that still has it (``embedded``)."""
    known = catalogue.types.get(name) or (server_type(embedded) if embedded and embedded["name"] == name else None)
    return known.prices.get(location) if known else None


def server_price(catalogue: Catalogue, name: str, location: str) -> Money:
    """The list price of what is to be ordered; raises HetznerError where there is none: a budget could not be kept."""
    price = list_price(catalogue, name, location)
    if price is None:
        raise HetznerError(
            f"The API names no price for server type {name!r} in {location!r}",
            "Choose a type and location that hetzner_stack_info lists with a price.",
            server_type=name,
            location=location,
        )
    return price


def ip_price(catalogue: Catalogue, kind: str, location: str, section: str = "primary_ips") -> Money:
    """Net and gross a month of a primary IP, or with section "floating_ips" of a floating one; zero where none is listed."""
    for entry in catalogue.pricing.get(section, []):
        if entry["type"] == kind:
            for price in entry["prices"]:
                if price["location"] == location:
                    return _money(price["price_monthly"])
    return ZERO


def _money(price: Mapping[str, str]) -> Money:
    return Decimal(price["net"]), Decimal(price["gross"])


@dataclass(frozen=True)
class Budget:
    """The most a month may cost (net, or gross with include_vat), in a currency, and what to do beyond it: "fail" or "warn"."""

    monthly_max: Decimal
    currency: str
    on_exceed: str = "fail"
    include_vat: bool = False

    def amount(self, money: Money) -> Decimal:
        return money[1] if self.include_vat else money[0]


def check_budget(cost: Cost, budget: Budget | None) -> list[str]:
    """Warnings; raises HetznerError with ``details.lines[]`` when the budget is exceeded and on_exceed is "fail"."""
    if budget is None:
        return []
    if budget.currency != cost.currency:
        raise HetznerError(
            f"budget.currency is {budget.currency}, but this account is billed in {cost.currency}: the amounts cannot be compared",
            f"Give budget.monthly_max in {cost.currency} and set budget.currency: {cost.currency}. Nothing was changed.",
            currency=cost.currency,
        )
    after = budget.amount(cost.after)
    if after <= budget.monthly_max:
        return []
    told = (
        f"The stack would cost {after:.2f} {cost.currency} a month, budget.monthly_max is {budget.monthly_max:.2f} "
        f"({after - budget.monthly_max:.2f} too much; it costs {budget.amount(cost.before):.2f} now)"
    )
    if budget.on_exceed == "warn":
        return [told]
    raise HetznerError(
        told,
        "Make the topology smaller or raise budget.monthly_max. Nothing was changed.",
        lines=cost.as_dict()["lines"],
        after=float(after),
    )
