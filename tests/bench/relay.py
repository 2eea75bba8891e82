"""A TCP relay on loopback whose links can be slowed, cut, reset, or made to vanish without a word."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

PIECE = 65536
POLL = 0.05  # seconds; nobody sleeps inside the kernel on a socket that another thread closes
TCP_REPAIR = 19  # of linux/tcp.h; a socket closed in this state sends nothing


class Relay:
    """Forwards every connection to a port of this machine."""

    def __init__(self, port: int) -> None:
        self.to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._links: list[tuple[socket.socket, socket.socket]] = []
        self._closed, self._refusing = False, False
        self.accepted = 0
        self._flowing = threading.Event()
        self._flowing.set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> Relay:
        self._threads[0].start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closed = True
        self._flowing.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.reset()
        for thread in self._threads:
            thread.join(10)

    def pause(self) -> None:
        """Forward nothing; what is sent waits."""
        self._flowing.clear()

    def resume(self) -> None:
        """Forward again, and accept again."""
        self._refusing = False
        self._flowing.set()

    def cut(self) -> None:
        """Reset all links and every new one, until :meth:`resume`."""
        self._refusing = True
        self.reset()

    def reset(self) -> int:
        """End all links with a reset; how many there were."""
        return self._end(lambda end: end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)))

    def vanish(self) -> int:
        """End all links so that neither side is told, as when a machine in between loses its power; how many there were."""
        return self._end(lambda end: end.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1))

    def _end(self, prepare: Callable[[socket.socket], None]) -> int:
        with self._lock:
            links, self._links = self._links, []
        for link in links:
            # The other direction may have closed them already.
            for end in link:
                with suppress(OSError):
                    prepare(end)
            for end in link:
                end.close()
        return len(links)

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _address = self._listener.accept()
            except OSError:
                return
            if self._refusing:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self.to), timeout=10)
            except OSError:
                client.close()
                continue
            for end in (client, server):
                end.settimeout(POLL)
            self.accepted += 1
            with self._lock:
                self._links.append((client, server))
            for one, other in ((client, server), (server, client)):
                thread = threading.Thread(target=self._forward, args=(one, other), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _forward(self, one: socket.socket, other: socket.socket) -> None:
        try:
            while True:
                self._flowing.wait()
                try:
                    data = memoryview(one.recv(PIECE))
                except TimeoutError:
                    continue
                if not data:
                    break
                while data:
                    self._flowing.wait()
                    with suppress(TimeoutError):
                        data = data[other.send(data) :]
            other.shutdown(socket.SHUT_WR)
        except OSError:
            # One end is gone: so is the link, unless it was this relay that has ended it.
            for end in (one, other):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
