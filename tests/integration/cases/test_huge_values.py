"""Values as large as PostgreSQL allows in a row: copied and proved without a worker holding one in memory."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Selection
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.verify import verify
from integration.conftest import Pair

MEGABYTE = 1024 * 1024
# A process of its own, so that workers are not forked from a large test run. Prints what verify says.
COPY_AND_VERIFY = """
import json, sys
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.copy import copy
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.endpoint import Endpoint
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Selection
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.verify import verify
source, target = (Endpoint.from_args(args) for args in json.load(sys.stdin))
copied = copy(source, target, Selection.from_args(), workers=2)
proof = verify(source, target, Selection.from_args(), workers=1)
print(json.dumps([copied.rows, proof.equal]))
"""


def peak_memory(pid: int, peaks: dict[int, int]) -> None:
    """Note the most memory, in bytes, that this process and those below it have had in use so far."""
    for process in [pid, *peaks]:
        try:
            status = Path(f"/proc/{process}/status").read_text()
            children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        peak = [int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")]
        peaks[process] = max(peaks.get(process, 0), *peak, 0)
        for child in children:
            peaks.setdefault(int(child), 0)


def test_case_12_values_of_hundreds_of_megabytes_are_copied_and_proved_in_bounded_memory(pair: Pair) -> None:
    pair.on_both(
        "CREATE TABLE huge (id int PRIMARY KEY, b bytea COMPRESSION lz4, note text)",
        "CREATE TABLE huge_text (id int PRIMARY KEY, t text COMPRESSION lz4)",
        "CREATE TYPE size AS ENUM ('large')",
        "CREATE TABLE huge_by_text (id int PRIMARY KEY, sizes size[], t text COMPRESSION lz4)",
    )
    pair.on_source(
        f"INSERT INTO huge SELECT 1, convert_to(repeat(md5('1'), {300 * MEGABYTE // 32}), 'UTF8'), 'n'",
        "INSERT INTO huge SELECT g, '\\x00', 'small' FROM generate_series(2, 50) g",
        f"INSERT INTO huge_text SELECT 1, repeat('größer\\ ', {260 * MEGABYTE // 10})",
        f"INSERT INTO huge_by_text SELECT 1, '{{large,NULL}}', repeat('tab\t', {64 * MEGABYTE // 4})",
    )
    arguments = [server.args(pair.dbname) for server in (pair.source_server, pair.target_server)]
    run = subprocess.Popen([sys.executable, "-c", COPY_AND_VERIFY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert run.stdin is not None and run.stdout is not None
    json.dump(arguments, run.stdin)
    run.stdin.close()
    peaks: dict[int, int] = {}
    deadline = time.monotonic() + 240
    while run.poll() is None and time.monotonic() < deadline:
        peak_memory(run.pid, peaks)
        time.sleep(0.05)
    run.kill()
    assert json.loads(run.stdout.read()) == [52, True]
    assert len(peaks) >= 3 and max(peaks.values()) < 200 * MEGABYTE, {pid: peak // MEGABYTE for pid, peak in peaks.items()}

    digests = (
        "SELECT id, octet_length(b), md5(b), note FROM huge ORDER BY id",
        "SELECT id, octet_length(t), md5(t) FROM huge_text",
        "SELECT id, octet_length(t), md5(t), sizes::text FROM huge_by_text",
    )
    for query in digests:
        assert pair.on_source(query) == pair.on_target(query)
    pair.on_target("UPDATE huge SET b = set_byte(b, octet_length(b) - 1, 7) WHERE id = 1")
    (huge,) = verify(pair.source, pair.target, Selection.from_args(include=["public.huge"])).tables
    assert (huge.missing_count, huge.extra_count, huge.changed_count) == (0, 0, 1)
    assert huge.changed[0].key == {"id": "1"} and huge.changed[0].columns == ("b",)
