"""The publication of the change stream on real servers: what is published under which identity, and that the application never notices."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import session
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.endpoint import Endpoint
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Selection
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream import publication
from integration.cases import untouched
from integration.conftest import MajorPair, Pair
from integration.transfer.cases import wait_until

EVERYTHING = Selection()
SHAPES = (
    "CREATE TABLE keyed (id int PRIMARY KEY, a int)",
    "CREATE TABLE late (id int PRIMARY KEY DEFERRABLE, a int)",
    "CREATE TABLE bare (id int, a int)",
    "CREATE TABLE picked (id int NOT NULL, a int); CREATE UNIQUE INDEX picked_id ON picked (id)",
    "CREATE TABLE silent (id int PRIMARY KEY, a int); ALTER TABLE silent REPLICA IDENTITY NOTHING",
    "CREATE TABLE whole (id int PRIMARY KEY, a int); ALTER TABLE whole REPLICA IDENTITY FULL",
    "CREATE TABLE indexed (id int PRIMARY KEY, a int, other int NOT NULL DEFAULT 0); CREATE UNIQUE INDEX indexed_other ON indexed (other, id);"
    " ALTER TABLE indexed REPLICA IDENTITY USING INDEX indexed_other",
    "CREATE TABLE orphaned (id int NOT NULL, a int); CREATE UNIQUE INDEX orphaned_id ON orphaned (id);"
    " ALTER TABLE orphaned REPLICA IDENTITY USING INDEX orphaned_id; DROP INDEX orphaned_id",
    "CREATE TABLE computed (id int PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) STORED)",
    "CREATE TABLE computed_bare (id int, a int, twice int GENERATED ALWAYS AS (a * 2) STORED)",
    "CREATE UNLOGGED TABLE forgotten (id int PRIMARY KEY, a int)",
    "CREATE TABLE parent (id int PRIMARY KEY, a int)",
    "CREATE TABLE child (extra int) INHERITS (parent)",
    "CREATE TABLE tree (id int, a int, PRIMARY KEY (id)) PARTITION BY RANGE (id)",
    "CREATE TABLE tree_1 PARTITION OF tree FOR VALUES FROM (0) TO (10) PARTITION BY RANGE (id)",
    "CREATE TABLE tree_1_a PARTITION OF tree_1 FOR VALUES FROM (0) TO (10); ALTER TABLE tree_1_a REPLICA IDENTITY NOTHING",
    "CREATE TABLE tree_2 PARTITION OF tree FOR VALUES FROM (10) TO (20); ALTER TABLE tree_2 REPLICA IDENTITY FULL",
    "CREATE TABLE loose (id int, a int) PARTITION BY RANGE (id)",
    "CREATE TABLE loose_1 PARTITION OF loose FOR VALUES FROM (0) TO (100)",
    'CREATE TABLE "Odd ""Name" (id int, a int)',
    "CREATE MATERIALIZED VIEW seen AS SELECT * FROM keyed",
    "CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER elsewhere FOREIGN DATA WRAPPER nowhere; CREATE FOREIGN TABLE far (id int) SERVER elsewhere",
)
WRITTEN = (
    "keyed", "late", "bare", "picked", "silent", "whole", "indexed", "orphaned", "computed", "computed_bare", "forgotten", "parent", "child", "tree",
    "loose", '"Odd ""Name"',
)  # fmt: skip
IDENTITIES = (
    "SELECT c.relname, c.relreplident::text, (SELECT x.relname FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid WHERE i.indrelid = c.oid"
    " AND i.indisreplident) FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') ORDER BY 1"
)


@contextmanager
def connected(endpoint: Endpoint) -> Iterator[psycopg.Connection[Any]]:
    with session.connect(endpoint, application_name="cutover test") as conn:
        yield conn


def create(pair: Pair, selection: Selection = EVERYTHING, **more: Any) -> publication.Made:
    with connected(pair.source) as conn:
        return publication.create(conn, selection, **more)


def remove(pair: Pair, **more: Any) -> publication.Removed:
    with connected(pair.source) as conn:
        return publication.remove(conn, **more)


def drift(pair: Pair, selection: Selection = EVERYTHING) -> publication.Drift:
    with session.connect(pair.source, application_name="cutover test", read_only=True) as conn:
        return publication.drift(conn, selection)


class Application:
    """Inserts, updates and deletes rows of every table as fast as it can, and remembers the first error."""

    def __init__(self, pair: Pair, tables: tuple[str, ...]) -> None:
        self.pair, self.tables, self.error, self.rounds, self.stop = pair, tables, "", 0, threading.Event()

    def __enter__(self) -> Application:
        self.thread = threading.Thread(target=self._work)
        self.thread.start()
        wait_until(lambda: self.rounds > 0 or bool(self.error), "the application's first round")
        return self

    def __exit__(self, *_unused: object) -> None:
        seen = self.rounds
        wait_until(lambda: self.rounds > seen + 1 or bool(self.error), "another round of the application")
        self.stop.set()
        self.thread.join()
        assert not self.error, self.error

    def _work(self) -> None:
        with self.pair.source_server.connect(self.pair.dbname) as conn:
            try:
                while not self.stop.is_set():
                    for table in self.tables:
                        conn.execute(f"INSERT INTO {table} (id, a) VALUES (5, 1)")
                        conn.execute(f"UPDATE {table} SET a = a + 1 WHERE id = 5")
                        conn.execute(f"DELETE FROM {table} WHERE id = 5")
                    self.rounds += 1
            except psycopg.Error as error:
                self.error = f"{table}: {error}"


def decoded(pair: Pair, *work: str) -> set[str]:
    """Names of the relations for which the stream carries changes while these statements run."""
    pair.on_source("SELECT pg_create_logical_replication_slot('peeker', 'pgoutput')")
    try:
        pair.on_source("SET synchronous_commit = on", *work)
        rows = pair.on_source(
            "SELECT data FROM pg_logical_slot_peek_binary_changes('peeker', NULL, NULL, 'proto_version', '1', 'publication_names', 'cutover')"
        )
        # The server describes a partition beside its root; what counts is the relation that the changes are sent for.
        messages = [bytes(row[0]) for row in rows]
        described = {message[1:5]: message[5:].split(b"\0")[:2] for message in messages if message[:1] == b"R"}
        carried = {message[1:5] for message in messages if message[:1] in (b"I", b"U", b"D")}
        return {b".".join(described[oid]).decode() for oid in carried}
    finally:
        pair.on_source("SELECT pg_drop_replication_slot('peeker')")


@pytest.mark.parametrize("major", [14, 18])
def test_the_application_never_notices_and_everything_is_as_before_afterwards(major_pair: MajorPair, major: int) -> None:
    pair = major_pair(major, major)
    pair.on_source(*SHAPES)
    before = pair.on_source(IDENTITIES)
    with Application(pair, WRITTEN):
        made = create(pair)
        names = made.outlook.names()
        apart = {one.object: one.instead for one in made.outlook.not_streamed}
        assert made.changed and made.outlook.state == "absent"
        assert apart.pop("public.forgotten") == "frozen" and apart.pop("public.far") == "never" and apart.pop("public.seen") == "never"
        # From 18 on the server refuses updates of a table under FULL whose generated column is not published.
        assert apart == ({"public.computed_bare": "frozen"} if major == 18 else {})
        wanted = {
            f"public.{name}"
            for name in ("bare", "child", "computed", "indexed", "keyed", "late", "loose_1", "orphaned", "parent", "picked")
        }
        wanted |= {"public.silent", "public.tree", "public.whole", 'public.Odd "Name'} | ({"public.computed_bare"} if major < 18 else set())
        assert set(names) == wanted
        told = set(made.identities)
        assert {
            "public.bare: DEFAULT -> FULL",
            'public.picked: DEFAULT -> USING INDEX "picked_id"',
            "public.silent: NOTHING -> DEFAULT",
        } < told
        assert {"public.orphaned: NOTHING -> FULL", "public.tree_1_a: NOTHING -> DEFAULT", "public.loose_1: DEFAULT -> FULL"} < told
        assert not any(name in one for one in told for name in ("whole", "indexed", "tree_2", "public.tree:", "public.keyed"))
        assert any("public.loose is streamed partition by partition" in text for text in made.outlook.warnings)
        assert not create(pair).changed and not drift(pair).any
        # A partition that is added later can be written to in either kind of tree.
        pair.on_source("CREATE TABLE tree_3 PARTITION OF tree FOR VALUES FROM (20) TO (30)")
        pair.on_source("CREATE TABLE loose_2 PARTITION OF loose FOR VALUES FROM (100) TO (200)")
        pair.on_source(
            "INSERT INTO tree VALUES (25, 1)", "INSERT INTO loose VALUES (125, 1)", "UPDATE tree SET a = 2", "UPDATE loose SET a = 2"
        )
        assert drift(pair) == publication.Drift(new=("public.loose_2",))
        pair.on_source("DROP TABLE tree_3, loose_2")
        seen = decoded(pair, "INSERT INTO tree VALUES (3, 3), (13, 3)", "INSERT INTO loose VALUES (7, 7)", "UPDATE bare SET a = 1")
        assert seen >= {"public.tree", "public.loose_1"} and not seen & {"public.tree_1_a", "public.tree_2", "public.forgotten"}
        gone = remove(pair)
        assert gone.changed and gone.dropped and not gone.kept and len(gone.restored) == len(told)
    orphaned = ("orphaned", "i", None)  # as good as NOTHING, which is what can be set again
    assert pair.on_source(IDENTITIES) == [("orphaned", "n", None) if row == orphaned else row for row in before]
    assert pair.on_source("SELECT to_regnamespace('cutover') IS NULL, (SELECT count(*) FROM pg_publication)") == [(True, 0)]
    assert remove(pair) == publication.Removed(False)


def test_what_the_rules_rest_on(major_pair: MajorPair) -> None:
    """PostgreSQL 18 refuses what the plan leaves out, and a partition made later refuses what the plan does not publish through a root without key."""
    pair = major_pair(18, 18)
    pair.on_source(*SHAPES[9:10], "ALTER TABLE computed_bare REPLICA IDENTITY FULL", "CREATE PUBLICATION p FOR TABLE computed_bare")
    with pytest.raises(psycopg.errors.Error, match="cannot update table"):
        pair.on_source("INSERT INTO computed_bare VALUES (1, 1)", "UPDATE computed_bare SET a = 2")
    pair.on_source("CREATE TABLE loose (id int) PARTITION BY RANGE (id)", "ALTER TABLE loose REPLICA IDENTITY FULL")
    pair.on_source("ALTER PUBLICATION p SET TABLE loose", "CREATE TABLE loose_1 PARTITION OF loose FOR VALUES FROM (0) TO (100)")
    with pytest.raises(psycopg.errors.Error, match="cannot update table"):
        pair.on_source("INSERT INTO loose VALUES (1)", "UPDATE loose SET id = 2")


def test_check_and_plan_touch_nothing(pair: Pair) -> None:
    pair.on_source(*SHAPES[:4])
    marked = untouched.mark(pair)
    planned = create(pair, check=True)
    assert planned.changed and planned.identities and remove(pair, check=True) == publication.Removed(False)
    with session.connect(pair.source, application_name="cutover test", read_only=True) as conn:
        assert publication.plan(conn, EVERYTHING).names() == planned.outlook.names()
    assert untouched.mark(pair) == marked
    create(pair)
    would = remove(pair, check=True)
    assert would.changed and would.dropped and "public.bare" in would.restored
    assert pair.on_source("SELECT count(*) FROM pg_publication") == [(1,)]


def test_a_reader_in_the_way_is_named_and_what_was_changed_is_put_back(pair: Pair) -> None:
    pair.on_source(*SHAPES[:4])
    before = pair.on_source(IDENTITIES)
    with pair.source_server.connect(pair.dbname) as reader, Application(pair, ("keyed", "bare")):
        reader.execute("SET application_name = 'monthly report'; BEGIN; SELECT count(*) FROM picked")
        with pytest.raises(TransferError) as caught:
            create(pair, attempts=3)
        assert caught.value.details["kind"] == "locked" and "public.picked" in caught.value.message
        assert f"pid {reader.info.backend_pid} (postgres@monthly report)" in caught.value.message
        assert "what this run had changed is as before" in caught.value.message
        assert [one["who"] for one in caught.value.details["blockers"]] == [f"pid {reader.info.backend_pid} (postgres@monthly report)"]
        assert pair.on_source(IDENTITIES) == before
        assert pair.on_source("SELECT to_regnamespace('cutover') IS NULL, (SELECT count(*) FROM pg_publication)") == [(True, 0)]
    assert create(pair).changed
    with pair.source_server.connect(pair.dbname) as reader, Application(pair, ("keyed", "bare", "late")):
        reader.execute("BEGIN; SELECT count(*) FROM picked")
        with pytest.raises(TransferError) as caught:
            remove(pair, attempts=2)
        assert caught.value.details["kind"] == "locked" and "public.picked" in caught.value.message
    finished = remove(pair)
    assert finished.restored == ("public.picked",) and not finished.dropped and pair.on_source(IDENTITIES) == before


@pytest.mark.parametrize("point", ["identity:public.bare", "identity:public.picked", "identities", "publication"])
@pytest.mark.parametrize("then", ["create", "remove"])
def test_a_run_that_dies_between_two_steps_leaves_nothing_unknown(pair: Pair, point: str, then: str) -> None:
    pair.on_source(*SHAPES[:5])
    before = pair.on_source(IDENTITIES)

    def die(at: str) -> None:
        if at == point:
            os._exit(9)

    child = os.fork()
    if not child:
        try:
            create(pair, fault=die)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    with Application(pair, WRITTEN[:5]):
        if then == "create":
            assert create(pair).changed is (point != "publication")
            assert not create(pair).changed and not drift(pair).any
        remove(pair)
    assert pair.on_source(IDENTITIES) == before
    assert pair.on_source("SELECT to_regnamespace('cutover') IS NULL") == [(True,)]


def test_drift_names_what_moved(pair: Pair) -> None:
    pair.on_source(*SHAPES[:7], "CREATE TABLE doomed (id int PRIMARY KEY)", "CREATE TABLE old (id int PRIMARY KEY)")
    assert drift(pair) == publication.Drift(missing=True)
    create(pair)
    pair.on_source(
        "CREATE TABLE born (id int)", "DROP TABLE doomed", "ALTER TABLE old RENAME TO young", "ALTER TABLE bare REPLICA IDENTITY DEFAULT"
    )
    pair.on_source("ALTER PUBLICATION cutover DROP TABLE late")
    found = drift(pair)
    assert found == publication.Drift(
        new=("public.born", "public.late"),
        identity=("public.bare",),
        dropped=("public.doomed", "public.late"),
        renamed=("public.old -> public.young",),
    )
    again = create(pair)
    assert again.added == ("public.born", "public.late") and not again.removed
    assert not drift(pair).any and not create(pair).changed
    narrower = create(pair, Selection(exclude=("public.keyed",)))
    assert narrower.removed == ("public.keyed",) and not narrower.added
    assert not drift(pair, Selection(exclude=("public.keyed",))).any
    pair.on_source("ALTER TABLE born REPLICA IDENTITY NOTHING")
    assert remove(pair).kept == ("public.born",)
    assert ("born", "n", None) in pair.on_source(IDENTITIES) and ("bare", "d", None) in pair.on_source(IDENTITIES)


def test_somebody_elses_publication_is_used_or_refused_never_changed(pair: Pair) -> None:
    pair.on_source("CREATE TABLE a (id int PRIMARY KEY)", "CREATE TABLE b (id int PRIMARY KEY)", "CREATE PUBLICATION cutover FOR TABLE a")
    with pytest.raises(TransferError) as caught:
        create(pair)
    assert caught.value.details["kind"] == "publication_exists"
    pair.on_source("DROP PUBLICATION cutover", "CREATE PUBLICATION cutover FOR ALL TABLES WITH (publish_via_partition_root = true)")
    made = create(pair)
    assert made.outlook.state == "usable" and not create(pair).changed and not drift(pair).any
    pair.on_source("CREATE TABLE c (id int PRIMARY KEY)")
    assert drift(pair).new == ("public.c",)
    assert remove(pair) == publication.Removed(True) and pair.on_source("SELECT puballtables FROM pg_publication") == [(True,)]


def test_ours_is_mended_whatever_somebody_made_of_it(pair: Pair) -> None:
    pair.on_source("CREATE TABLE a (id int PRIMARY KEY, b int)", "CREATE TABLE c (id int PRIMARY KEY)")
    create(pair)
    for damage in (
        "ALTER PUBLICATION cutover SET (publish = 'insert')",
        "ALTER PUBLICATION cutover SET (publish_via_partition_root = false)",
        "ALTER PUBLICATION cutover SET TABLE a WHERE (id > 5), c",
        "ALTER PUBLICATION cutover SET TABLE a (id), c",
        "ALTER PUBLICATION cutover ADD TABLES IN SCHEMA public",
    ):
        pair.on_source(damage)
        made = create(pair)
        assert made.changed and made.outlook.state == "differs", damage
        assert not create(pair).changed
    assert remove(pair).dropped


def test_a_role_publishes_what_it_owns_and_says_what_becomes_of_the_rest(pair: Pair) -> None:
    pair.on_source(
        "DROP ROLE IF EXISTS stream_mover, stream_owner",
        "CREATE ROLE stream_mover LOGIN PASSWORD 'throw-away'; CREATE ROLE stream_owner",
        "CREATE TABLE mine (id int, a int); ALTER TABLE mine OWNER TO stream_mover",
        "CREATE TABLE theirs (id int PRIMARY KEY); ALTER TABLE theirs OWNER TO stream_owner; GRANT SELECT ON theirs TO stream_mover",
    )
    mover = pair.source_server.endpoint(pair.dbname, user="stream_mover")
    try:
        with connected(mover) as conn, pytest.raises(TransferError) as caught:
            publication.create(conn, EVERYTHING)
        assert caught.value.details["kind"] == "privilege" and "GRANT CREATE ON DATABASE" in caught.value.remedy
        pair.on_source(f"GRANT CREATE ON DATABASE {pair.dbname} TO stream_mover")
        with connected(mover) as conn:
            made = publication.create(conn, EVERYTHING)
            assert made.outlook.names() == ["public.mine"] and made.identities == ("public.mine: DEFAULT -> FULL",)
            assert [one.plain()["reason"] for one in made.outlook.not_streamed] == [
                'it belongs to stream_owner, and only its owner may publish it (GRANT "stream_owner" to our role to stream it);'
                " it is brought over while writes are stopped"
            ]
            assert publication.remove(conn).restored == ("public.mine",)
            with pytest.raises(TransferError) as caught:
                publication.create(conn, Selection(include=("public.theirs",)))
            assert caught.value.details["kind"] == "nothing_to_stream" and "stream_owner" in caught.value.message
        # Where supautils would run the statement as its superuser the plan takes the table in; here nothing does, and all is put back.
        pair.on_source(f"ALTER DATABASE {pair.dbname} SET supautils.privileged_role = 'stream_mover'")
        with connected(mover) as conn:
            assert publication.plan(conn, EVERYTHING).names() == ["public.mine", "public.theirs"]
            with pytest.raises(TransferError) as caught:
                publication.create(conn, EVERYTHING)
        assert caught.value.details["kind"] == "privilege" and "what this run had changed is as before" in caught.value.message
        assert ("mine", "d", None) in pair.on_source(IDENTITIES)
    finally:
        pair.on_source(f"ALTER DATABASE {pair.dbname} RESET ALL")
        pair.on_source("DROP OWNED BY stream_mover, stream_owner CASCADE; DROP ROLE stream_mover, stream_owner")
