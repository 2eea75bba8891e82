# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where a new server goes: the declared type and location, or the next choice that has capacity and fits the budget."""

from __future__ import annotations

from decimal import Decimal

from . import labels, requirements
from .api import ApiError
from .catalogue import candidates
from .cost import ip_price, server_price
from .errors import HetznerError
from .model import Json, Resource
from .plan import placed_label
from .writes import Context, post_only


def no_capacity(error: ApiError) -> bool:
    """Whether another type or location may succeed where this one was refused."""
    text = error.text.lower()
    return error.code in ("resource_unavailable", "placement_error") or (
        error.code == "invalid_input"
        and ("unsupported location for server type" in text or ("server type" in text and "deprecated" in text))
    )


def place(context: Context, want: Resource, unfinished: bool) -> tuple[Json, list[Json]]:
    """The server made (its creation may still run) and its actions; raises HetznerError when every choice was refused."""
    tried: dict[str, str] = {}
    declared = (want.spec["type"], want.spec["location"])
    for choice in _choices(context, want):
        told = f"{choice[0]} in {choice[1]}"
        with context.lock:
            refused = context.refused.get(choice)
        if refused:
            tried[told] = refused
            continue
        price = _more_than_declared(context, want, choice)
        if not _afford(context, price):
            tried[told] = "would exceed the budget"
            continue
        try:
            return post_only(context, want, _body(context, want, choice, declared, unfinished))
        except ApiError as error:
            _give_back(context, price)
            if not no_capacity(error):
                raise
            tried[told] = error.text
            # A spread group that is full refuses this server only.
            if error.code != "placement_error":
                with context.lock:
                    context.refused[choice] = error.text
    raise HetznerError(
        f"{want.key}: no capacity: {'; '.join(f'{told}: {text}' for told, text in tried.items())}",
        "Run it again later, ask for less in its requirements, or name other locations in capacity.locations."
        if "requirements" in want.extra
        else "Run it again later, or name other types or locations in capacity.server_types and capacity.locations.",
        tried=tried,
    )


def _choices(context: Context, want: Resource) -> list[tuple[str, str]]:
    if "requirements" in want.extra:
        return requirements.candidates(want, context.topology, context.catalogue, context.locations)
    return candidates(want, context.topology, context.catalogue, context.server_types, context.locations, context.now)


def _more_than_declared(context: Context, want: Resource, choice: tuple[str, str]) -> Decimal:
    """What the choice costs a month beyond what the plan reckoned with (negative when it is cheaper)."""
    budget = context.budget
    if budget is None or choice == (want.spec["type"], want.spec["location"]):
        return Decimal(0)

    def price(name: str, location: str) -> Decimal:
        address = ip_price(context.catalogue, "ipv4", location) if want.spec["public_ipv4"] is True else (Decimal(0), Decimal(0))
        server = server_price(context.catalogue, name, location)
        share = Decimal(context.catalogue.pricing["server_backup"]["percentage"]) / 100 if want.spec["backups"] else Decimal(0)
        return budget.amount(server) * (1 + share) + budget.amount(address)

    return price(*choice) - price(want.spec["type"], want.spec["location"])


def _afford(context: Context, more: Decimal) -> bool:
    budget = context.budget
    with context.lock:
        total = (budget.amount(context.cost.after) if budget else Decimal(0)) + context.extra_cost + more
        if more > 0 and budget is not None and budget.on_exceed == "fail" and total > budget.monthly_max:
            return False
        context.extra_cost += more
    return True


def _give_back(context: Context, more: Decimal) -> None:
    with context.lock:
        context.extra_cost -= more


def _body(context: Context, want: Resource, choice: tuple[str, str], declared: tuple[str, str], unfinished: bool) -> Json:
    spec, extra = want.spec, want.extra
    own = dict(want.labels)
    if choice != declared:
        own[labels.PLACED_FOR] = placed_label(want)
    if unfinished:
        own[labels.UNFINISHED] = "start"
    public: Json = {"enable_ipv4": bool(spec["public_ipv4"]), "enable_ipv6": bool(spec["public_ipv6"])}
    for family in ("ipv4", "ipv6"):
        if isinstance(spec[f"public_{family}"], str):
            public[family] = context.id(f"primary_ip.{spec[f'public_{family}']}")
    body: Json = {
        "name": want.name,
        "server_type": choice[0],
        "image": spec["image"],
        "location": choice[1],
        "start_after_create": not unfinished,
        "labels": own,
        "ssh_keys": [str(context.id(f"ssh_key.{name}")) for name in extra["ssh_keys"]],
        "firewalls": [{"firewall": context.id(f"firewall.{name}")} for name in spec["firewalls"]],
        "networks": [context.id(f"network.{name}") for name, ip in spec["networks"].items() if not ip],
        "public_net": public,
    }
    if spec["volumes"]:
        body |= {"volumes": [context.id(f"volume.{name}") for name in spec["volumes"]], "automount": extra["automount"]}
    if spec["placement_group"]:
        body["placement_group"] = context.id(f"placement_group.{spec['placement_group']}")
    if extra["user_data"]:
        body["user_data"] = extra["user_data"]
    return body
