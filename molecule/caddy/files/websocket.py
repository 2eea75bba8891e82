"""Opens a WebSocket through Caddy, sends six bytes and writes the status and what came back."""

import socket
import ssl
import sys

context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
with socket.create_connection(("127.0.0.1", 443), timeout=5) as plain, context.wrap_socket(plain, server_hostname="app.test") as secure:
    lines = ["GET /ws HTTP/1.1", "Host: app.test", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
    secure.sendall("\r\n".join([*lines, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "", ""]).encode())
    answer = secure.makefile("rb")
    status = answer.readline().split()[1].decode()
    while answer.readline() != b"\r\n":
        pass
    secure.sendall(b"frozen")
    sys.stdout.write(f"{status} {answer.read(6).decode()}\n")
