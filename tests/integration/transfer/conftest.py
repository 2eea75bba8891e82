"""Sources with a publication and slots, for the tests of the stream's receiver."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from integration.conftest import Pair, Server, own
from integration.transfer.streams import TABLES, Restart, make_slots, slots_dropped
from pgservers import Fleet, debian_programs


@pytest.fixture
def stream(pair: Pair) -> Iterator[Pair]:
    """A pair whose source has tables, a publication and two slots."""
    with slots_dropped(pair.source_server, pair.dbname):
        pair.on_source(*TABLES)
        make_slots(pair)
        yield pair


@pytest.fixture(scope="module")
def impatient() -> Iterator[tuple[Server, Restart]]:
    """A server that gives up silent readers after two seconds and keeps little log for slots; and its restart."""
    with Fleet({"wal_sender_timeout": "2s", "max_slot_wal_keep_size": "32MB", "shared_buffers": "32MB", "max_wal_size": "64MB"}) as fleet:
        server = own(fleet.start(impatient=debian_programs())[0])
        yield server, lambda how: fleet.restart(server, how)


@pytest.fixture
def alone(impatient: tuple[Server, Restart], request: pytest.FixtureRequest) -> Iterator[Pair]:
    """A database on that server, with tables, publication and slots."""
    server, name = impatient[0], f"alone_{abs(hash(request.node.name)) % 10**8}"
    server.execute("postgres", f"CREATE DATABASE {name}")
    with slots_dropped(server, name):
        pair = Pair(server, server, name)
        pair.on_source(*TABLES)
        make_slots(pair)
        yield pair
    server.execute("postgres", f"DROP DATABASE {name} WITH (FORCE)")
