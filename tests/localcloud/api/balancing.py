"""What a load balancer's targets are right now: addresses, servers behind label selectors, and whether they are healthy."""

from __future__ import annotations

import ipaddress

from .labels import matches
from .machine import server_ips
from .routing import Call
from .store import Document, Tx


def attached(balancer: Document) -> int | None:
    """The network it is in; a load balancer is in one at most."""
    return next((int(entry["network"]) for entry in balancer["nets"]), None)


def private_ip(server: Document, network: int | None) -> str | None:
    """The server's address in this network."""
    return next((str(entry["ip"]) for entry in server["nets"] if entry["network"] == network), None)


def public_ip(tx: Tx, server_id: int) -> str | None:
    """The server's public IPv4 address."""
    ip = server_ips(tx, server_id).get("ipv4")
    return str(ip["ip"]) if ip else None


def owns(tx: Tx, server_id: int, text: str) -> bool:
    """Whether this is the server's IPv4 address, or inside its IPv6 network."""
    address = ipaddress.ip_address(text)
    return any(address in ipaddress.ip_network(item["ip"]) for item in server_ips(tx, server_id).values())


def _health(call: Call, balancer: Document, server: Document | None, reached: bool) -> list[Document]:
    """No packet is sent: a server that runs and has an address is taken for healthy, an address of another machine for unknown."""
    states: list[Document] = []
    for service in balancer["services"]:
        state: Document = {"listen_port": service["listen_port"], "status": "unknown"}
        if server is not None and reached:
            running = call.cloud.power(server["id"]) == "running"
            state["status"] = "healthy" if running else "unhealthy"
            if not running:
                state["detail"] = "connection timed out"
            elif service["health_check"]["protocol"] == "http":
                state["http_status_code"] = 200
        states.append(state)
    return states


def _server(call: Call, balancer: Document, server: Document, private: bool, chosen: str | None) -> Document:
    ip = private_ip(server, attached(balancer)) if private else chosen or public_ip(call.tx, server["id"])
    return {
        "type": "server",
        "server": {"id": server["id"], "ip": ip or ""},
        "health_status": _health(call, balancer, server, ip is not None),
        "use_private_ip": private,
    }


def target_view(call: Call, balancer: Document, target: Document) -> Document:
    """One stored target as it is answered."""
    if target["type"] == "ip":
        return {"type": "ip", "ip": target["ip"], "health_status": _health(call, balancer, None, False), "use_private_ip": False}
    if target["type"] == "server":
        return _server(call, balancer, call.get("server", target["server"]["id"]), target["use_private_ip"], target["server"].get("ip"))
    selector = target["label_selector"]["selector"]
    found = [server for server in call.tx.all("server") if matches(selector, server["labels"])]
    return {
        "type": "label_selector",
        "label_selector": {"selector": selector},
        "use_private_ip": target["use_private_ip"],
        "targets": [_server(call, balancer, server, target["use_private_ip"], None) for server in found],
    }
