"""Services of load balancers: what clients leave out is filled in, as the service does."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from .. import errors
from ..inputs import Body
from ..routing import Call, Reply, op
from ..store import Document
from .load_balancers import changed, free_balancer, type_of

Protocol = Literal["tcp", "http", "https"]
Port = Annotated[int, Field(ge=1, le=65535)]
REDIRECTED_PORT = 80
DEFAULT_PORTS = {"http": (80, 80), "https": (443, 80)}


class HealthHttp(Body):
    domain: Annotated[str, StringConstraints(max_length=128, pattern=r"^[^\s%\\]*$")] | None = None
    path: Annotated[str, StringConstraints(max_length=256, pattern=r"^/\S*$")] | None = None
    response: Annotated[str, StringConstraints(max_length=256)] | None = None
    status_codes: list[Annotated[str, StringConstraints(pattern=r"^(?:\*|[1-5?][0-9?*]{0,2})$")]] | None = None
    tls: bool | None = None


class HealthCheck(Body):
    protocol: Literal["tcp", "http"] | None = None
    port: Port | None = None
    interval: Annotated[int, Field(ge=3, le=60)] | None = None
    timeout: Annotated[int, Field(ge=1, le=60)] | None = None
    retries: Annotated[int, Field(ge=1, le=5)] | None = None
    http: HealthHttp | None = None


class Http(Body):
    cookie_name: Annotated[str, StringConstraints(min_length=1, max_length=100)] | None = None
    cookie_lifetime: Annotated[int, Field(ge=30, le=86400)] | None = None
    timeout_idle: Annotated[int, Field(ge=30, le=300)] | None = None
    certificates: list[int] | None = None
    redirect_http: bool | None = None
    sticky_sessions: bool | None = None


class Service(Body):
    protocol: Protocol | None = None
    listen_port: Port | None = None
    destination_port: Port | None = None
    proxyprotocol: bool | None = None
    health_check: HealthCheck | None = None
    http: Http | None = None


class Update(Service):
    listen_port: Port


class Delete(Body):
    listen_port: Port


def _merged(base: Document, given: Body | None) -> Document:
    return base | (given.model_dump(exclude_unset=True, exclude_none=True) if given else {})


def resolve(call: Call, balancer: Document, body: Service, own: Document | None = None, code: int = 412) -> Document:
    """The service as it is stored. own: the one that is updated. Raises 403, 404, 412 and 422."""
    protocol = body.protocol or (own["protocol"] if own else None)
    if protocol is None:
        raise errors.invalid("protocol", "is required")
    listen, destination = DEFAULT_PORTS.get(protocol, (None, None))
    listen = body.listen_port or listen
    destination = body.destination_port or (own["destination_port"] if own else destination)
    if listen is None or destination is None:
        raise errors.invalid("listen_port" if listen is None else "destination_port", "is required for protocol tcp")
    kept = own or {}
    service: Document = {
        "protocol": protocol,
        "listen_port": listen,
        "destination_port": destination,
        "proxyprotocol": kept.get("proxyprotocol", False) if body.proxyprotocol is None else body.proxyprotocol,
        "health_check": _health_check(protocol, destination, body.health_check, kept.get("health_check", {})),
    }
    http = _http(call, protocol, body.http, kept.get("http", {}))
    if http is not None:
        service["http"] = http
    _check_room(call, balancer, service, own, code)
    return service


def _health_check(protocol: str, destination: int, given: HealthCheck | None, kept: Document) -> Document:
    default = {"protocol": "tcp" if protocol == "tcp" else "http", "port": destination, "interval": 15, "timeout": 10, "retries": 3}
    check = _merged(default | kept, given)
    http = check.pop("http", None)
    if check["protocol"] == "tcp":
        if given is not None and given.http is not None:
            raise errors.invalid("health_check.http", "is for health checks of protocol http only")
        return check
    default_http = {"domain": "", "path": "/", "response": "", "status_codes": ["2??", "3??"], "tls": False}
    return {**check, "http": default_http | kept.get("http", {}) | (http or {})}


def _http(call: Call, protocol: str, given: Http | None, kept: Document) -> Document | None:
    if protocol == "tcp":
        if given is not None:
            raise errors.invalid("http", "is for protocols http and https only")
        return None
    default = {"cookie_name": "HCLBSTICKY", "cookie_lifetime": 300, "timeout_idle": 50, "sticky_sessions": False}
    if protocol == "http":
        if given is not None and (given.certificates or given.redirect_http):
            raise errors.invalid("http", "certificates and redirect_http are for protocol https only")
        http = _merged(default | kept, given)
        return {key: value for key, value in http.items() if key not in ("certificates", "redirect_http")}
    http = _merged({"certificates": [], "redirect_http": False, **default, **kept}, given)
    if not http["certificates"]:
        raise errors.invalid("http.certificates", "at least one certificate is required for protocol https")
    for ident in http["certificates"]:
        call.get("certificate", ident)
    return http


def ports(service: Document) -> set[int]:
    """Every port a service listens on: a redirect listens as well."""
    redirected = {REDIRECTED_PORT} if service.get("http", {}).get("redirect_http") else set()
    return {int(service["listen_port"])} | redirected


def _check_room(call: Call, balancer: Document, service: Document, own: Document | None, code: int) -> None:
    others = [one for one in balancer["services"] if own is None or one["listen_port"] != own["listen_port"]]
    taken = {port for one in others for port in ports(one)} & ports(service)
    if taken:
        raise errors.ApiError(code, "source_port_already_used", f"source port {min(taken)} is already used")
    kind = type_of(call, balancer["type"])
    if len(others) >= kind["max_services"]:
        raise errors.limit_exceeded(f"a {kind['name']} can have at most {kind['max_services']} services", "load_balancer_service_limit")
    used = {ident for one in (*others, service) for ident in one.get("http", {}).get("certificates", [])}
    if len(used) > kind["max_assigned_certificates"]:
        raise errors.limit_exceeded("too many certificates for this load balancer type", "load_balancer_certificate_limit")


def _own(document: Document, port: int) -> Document:
    for service in document["services"]:
        if service["listen_port"] == port:
            return dict[str, Any](service)
    raise errors.ApiError(404, "not_found", f"service with listen port '{port}' not found")


def _ordered(services: list[Document]) -> list[Document]:
    return sorted(services, key=lambda one: int(one["listen_port"]))


@op("POST", "/load_balancers/{id}/actions/add_service")
def add_service(call: Call) -> Reply:
    document, body = free_balancer(call), call.body(Service)
    return changed(call, "add_service", document, services=_ordered([*document["services"], resolve(call, document, body)]))


@op("POST", "/load_balancers/{id}/actions/update_service")
def update_service(call: Call) -> Reply:
    document, body = free_balancer(call), call.body(Update)
    own = _own(document, body.listen_port)
    others = [one for one in document["services"] if one["listen_port"] != body.listen_port]
    service = resolve(call, document, body, own, 422)
    return changed(call, "update_service", document, services=_ordered([*others, service]))


@op("POST", "/load_balancers/{id}/actions/delete_service")
def delete_service(call: Call) -> Reply:
    document, body = free_balancer(call), call.body(Delete)
    own = _own(document, body.listen_port)
    return changed(call, "delete_service", document, services=[one for one in document["services"] if one != own])
