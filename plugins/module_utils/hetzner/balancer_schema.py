# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The shape of a declared load balancer as a table. Defaults are those that the API gives where nothing is said."""

from __future__ import annotations

from .schema import Field

_MAYBE = Field("bool")
_NO = Field("bool", default=False)
COOKIE = "HCLBSTICKY"
STATUS_CODES = ("2??", "3??")

_HTTP = {
    "sticky_sessions": _NO,
    "cookie_name": Field("str", default=COOKIE),
    "cookie_lifetime": Field("int", default=300),
    "timeout_idle": Field("int", default=50),
    "certificates": Field("list", default=(), item=Field("str")),
    "redirect_http": _NO,
}
_HEALTH_HTTP = {
    "domain": Field("str", default=""),
    "path": Field("str", default="/"),
    "response": Field("str", default=""),
    "status_codes": Field("list", default=(), item=Field("text")),
    "tls": _NO,
}
_HEALTH = {
    "protocol": Field("str", choices=("tcp", "http")),
    "port": Field("int"),
    "interval": Field("int", default=15),
    "timeout": Field("int", default=10),
    "retries": Field("int", default=3),
    "http": Field("object", keys=_HEALTH_HTTP),
}
_SERVICE = {
    "protocol": Field("str", required=True, choices=("tcp", "http", "https")),
    "listen_port": Field("int"),
    "destination_port": Field("int"),
    "proxyprotocol": _NO,
    "http": Field("object", keys=_HTTP),
    "health_check": Field("object", keys=_HEALTH),
}
_TARGET = {"server": Field("str"), "label_selector": Field("str"), "ip": Field("str"), "use_private_ip": _NO}

HTTP_DEFAULTS = {key: field.default for key, field in _HTTP.items()}
HEALTH_DEFAULTS = {key: field.default for key, field in _HEALTH.items()}
HEALTH_HTTP_DEFAULTS = {key: field.default for key, field in _HEALTH_HTTP.items()}

_FIELDS: dict[str, Field] = {
    "name": Field("str", required=True),
    "type": Field("str", required=True),
    "location": Field("str"),
    "network_zone": Field("str", choices=("eu-central", "us-east", "us-west", "ap-southeast")),
    "algorithm": Field("str", default="round_robin", choices=("round_robin", "least_connections")),
    "network": Field("str"),
    "private_ip": Field("str"),
    "public_interface": Field("bool", default=True),
    "services": Field("list", default=(), item=Field("object", keys=_SERVICE)),
    "targets": Field("list", default=(), item=Field("object", keys=_TARGET)),
    "labels": Field("map", default={}),
    "protection": _MAYBE,
    "dns_ptr": Field("names"),
}
SECTION = {"load_balancers": Field("list", default=(), item=Field("object", keys=_FIELDS))}
