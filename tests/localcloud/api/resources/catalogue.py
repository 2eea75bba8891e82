"""Locations, server types, load balancer types and prices: read only."""

from __future__ import annotations

from ..errors import ApiError
from ..kinds import Kind, register
from ..routing import Call, Reply, op
from ..store import Document


def _as_is(_call: Call, document: Document) -> Document:
    return document


register(
    Kind("location", "locations", _as_is, ("id", "name"), stored=lambda call: call.cloud.catalogue.locations, actions=False, writable=False)
)
register(
    Kind(
        "server_type",
        "server_types",
        _as_is,
        ("id", "name"),
        stored=lambda call: call.cloud.catalogue.server_types,
        actions=False,
        writable=False,
    )
)
register(
    Kind(
        "load_balancer_type",
        "load_balancer_types",
        _as_is,
        ("id", "name"),
        stored=lambda call: call.cloud.catalogue.load_balancer_types,
        actions=False,
        writable=False,
    )
)


@op("GET", "/pricing")
def pricing(call: Call) -> Reply:
    return Reply(200, {"pricing": call.cloud.catalogue.pricing})


def _gone(_call: Call) -> Reply:
    raise ApiError(
        410,
        "deprecated_api_endpoint",
        "API functionality was removed",
        {"announcement": "https://docs.hetzner.cloud/changelog#2025-12-16-phasing-out-datacenters"},
    )


op("GET", "/datacenters")(_gone)
op("GET", "/datacenters/{id}")(_gone)
