"""Asks the application again and again and prints which releases answered and how many requests failed.

It ends when the file STOP appears, at the latest after SECONDS: load.py STOP SECONDS
"""

import http.client
import json
import sys
import time
from collections import Counter
from pathlib import Path

answers: Counter[str] = Counter()
failures = []
stop = Path(sys.argv[1])
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end and not stop.exists():
    connection = http.client.HTTPConnection("127.0.0.1", 3000, timeout=10)
    try:
        connection.request("GET", "/health", headers={"Connection": "close"})
        response = connection.getresponse()
        body = json.loads(response.read())
        if response.status == 200:
            answers[body["release"]] += 1
        else:
            failures.append(str(response.status))
    except (OSError, http.client.HTTPException, ValueError) as error:
        failures.append(repr(error))
    finally:
        connection.close()
    time.sleep(0.01)
sys.stdout.write(json.dumps({"answers": answers, "failed": len(failures), "failures": failures[:5]}) + "\n")
