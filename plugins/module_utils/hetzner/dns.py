# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Writing zones and record sets."""

from __future__ import annotations

import random
import time

from . import labels, rdata, records, references, writes
from .api import ApiError, UncertainError, actions_of
from .errors import HetznerError
from .model import KINDS, Change, Json, Resource
from .writes import Context, observed, wanted


def apply(context: Context, change: Change) -> None:
    """Carry out one change of a zone or a record set."""
    if change.kind == "zone" and change.action == "update":
        _update_zone(context, change)
    elif change.kind == "zone":
        writes.apply(context, change)
    elif change.action == "delete":
        _delete(context, change)
    elif change.action == "create":
        _create(context, wanted(change))
    else:
        _update(context, change)


def _update_zone(context: Context, change: Change) -> None:
    want, fields = wanted(change), change.field_names()
    url = f"/zones/{observed(change).id}"
    if "ttl" in fields:
        context.api.act(f"{url}/actions/change_ttl", {"ttl": want.spec["ttl"]})
    if "primary_nameservers" in fields:
        servers = want.extra["primary_nameservers"]
        context.api.act(f"{url}/actions/change_primary_nameservers", {"primary_nameservers": servers})
    if "labels" in fields:
        context.api.call("PUT", url, body={"labels": dict(want.labels)})
    if "protection" in fields:
        context.api.act(f"{url}/actions/change_protection", {"delete": bool(want.spec["protection"])})


def _sets(context: Context, name: str) -> str:
    return f"/zones/{context.id(records.zone_of(name))}/rrsets"


def _url(context: Context, name: str) -> str:
    return f"{_sets(context, name)}/{name.partition('/')[2]}"


def _values(context: Context, want: Resource, before: Json) -> list[Json]:
    """All records to be sent; a comment that is not declared stays. before: comments by canonical value."""
    kind = want.name.rpartition("/")[2]
    values = dict(want.extra["known"])
    for reference, comment in want.extra["open"].items():
        address = _address(context, reference)
        values[address] = values.get(address) or comment
    return [
        {"value": rdata.wire(kind, value), **({"comment": told} if (told := before.get(value) if comment is None else comment) else {})}
        for value, comment in sorted(values.items())
    ]


def _address(context: Context, reference: references.Reference) -> str:
    """Of what exists by now, as the graph has put it first; asked for once in a run."""
    with context.lock:
        item = context.seen.get(reference.key)
    if item is None:
        kind = reference.key.partition(".")[0]
        item = context.api.get(f"{KINDS[kind].url}/{context.id(reference.key)}")[kind]
        with context.lock:
            context.seen[reference.key] = item
    network = context.id(f"network.{reference.network}") if reference.network else None
    address = references.of(item, reference, network)
    if address is None:
        raise HetznerError(
            f"{reference.key} has no {reference.address} address to put into a record", "Run it again: it may have one by then."
        )
    return address


def _create(context: Context, want: Resource) -> None:
    url, (_zone, name, kind) = _sets(context, want.name), want.name.split("/")
    body: Json = {"name": name, "type": kind, "records": _values(context, want, {}), "labels": dict(want.labels)}
    if want.spec["ttl"] is not None:
        body["ttl"] = want.spec["ttl"]
    for attempt in range(5):
        try:
            context.api.wait(actions_of(context.api.call("POST", url, body=body)))
            break
        except ApiError as error:
            if not isinstance(error, UncertainError) and error.code != "uniqueness_error":
                raise
            # The answer was lost: it may be there. What is not as declared after all is found when all is read again.
            time.sleep(random.uniform(0.2, 0.4) * 2**attempt)
            if _is_there(context, want):
                break
            if attempt == 4:
                raise
    if want.spec["protection"]:
        _protect(context, want.name, True)


def _is_there(context: Context, want: Resource) -> bool:
    """Whether the set is there and ours; raises if it is another's."""
    try:
        item = context.api.get(_url(context, want.name))["rrset"]
    except ApiError as error:
        if error.code != "not_found":
            raise
        return False
    if (item.get("labels") or {}).get(labels.STACK) != context.topology.stack:
        raise HetznerError(f"{want.key} is there, made by another hand while this ran", "Run it again: the plan then tells what changes.")
    context.api.wait(writes.running_actions(context.api, "zone", context.id(records.zone_of(want.name))))
    return True


def _protect(context: Context, name: str, wish: bool) -> None:
    context.api.act(f"{_url(context, name)}/actions/change_protection", {"change": wish})


def _update(context: Context, change: Change) -> None:
    """A set that is protected is so again afterwards, unless it is declared not to be; also when a step fails."""
    want, have, fields = wanted(change), observed(change), change.field_names()
    lifted = have.protected and fields != {"protection"}
    wish = have.protected if want.spec["protection"] is None else bool(want.spec["protection"])
    if lifted:
        _protect(context, want.name, False)
    try:
        url = _url(context, want.name)
        if fields & {"values", "comments"}:
            context.api.act(f"{url}/actions/set_records", {"records": _values(context, want, dict(have.spec["comments"]))})
        if "ttl" in fields:
            context.api.act(f"{url}/actions/change_ttl", {"ttl": want.spec["ttl"]})
        if "labels" in fields:
            context.api.call("PUT", url, body={"labels": dict(want.labels)})
    finally:
        if wish != (have.protected and not lifted):
            _protect(context, want.name, wish)


def _delete(context: Context, change: Change) -> None:
    have = observed(change)
    url = f"/zones/{have.id}/rrsets/{have.name.partition('/')[2]}"
    try:
        if have.protected:
            context.api.act(f"{url}/actions/change_protection", {"change": False})
        context.api.wait(actions_of(context.api.call("DELETE", url)))
    except ApiError as error:
        if error.code != "not_found":
            raise
