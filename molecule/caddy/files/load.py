"""Asks one URL again and again, each time on a new connection, and prints how many answers were not 200.

It ends when the file STOP appears, at the latest after SECONDS: load.py ADDRESS NAME STOP SECONDS
"""

import json
import socket
import ssl
import sys
import time
from pathlib import Path

address, name, stop, seconds = sys.argv[1], sys.argv[2], Path(sys.argv[3]), float(sys.argv[4])
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
answers, failures = 0, []
end = time.monotonic() + seconds
while time.monotonic() < end and not stop.exists():
    try:
        with socket.create_connection((address, 443), timeout=10) as plain, context.wrap_socket(plain, server_hostname=name) as secure:
            secure.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
            line = secure.makefile("rb").readline().decode()
        if " 200 " in line:
            answers += 1
        else:
            failures.append(line.strip())
    except OSError as error:
        failures.append(repr(error))
    time.sleep(0.01)
sys.stdout.write(json.dumps({"answers": answers, "failures": failures[:5], "failed": len(failures)}) + "\n")
