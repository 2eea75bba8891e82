"""The name server's sockets: UDP and TCP on the same port of each address, answered from the state as it is at that moment."""

from __future__ import annotations

import ipaddress
import logging
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from localcloud.api.resources.primary_ips import dns_view
from localcloud.api.store import Store

from . import answers, wire
from .answers import Zone

LOG = logging.getLogger("localcloud.dns")
TCP_SECONDS = 10.0
MOST_UDP = 1232
Source = Callable[[], Mapping[str, Zone]]


def zones(store: Store, public_range: ipaddress.IPv4Network) -> dict[str, Zone]:
    """All zones of a cloud, and those of its reverse names. A secondary zone holds nothing here."""
    with store.read() as tx:
        documents, rrsets = tx.all("zone"), tx.all("rrset")
        addresses = [*tx.all("primary_ip"), *tx.all("floating_ip")]
    found = {item["id"]: Zone(item["name"]) for item in documents}
    ttls = {item["id"]: item["ttl"] for item in documents}
    for item in rrsets:
        zone = found[item["zone"]]
        owner = answers.absolute(item["name"], zone.name)
        zone.add(owner, item["type"], item["ttl"] or ttls[item["zone"]], [record["value"] for record in item["records"]])
    names = {one["ip"]: one["dns_ptr"] for item in addresses for one in dns_view(item)}
    return {zone.name: zone for zone in found.values()} | answers.reverse_zones(public_range, names)


def respond(source: Source, data: bytes, most: int | None) -> bytes | None:
    """The answer to one message, None for what is not worth one. most: of bytes by UDP, None by TCP."""
    try:
        query = wire.parse(data)
    except wire.WireError:
        return wire.refusal(data, wire.FORMERR) if len(data) >= wire.HEADER and not data[2] & 0x80 else None
    limit = 65535 if most is None else min(most, query.size)
    if query.opcode != 0:
        return wire.reply(query, wire.NOTIMP, False, (), (), limit)
    if query.class_ != wire.IN:
        return wire.reply(query, wire.REFUSED, False, (), (), limit)
    try:
        said = answers.answer(source(), query)
        return wire.reply(query, said.code, said.authoritative, said.answer, said.authority, limit)
    except Exception:
        LOG.exception("no answer for %s %s", query.name, query.kind)
        return wire.reply(query, wire.SERVFAIL, False, (), (), limit)


class _Udp(socketserver.ThreadingUDPServer):
    allow_reuse_address = True
    daemon_threads = True
    max_packet_size = 4096


class _Tcp(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def _udp_handler(source: Source) -> type[socketserver.BaseRequestHandler]:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            data, sock = self.request
            answer = respond(source, data, MOST_UDP)
            if answer is not None:
                sock.sendto(answer, self.client_address)

    return Handler


def _tcp_handler(source: Source) -> type[socketserver.BaseRequestHandler]:
    class Handler(socketserver.StreamRequestHandler):
        timeout = TCP_SECONDS

        def handle(self) -> None:
            while len(head := self.rfile.read(2)) == 2:
                answer = respond(source, self.rfile.read(struct.unpack("!H", head)[0]), None)
                if answer is None:
                    return
                self.wfile.write(struct.pack("!H", len(answer)) + answer)

    return Handler


@contextmanager
def serving(source: Source, addresses: Sequence[tuple[str, int]]) -> Iterator[list[tuple[str, int]]]:
    """Answer until the block ends. Gives the addresses in use; port 0 is any free one, the same for UDP and TCP."""
    servers: list[socketserver.BaseServer] = []
    used: list[tuple[str, int]] = []
    try:
        for host, port in addresses:
            tcp = _Tcp((host, port), _tcp_handler(source))
            servers.append(tcp)
            used.append((host, tcp.server_address[1]))
            servers.append(_Udp(used[-1], _udp_handler(source)))
        for server in servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
        yield used
        for server in servers:
            server.shutdown()
    finally:
        for server in servers:
            server.server_close()
