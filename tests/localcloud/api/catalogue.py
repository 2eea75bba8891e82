"""What can be ordered and what it costs: the dated ``catalogue.json`` in the API's shapes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from functools import cached_property
from pathlib import Path
from typing import Any

Entry = dict[str, Any]
TERABYTE = 1024**4


def _find(entries: list[Entry], ref: int | str) -> Entry | None:
    """By id (also as digits) or name."""
    return next((entry for entry in entries if ref in (entry["id"], str(entry["id"]), entry["name"])), None)


@dataclass(frozen=True)
class Catalogue:
    data: Entry = field(default_factory=lambda: json.loads(Path(__file__).with_name("catalogue.json").read_text()))

    @cached_property
    def locations(self) -> list[Entry]:
        return list(self.data["locations"])

    def location(self, ref: int | str) -> Entry | None:
        return _find(self.locations, ref)

    def amount(self, net: str | Decimal) -> Entry:
        net = Decimal(net)
        gross = net * (1 + Decimal(self.data["vat_rate"]) / 100)
        return {"net": f"{net:.10f}", "gross": f"{gross:.16f}"}

    def _hourly(self, monthly: str) -> Entry:
        hours = Decimal(self.data["hours_per_month"])
        return self.amount((Decimal(monthly) / hours).quantize(Decimal("0.0001"), ROUND_HALF_UP))

    def _prices(self, monthly: str, names: list[str]) -> list[Entry]:
        traffic, included = self.data["prices"]["traffic_per_tb"], self.data["prices"]["included_traffic_tb"]
        return [
            {
                "location": place["name"],
                "price_hourly": self._hourly(monthly),
                "price_monthly": self.amount(monthly),
                "included_traffic": int(included[place["network_zone"]] * TERABYTE),
                "price_per_tb_traffic": self.amount(traffic.get(place["name"], traffic["default"])),
            }
            for place in self.locations
            if place["name"] in names
        ]

    def _server_type(self, raw: Entry) -> Entry:
        deprecation = raw.get("deprecation")
        return {
            "id": raw["id"],
            "name": raw["name"],
            "description": raw["name"].upper(),
            "cores": raw["cores"],
            "memory": float(raw["memory"]),
            "disk": raw["disk"],
            "deprecated": deprecation is not None,
            "deprecation": deprecation,
            "prices": self._prices(raw["monthly"], raw["locations"] + raw["priced_also"]),
            "storage_type": "local",
            "cpu_type": raw["cpu_type"],
            "category": raw["category"],
            "architecture": raw["architecture"],
            "locations": [
                {"id": place["id"], "name": place["name"], "deprecation": deprecation, "recommended": not deprecation, "available": True}
                for place in self.locations
                if place["name"] in raw["locations"]
            ],
        }

    @cached_property
    def all_server_types(self) -> list[Entry]:
        return [self._server_type(raw) for raw in self.data["server_types"]]

    @cached_property
    def retired(self) -> frozenset[str]:
        return frozenset(raw["name"] for raw in self.data["server_types"] if raw.get("retired"))

    @cached_property
    def server_types(self) -> list[Entry]:
        """What the list shows: retired types are not in it."""
        return [entry for entry in self.all_server_types if entry["name"] not in self.retired]

    def server_type(self, ref: int | str) -> Entry | None:
        """Also retired types: existing servers still have them."""
        return _find(self.all_server_types, ref)

    @cached_property
    def load_balancer_types(self) -> list[Entry]:
        everywhere = [place["name"] for place in self.locations]
        return [
            {**{key: value for key, value in raw.items() if key != "monthly"}, "deprecated": None, "deprecation": None}
            | {"prices": self._prices(raw["monthly"], everywhere)}
            for raw in self.data["load_balancer_types"]
        ]

    @cached_property
    def images(self) -> list[Entry]:
        return [
            {
                **raw,
                "type": "system",
                "status": "available",
                "image_size": None,
                "disk_size": 5,
                "created_from": None,
                "bound_to": None,
                "rapid_deploy": True,
                "protection": {"delete": False},
                "deprecated": None,
                "deprecation": None,
                "deleted": None,
                "labels": {},
            }
            for raw in self.data["images"]
        ]

    @cached_property
    def pricing(self) -> Entry:
        prices = self.data["prices"]
        names = [place["name"] for place in self.locations]
        primary, floating = prices["primary_ip"], prices["floating_ip"]

        def typed(entries: list[Entry]) -> list[Entry]:
            return [{key: entry[key] for key in ("id", "name", "prices")} for entry in entries]

        return {
            "currency": self.data["currency"],
            "vat_rate": self.data["vat_rate"],
            "primary_ips": [
                {
                    "type": kind,
                    "prices": [
                        {"location": name, "price_hourly": self._hourly(price), "price_monthly": self.amount(price)} for name in names
                    ],
                }
                for kind, price in primary.items()
            ],
            "floating_ips": [
                {"type": kind, "prices": [{"location": name, "price_monthly": self.amount(price)} for name in names]}
                for kind, price in floating.items()
            ],
            "floating_ip": {"price_monthly": self.amount(floating["ipv4"])},
            "image": {"price_per_gb_month": self.amount(prices["image_per_gb"])},
            "volume": {"price_per_gb_month": self.amount(prices["volume_per_gb"])},
            "server_backup": {"percentage": prices["server_backup_percentage"]},
            "server_types": typed(self.server_types),
            "load_balancer_types": typed(self.load_balancer_types),
        }
