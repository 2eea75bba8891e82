# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""TLS certificates for load balancers: uploaded ones compare by fingerprint, managed ones by their names. Pure.

The API can change nothing but their names and labels, and deletes none that is in use. So another content is made beside the old one, which
steps aside under another name and key, marked as retired; when the balancers have changed over, it is deleted.
"""

from __future__ import annotations

import binascii
import hashlib
import re
import ssl
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from . import labels, reverse
from .model import FieldChange, Json, Observed, Resource, Snapshot, Topology
from .schema import Field, Problems

MOST_DOMAINS = 100
_FIRST = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_KEY = re.compile(r"-----BEGIN ((?:RSA |EC )?PRIVATE KEY)-----.+?-----END \1-----", re.DOTALL)
NOTE = "made anew under its name; the load balancers change over to it, then the old one is deleted"

_FIELDS: dict[str, Field] = {
    "name": Field("str", required=True),
    "type": Field("str", default="uploaded", choices=("uploaded", "managed")),
    "certificate": Field("str"),
    "private_key": Field("str"),
    "domain_names": Field("list", default=(), item=Field("str")),
    "labels": Field("map", default={}),
}
SECTION = {"certificates": Field("list", default=(), item=Field("object", keys=_FIELDS))}


def fingerprint(pem: str) -> str | None:
    """SHA-256 of the first certificate as 64 hexadecimal digits, or None if there is none."""
    found = _FIRST.search(pem)
    if found is None:
        return None
    try:
        der = ssl.PEM_cert_to_DER_cert(found.group())
    except (ValueError, binascii.Error):
        return None
    # A certificate is an ASN.1 sequence. Decoding base64 passes over what is none.
    return hashlib.sha256(der).hexdigest() if der[:1] == b"\x30" else None


def secrets(topology: Any) -> set[str]:
    """Every private key in a topology that nobody has checked yet, to be kept out of logs and results."""
    listed = topology.get("certificates") if isinstance(topology, Mapping) else None
    items = listed if isinstance(listed, (list, tuple)) else []
    return {item["private_key"] for item in items if isinstance(item, Mapping) and isinstance(item.get("private_key"), str)} - {""}


def declared(
    items: Iterator[tuple[str, Mapping[str, Any], dict[str, str]]], zones: Collection[str], problems: Problems
) -> Iterator[Resource]:
    """Resources from (path, item, labels) of each declared certificate. zones: those that are declared; a managed one needs those of its names."""
    for path, item, own in items:
        managed = item["type"] == "managed"
        for field in ("certificate", "private_key"):
            if managed and item[field] is not None:
                problems.add(f"{path}.{field}", "is for type: uploaded only; a managed one has 'domain_names'")
            if not managed and not item[field]:
                problems.add(f"{path}.{field}", "is required for type: uploaded; or take type: managed with 'domain_names'")
        if item["domain_names"] and not managed:
            problems.add(f"{path}.domain_names", "is for type: managed only; an uploaded one holds its names itself")
        spec: Json = {"type": item["type"], "fingerprint": None, "domain_names": None}
        if managed:
            spec["domain_names"] = _domains(item["domain_names"], path, problems)
        elif item["certificate"] and item["private_key"]:
            spec["fingerprint"] = fingerprint(item["certificate"])
            if spec["fingerprint"] is None:
                problems.add(f"{path}.certificate", "is not a certificate in PEM ('-----BEGIN CERTIFICATE-----' ...)")
            if not _KEY.search(item["private_key"]):
                problems.add(f"{path}.private_key", "is not an unencrypted private key in PEM ('-----BEGIN PRIVATE KEY-----' ...)")
        extra = {"certificate": item["certificate"], "private_key": item["private_key"]}
        refs = (f"zone.{zone}" for zone in sorted(zones) if any(f".{name}".endswith(f".{zone}") for name in spec["domain_names"] or ()))
        yield Resource("certificate", item["name"], spec, own, tuple(refs), path, extra)


def _domains(names: list[str], path: str, problems: Problems) -> list[str]:
    if not names:
        problems.add(f"{path}.domain_names", "is required for type: managed: the names that the certificate is for")
    if len(names) > MOST_DOMAINS:
        problems.add(f"{path}.domain_names", f"{len(names)} are named, at most {MOST_DOMAINS} are taken")
    for index, name in enumerate(names):
        problem = reverse.problem_of_host_name(name.removeprefix("*."))
        if problem:
            problems.add(f"{path}.domain_names[{index}]", problem)
    return sorted({name.lower() for name in names})


def read(item: Json) -> Json:
    """The fields of a certificate as the API shows it, in the same form as declared."""
    managed = item["type"] == "managed"
    return {
        "type": item["type"],
        "fingerprint": None if managed else fingerprint(item.get("certificate") or "") or (item.get("fingerprint") or "").replace(":", ""),
        "domain_names": sorted(name.lower() for name in item["domain_names"]) if managed else None,
    }


def failed(have: Observed) -> FieldChange | None:
    """A managed certificate that was not issued is tried again."""
    status = have.raw.get("status") or {}
    if status.get("issuance") != "failed":
        return None
    why = (status.get("error") or {}).get("message", "no reason is told")
    return FieldChange("issuance", "failed", "completed", "in_place", f"is tried again; it failed: {why}")


def retired(item: Observed) -> bool:
    """Whether it only stands until nobody uses it any more."""
    return labels.RETIRED in item.labels


def superseded(topology: Topology, found: Snapshot, prune: bool) -> list[Observed]:
    """Retired ones that can go: those that nobody uses but load balancers that change over to their successor, or go as well."""
    changing = {item.id for item in found.of("load_balancer") if prune or item.key in topology.resources}
    return [
        item for item in found.of("certificate") if retired(item) and {user["id"] for user in item.raw.get("used_by") or []} <= changing
    ]


def pending(item: Json) -> bool:
    """Whether its issuance is still at work."""
    status = item.get("status")
    return isinstance(status, Mapping) and status.get("issuance") == "pending"
