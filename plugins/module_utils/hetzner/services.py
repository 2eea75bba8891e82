# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Services of load balancers in one canonical form, every default filled in, so that what is declared and what is there compare equal. Pure.

A service is {protocol, listen_port, destination_port, proxyprotocol, health_check, http}, with certificates by name; a balancer's services
are a mapping from the listening port, as text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from .balancer_schema import COOKIE, HEALTH_DEFAULTS, HEALTH_HTTP_DEFAULTS, HTTP_DEFAULTS, STATUS_CODES
from .model import Json
from .schema import Problems, suggest

REDIRECTED_PORT = 80
_PORTS = {"http": (80, 80), "https": (443, 80)}
_CODE = re.compile(r"\*|[1-5?][0-9?*]{0,2}")
_RANGES = {"interval": (3, 60), "timeout": (1, 60), "retries": (1, 5)}
_HTTP_RANGES = {"cookie_lifetime": (30, 86400), "timeout_idle": (30, 300)}


def canonical(items: Iterable[Mapping[str, Any]], path: str, certificates: Iterable[str], problems: Problems) -> dict[str, Json]:
    """The declared services by port. certificates: the names there are."""
    known = sorted(certificates)
    result: dict[str, Json] = {}
    taken: dict[int, str] = {}
    for index, item in enumerate(items):
        here = f"{path}[{index}]"
        service = _service(item, here, problems)
        if service is None:
            continue
        _check_http(item, service, here, known, problems)
        for port in sorted(ports(service)):
            other = taken.setdefault(port, here)
            if other != here:
                why = " by its redirect_http" if port == REDIRECTED_PORT != service["listen_port"] else ""
                problems.add(f"{here}.listen_port", f"port {port} is taken{why} twice: {other} has it already")
        result[str(service["listen_port"])] = service
    return dict(sorted(result.items(), key=lambda one: int(one[0])))


def ports(service: Mapping[str, Any]) -> set[int]:
    """Every port it listens on: a redirect listens on port 80 as well."""
    http = service["http"] or {}
    return {service["listen_port"], *([REDIRECTED_PORT] if http.get("redirect_http") else [])}


def _service(item: Mapping[str, Any], path: str, problems: Problems) -> Json | None:
    protocol = item["protocol"]
    listen, destination = _PORTS.get(protocol, (None, None))
    listen = item["listen_port"] if item["listen_port"] is not None else listen
    if listen is None:
        problems.add(f"{path}.listen_port", "is required for protocol: tcp")
        return None
    destination = item["destination_port"] if item["destination_port"] is not None else destination or listen
    health = item["health_check"] or HEALTH_DEFAULTS
    for field, port in (("listen_port", listen), ("destination_port", destination), ("health_check.port", health["port"])):
        if port is not None and not 1 <= port <= 65535:
            problems.add(f"{path}.{field}", f"{port} is outside 1 to 65535")
    return {
        "protocol": protocol,
        "listen_port": listen,
        "destination_port": destination,
        "proxyprotocol": item["proxyprotocol"],
        "health_check": _health(health, protocol, destination, f"{path}.health_check", problems),
        "http": None if protocol == "tcp" else _http(item["http"] or HTTP_DEFAULTS, protocol),
    }


def _health(item: Mapping[str, Any], protocol: str, port: int, path: str, problems: Problems) -> Json:
    kind = item["protocol"] or ("tcp" if protocol == "tcp" else "http")
    for field, (least, most) in _RANGES.items():
        if not least <= item[field] <= most:
            problems.add(f"{path}.{field}", f"{item[field]} is outside {least} to {most}")
    check: Json = {"protocol": kind, "port": item["port"] or port, **{field: item[field] for field in _RANGES}, "http": None}
    http = item["http"]
    if kind == "tcp":
        if http is not None:
            problems.add(f"{path}.http", "has no meaning for a health check of protocol: tcp; take http, or leave it out")
        return check
    http = http or HEALTH_HTTP_DEFAULTS
    if not http["path"].startswith("/") or " " in http["path"] or len(http["path"]) > 256:
        problems.add(f"{path}.http.path", f"{http['path']!r} must begin with '/', have no blank and at most 256 characters")
    if re.search(r"[\s%\\]", http["domain"]) or len(http["domain"]) > 128:
        problems.add(f"{path}.http.domain", f"{http['domain']!r} must have no blank, '%' or backslash and at most 128 characters")
    for index, code in enumerate(http["status_codes"]):
        if not _CODE.fullmatch(code):
            problems.add(f"{path}.http.status_codes[{index}]", f"{code!r} is not a status such as '200', '2??' or '2*'")
    return {**check, "http": {**http, "status_codes": sorted(set(http["status_codes"] or STATUS_CODES))}}


def _http(item: Mapping[str, Any], protocol: str) -> Json:
    own = {field: item[field] for field in ("sticky_sessions", "cookie_name", "cookie_lifetime", "timeout_idle")}
    if protocol == "https":
        own |= {"certificates": sorted(set(item["certificates"])), "redirect_http": item["redirect_http"]}
    return own


def _check_http(item: Mapping[str, Any], service: Json, path: str, known: list[str], problems: Problems) -> None:
    protocol, given = service["protocol"], item["http"]
    if protocol == "tcp":
        if given is not None:
            problems.add(f"{path}.http", "has no meaning for protocol: tcp; take http or https, or leave it out")
        return
    http = given or HTTP_DEFAULTS
    for field, (least, most) in _HTTP_RANGES.items():
        if not least <= http[field] <= most:
            problems.add(f"{path}.http.{field}", f"{http[field]} is outside {least} to {most}")
    if not 1 <= len(http["cookie_name"]) <= 100:
        problems.add(f"{path}.http.cookie_name", "must have 1 to 100 characters")
    if protocol == "http":
        for field in ("certificates", "redirect_http"):
            if http[field]:
                problems.add(f"{path}.http.{field}", "is for protocol: https only")
        return
    if not http["certificates"]:
        problems.add(f"{path}.http.certificates", "is required for protocol: https; to hand TLS through to the targets take protocol: tcp")
    for index, name in enumerate(http["certificates"]):
        if name not in known:
            problems.add(f"{path}.http.certificates[{index}]", f"certificates declares no {name!r}{suggest(name, known)}")


def read(items: Iterable[Json], names: Mapping[int, str]) -> dict[str, Json]:
    """The services that are there by port. names: of our certificates by id; a blank, which no name has, tells another's."""
    return {str(item["listen_port"]): _read(item, names) for item in sorted(items, key=lambda one: int(one["listen_port"]))}


def _read(item: Json, names: Mapping[int, str]) -> Json:
    check, protocol = item["health_check"], item["protocol"]
    http = item.get("http") or {}
    own: Json | None = None
    if protocol != "tcp":
        own = {
            "sticky_sessions": bool(http.get("sticky_sessions")),
            "cookie_name": http.get("cookie_name") or COOKIE,
            "cookie_lifetime": http.get("cookie_lifetime") or HTTP_DEFAULTS["cookie_lifetime"],
            "timeout_idle": http.get("timeout_idle") or HTTP_DEFAULTS["timeout_idle"],
        }
    if own is not None and protocol == "https":
        own["certificates"] = sorted(names.get(one, f"id {one}") for one in http.get("certificates") or [])
        own["redirect_http"] = bool(http.get("redirect_http"))
    asked = check.get("http") or {}
    return {
        "protocol": protocol,
        "listen_port": item["listen_port"],
        "destination_port": item["destination_port"],
        "proxyprotocol": bool(item.get("proxyprotocol")),
        "health_check": {
            "protocol": check["protocol"],
            **{field: check[field] for field in ("port", "interval", "timeout", "retries")},
            "http": None
            if check["protocol"] == "tcp"
            else {
                "domain": asked.get("domain") or "",
                "path": asked.get("path") or "/",
                "response": asked.get("response") or "",
                "status_codes": sorted(asked.get("status_codes") or STATUS_CODES),
                "tls": bool(asked.get("tls")),
            },
        },
        "http": own,
    }


def body(service: Json, ids: Mapping[str, int]) -> Json:
    """A canonical service as the API wants it sent, all of it. ids: of certificates by name."""
    check = {key: value for key, value in service["health_check"].items() if value is not None}
    sent = {key: value for key, value in service.items() if key != "http"} | {"health_check": check}
    if service["http"] is not None:
        sent["http"] = dict(service["http"])
        if "certificates" in sent["http"]:
            sent["http"]["certificates"] = [ids[name] for name in service["http"]["certificates"]]
    return sent
