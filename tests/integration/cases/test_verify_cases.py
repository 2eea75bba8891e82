"""Named cases of the verification: keys that are hard to compare, planted differences, exactness under writes, broken indexes."""

from __future__ import annotations

import hashlib
import random
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import compare, slots
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.canonical import STRATEGIES
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.copy import copy
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Selection
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.verify import VerifiedTable, VerifyResult, verify
from integration.conftest import MajorPair, Pair
from integration.transfer.cases import wait_until

ALL = Selection.from_args()
WORDS = (
    *("straße", "Straße", "STRASSE", "éclair", "Éclair", "e", "E", "zoë", "Zoe", "ångström", "Ångström", "😀 a", "😀 A"),
    *("a-b", "ab", "a b", "ß", "ss", "i", "İ", "ı", "I", "ﬀ", "ff", "ñ", "n"),
)


def table(result: VerifyResult, name: str) -> VerifiedTable:
    return next(one for one in result.tables if one.name == f"public.{name}")


def keys(differences: tuple[object, ...]) -> list[tuple[str, ...]]:
    return sorted(tuple(one.key.values()) for one in differences)  # type: ignore[attr-defined]


@pytest.mark.parametrize("strategy", ["record", "md5"])
def test_case_02_text_keys_under_two_collations_and_uuid_keys(pair: Pair, strategy: str) -> None:
    """The source sorts by ICU's German rules, the target byte by byte: no row is missing for that."""
    pair.on_source(
        'CREATE TABLE words (w text COLLATE "de-x-icu", n int, note text, PRIMARY KEY (w, n))',
        "CREATE TABLE ids (id uuid PRIMARY KEY, t text)",
    )
    pair.on_target(
        'CREATE TABLE words (w text COLLATE "C", n int, note text, PRIMARY KEY (w, n))', "CREATE TABLE ids (id uuid PRIMARY KEY, t text)"
    )
    listed = ", ".join(f"('{word}')" for word in WORDS)
    pair.on_source(
        f"INSERT INTO words SELECT w, g, 'note ' || g FROM (VALUES {listed}) v(w), generate_series(1, 300) g",
        "INSERT INTO ids SELECT md5(g::text)::uuid, 't' || g FROM generate_series(1, 5000) g",
    )
    copy(pair.source, pair.target, ALL)
    assert verify(pair.source, pair.target, ALL, hash=strategy).equal
    pair.on_target(
        "UPDATE words SET w = 'strasse' WHERE w = 'straße' AND n = 7",
        "DELETE FROM words WHERE w = '😀 A' AND n = 300",
        "UPDATE words SET note = 'NOTE 5' WHERE w = 'İ' AND n = 5",
        "UPDATE ids SET t = 'T77' WHERE id = md5('77')::uuid",
    )
    result = verify(pair.source, pair.target, ALL, hash=strategy)
    words = table(result, "words")
    assert keys(words.missing) == [("straße", "7"), ("😀 A", "300")] and keys(words.extra) == [("strasse", "7")]
    assert keys(words.changed) == [("İ", "5")] and words.changed[0].columns == ("note",)
    assert keys(table(result, "ids").changed) == [(str(uuid.UUID(hashlib.md5(b"77").hexdigest())),)]


def test_case_03_composite_keys_and_a_nullable_unique_one(pair: Pair) -> None:
    pair.on_both("CREATE TABLE pairs (a int, b int, note text, PRIMARY KEY (a, b))", "CREATE TABLE nullable (a int UNIQUE, b text)")
    pair.on_source(
        "INSERT INTO pairs SELECT a, b, 'n' FROM generate_series(1, 120) a, generate_series(1, 120) b",
        "INSERT INTO nullable VALUES (1, 'x'), (NULL, 'x'), (NULL, 'x'), (NULL, 'y'), (2, NULL)",
        "ANALYZE",
    )
    copy(pair.source, pair.target, ALL)
    clean = verify(pair.source, pair.target, ALL)
    assert clean.equal and table(clean, "pairs").method == "key" and table(clean, "nullable").method == "row_hash"
    pair.on_target(
        "UPDATE pairs SET note = 'm' WHERE (a, b) = (1, 11)",
        "DELETE FROM pairs WHERE (a, b) = (11, 1)",
        "INSERT INTO pairs VALUES (111, 1111, 'n')",
        "DELETE FROM nullable WHERE ctid = (SELECT min(ctid) FROM nullable WHERE a IS NULL AND b = 'x')",
    )
    result = verify(pair.source, pair.target, ALL)
    found = table(result, "pairs")
    assert (keys(found.changed), keys(found.missing), keys(found.extra)) == ([("1", "11")], [("11", "1")], [("111", "1111")])
    assert [(one.row, one.copies) for one in table(result, "nullable").missing] == [("(,x)", (2, 1))]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_case_04_one_of_three_equal_rows_lost_without_a_key(pair: Pair, strategy: str) -> None:
    pair.on_both("CREATE TABLE log (at timestamptz, what text, n bigint)")
    pair.on_source(
        "INSERT INTO log SELECT '2025-01-01'::timestamptz + g % 700 * '1 s'::interval, 'w' || g % 700, g % 700 FROM generate_series(1, 2100) g"
    )
    copy(pair.source, pair.target, ALL)
    assert verify(pair.source, pair.target, ALL, hash=strategy).equal
    pair.on_target("DELETE FROM log WHERE ctid = (SELECT min(ctid) FROM log WHERE n = 42)")
    found = table(verify(pair.source, pair.target, ALL, hash=strategy), "log")
    assert (found.missing_count, found.extra_count, found.changed_count) == (1, 0, 0)
    assert [(one.row, one.copies) for one in found.missing] == [('("2025-01-01 00:00:42+00",w42,42)', (3, 2))]


# A change of each kind that has been seen to hide: value and the value that it becomes.
FOLDS = {
    "i": ("1", "4294967296"),
    "j": ("-1", "-4294967296"),
    "at": ("'2000-01-01 00:00:00.000001+00'", "'2000-01-01 01:11:34.967296+00'"),
    "far": ("'9999-12-31 23:59:59.999999'", "'9999-12-31 23:59:59.99999'"),
    "f": ("0", "'-0'"),
    "g": ("'NaN'", "NULL"),
    "d": ("'infinity'", "'5874897-12-31'"),
    "z": ("0", "NULL"),
    "s": ("''", "NULL"),
    "t": ("'10:00:00.000001'", "'10:00:00.000002'"),
}


@pytest.mark.parametrize("sure", ["", " NOT NULL"])
@pytest.mark.parametrize("with_key", [True, False])
def test_case_14_values_whose_hash_in_the_server_is_the_same_are_told_apart(pair: Pair, sure: str, with_key: bool) -> None:
    """PostgreSQL's hashes fold 64 bits to 32, see no sign of a zero and give a zero's seed back: such changes are seen in both sums."""
    types = {
        "i": "bigint",
        "j": "bigint",
        "at": "timestamptz",
        "far": "timestamp",
        "f": "float8",
        "g": "float4",
        "d": "date",
        "z": "float8",
        "s": "text",
        "t": "time",
    }
    listed = ", ".join(f"{name} {types[name]}{sure if FOLDS[name][1] != 'NULL' else ''}" for name in FOLDS)
    key = "id int PRIMARY KEY" if with_key else "id int"
    pair.on_both(f"CREATE TABLE folds ({key}, {listed})")
    values = ", ".join(value for value, _changed in FOLDS.values())
    pair.on_source(f"INSERT INTO folds SELECT g, {values} FROM generate_series(1, {len(FOLDS)}) g")
    copy(pair.source, pair.target, ALL)
    assert verify(pair.source, pair.target, ALL).equal
    expected = {}
    for number, (name, (_value, changed)) in enumerate(FOLDS.items(), start=1):
        pair.on_target(f"UPDATE folds SET {name} = {changed} WHERE id = {number}")
        expected[str(number)] = (name,)
    found = table(verify(pair.source, pair.target, ALL), "folds")
    if with_key:
        assert {(one.key or {})["id"]: one.columns for one in found.changed} == expected
    else:
        assert (found.missing_count, found.extra_count) == (len(FOLDS), len(FOLDS))


@contextmanager
def writers(pair: Pair, count: int = 2) -> Iterator[list[int]]:
    """Connections that insert, update and delete on the source as fast as they can; yields what each has done so far."""
    stop = threading.Event()
    done = [0] * count

    def write(number: int) -> None:
        generator = random.Random(number)
        with pair.source_server.connect(pair.dbname) as conn:
            while not stop.is_set():
                row = generator.randrange(1, 3000)
                conn.execute(f"UPDATE acc SET n = n + 1 WHERE id = {row}")
                conn.execute(f"INSERT INTO acc (n, note) VALUES ({row}, 'new') RETURNING id")
                conn.execute(f"DELETE FROM acc WHERE id = {generator.randrange(1, 3000)}")
                done[number] += 1

    threads = [threading.Thread(target=write, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield done
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_case_36_at_one_position_under_writes_nothing_is_accused_and_every_plant_is_found(pair: Pair) -> None:
    """The target is a copy under the snapshot of a slot and stands still; the source is written to all the time."""
    pair.on_source(
        "CREATE TABLE acc (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, n int, note text, f float8)",
        "INSERT INTO acc (n, note, f) SELECT g, CASE WHEN g % 5 = 0 THEN NULL ELSE 'note ' || g END, 0.1 * g FROM generate_series(1, 6000) g",
    )
    pair.on_target("CREATE TABLE acc (id bigint PRIMARY KEY, n int, note text, f float8)")
    kinds = (
        ("missing", "DELETE FROM acc WHERE id = 3500"),
        ("extra", "INSERT INTO acc VALUES (999999999, 1, 'x', 1)"),
        ("changed", "UPDATE acc SET n = n + 1 WHERE id = 3501"),
        ("swapped", "UPDATE acc a SET note = b.note FROM acc b WHERE (a.id, b.id) IN ((3502, 3503), (3503, 3502))"),
        ("emptied", "UPDATE acc SET note = '' WHERE id = 3505"),
        ("trailing", "UPDATE acc SET note = note || ' ' WHERE id = 3506"),
        ("ulp", "UPDATE acc SET f = f * (1 + 2.3e-16) WHERE id = 3507"),
    )
    falsely = found_all = 0
    with writers(pair) as done:
        wait_until(lambda: min(done) > 50, "writing")
        for number in range(6):
            before = sum(done)
            with slots.create(pair.source, f"copied_{number}", temporary=True) as slot:
                pair.on_target("TRUNCATE acc")
                with pair.source_server.connect(pair.dbname) as reader, pair.target_server.connect(pair.dbname) as writer:
                    reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
                    reader.execute(f"SET TRANSACTION SNAPSHOT '{slot.snapshot}'")
                    with reader.cursor().copy("COPY acc TO STDOUT") as out, writer.cursor().copy("COPY acc FROM STDIN") as into:
                        for data in out:
                            into.write(data)
                wait_until(lambda before=before: sum(done) > before + 20, "more writing")  # type: ignore[misc]
                result = verify(pair.source, pair.target, ALL, source_snapshot=slot.snapshot)
                falsely += not result.equal
                if number == 5:
                    pair.on_target(*(statement for _kind, statement in kinds))
                    found = table(verify(pair.source, pair.target, ALL, source_snapshot=slot.snapshot), "acc")
                    found_all = (
                        keys(found.missing) == [("3500",)]
                        and keys(found.extra) == [("999999999",)]
                        and {(one.key or {})["id"]: one.columns for one in found.changed}
                        == {"3501": ("n",), "3502": ("note",), "3503": ("note",), "3505": ("note",), "3506": ("note",), "3507": ("f",)}
                    )
    assert falsely == 0 and found_all


def test_case_36_pairing_by_a_slot_gives_the_position_and_says_whether_it_is_exact(pair: Pair) -> None:
    pair.on_both("CREATE TABLE acc (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, n int, note text)")
    pair.on_source("INSERT INTO acc (n, note) SELECT g, 'x' FROM generate_series(1, 3000) g")
    copy(pair.source, pair.target, ALL)
    quiet = verify(pair.source, pair.target, ALL)
    assert quiet.equal and quiet.exact, "nobody writes to either side"
    with writers(pair) as done:
        wait_until(lambda: min(done) > 20, "writing")
        plain = verify(pair.source, pair.target, ALL)
        assert not plain.exact and not plain.equal
        paired = verify(pair.source, pair.target, ALL, pairing="slot")
        assert paired.exact and paired.lsn is not None and not paired.equal
        asked: list[str] = []
        with pair.target_server.connect(pair.dbname) as paused:

            def pause_at(lsn: str) -> str:
                asked.append(lsn)
                paused.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
                name = str(paused.execute("SELECT pg_export_snapshot()").fetchone()[0])  # type: ignore[index]
                pair.on_target("DELETE FROM acc")
                return name

            hooked = verify(pair.source, pair.target, ALL, pairing="slot", pause_at=pause_at)
        assert hooked.exact and asked == [hooked.lsn] and table(hooked, "acc").target_rows == 3000
    assert pair.on_source("SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'cutover_verify%'") == [(0,)]
    with pytest.raises(TransferError, match="paused only at the position of a slot"):
        verify(pair.source, pair.target, ALL, pause_at=lambda lsn: lsn)
    with pytest.raises(TransferError, match="takes its own"):
        verify(pair.source, pair.target, ALL, pairing="slot", target_snapshot="1-1-1")


def test_case_46_damaged_index_on_the_target_is_found(pair: Pair) -> None:
    """The rows are all there and equal; the index answers wrongly for them, as after an upgrade of the collation library."""
    pair.on_both("CREATE TABLE names (id int PRIMARY KEY, name text, age int)")
    pair.on_target("CREATE INDEX by_name ON names (name)", "CREATE INDEX by_age ON names (age)")
    pair.on_source("INSERT INTO names SELECT g, 'name ' || g, g % 90 FROM generate_series(1, 2000) g")
    copy(pair.source, pair.target, ALL)
    with pytest.raises(TransferError, match="amcheck is not installed"):
        verify(pair.source, pair.target, ALL, check_indexes=True)
    pair.on_target("CREATE EXTENSION amcheck SCHEMA public")
    sound = verify(pair.source, pair.target, ALL, check_indexes=True)
    assert sound.equal and sound.indexes and sound.indexes.checked >= 3 and not sound.indexes.broken
    # The index is told for a while that its column is sorted another way than it was when its entries were made.
    collation = (
        "UPDATE pg_index SET indcollation = (SELECT array_to_string(ARRAY[oid], ' ')::oidvector FROM pg_collation WHERE collname = '{}')"
        " WHERE indexrelid = 'by_name'::regclass"
    )
    pair.on_target(collation.format("de-x-icu"))
    for server in (pair.on_source, pair.on_target):
        server("INSERT INTO names VALUES (3001, 'NAME 5', 1), (3002, 'Name 50', 1), (3003, 'naMe 500', 1)")
    pair.on_target(collation.format("C"))
    assert verify(pair.source, pair.target, ALL).equal, "rows alone do not show it"
    result = verify(pair.source, pair.target, ALL, check_indexes=True)
    assert not result.equal and result.indexes and [one.index for one in result.indexes.broken] == ["public.by_name"]
    assert "by_name" in result.indexes.broken[0].problem and result.indexes.broken[0].table == "public.names"


def test_a_not_null_that_was_never_validated_is_not_believed(major_pair: MajorPair) -> None:
    pair = major_pair(18, 18)
    pair.on_both("CREATE TABLE t (id int PRIMARY KEY, a int, b text)")
    pair.on_source("INSERT INTO t SELECT g, NULL, 'b' || g FROM generate_series(1, 50) g")
    copy(pair.source, pair.target, ALL)
    pair.on_both("ALTER TABLE t ADD CONSTRAINT sure NOT NULL a NOT VALID")
    assert verify(pair.source, pair.target, ALL).equal
    pair.on_target(
        "ALTER TABLE t DROP CONSTRAINT sure", "UPDATE t SET b = 'x' WHERE id = 5", "ALTER TABLE t ADD CONSTRAINT sure NOT NULL a NOT VALID"
    )
    found = table(verify(pair.source, pair.target, ALL), "t")
    assert keys(found.changed) == [("5",)] and found.changed[0].columns == ("b",)


def test_one_large_table_keeps_all_workers_busy_and_a_lost_connection_is_made_anew(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.on_both("CREATE TABLE large (id bigint PRIMARY KEY, note text)", "CREATE TABLE keyless (n int, note text)")
    pair.on_source(
        "INSERT INTO large SELECT CASE WHEN g > 40000 THEN g * 1000000::bigint ELSE g END, repeat('n', 60) || g FROM generate_series(1, 60000) g",
        "INSERT INTO keyless SELECT g % 9000, repeat('n', 60) || g % 9000 FROM generate_series(1, 60000) g",
        "ANALYZE",
    )
    copy(pair.source, pair.target, ALL)
    pair.on_target(
        "ANALYZE",
        "UPDATE large SET note = 'x' WHERE id IN (77, 55000000000)",
        "DELETE FROM keyless WHERE n = 5 AND ctid = (SELECT min(ctid) FROM keyless WHERE n = 5)",
    )
    together, first_of = threading.Barrier(3), set[str]()
    ask = compare.Work.ask

    def watched(work: compare.Work, duo: compare.Duo, part: int) -> bool:
        """Three workers have to be at the same table at once, and the first of them then loses its connection."""
        if part < 3 and (begun := f"{work.pair.name} {part}") not in first_of:
            first_of.add(begun)
            together.wait(60)
            if part == 0:
                pair.on_source(f"SELECT pg_terminate_backend({duo.source.info.backend_pid})")
        return ask(work, duo, part)

    monkeypatch.setattr(compare, "PART_BYTES", 1_000_000)
    monkeypatch.setattr(compare.Work, "ask", watched)
    result = verify(pair.source, pair.target, ALL, workers=3)
    assert first_of == {f"public.{name} {part}" for name in ("large", "keyless") for part in range(3)}
    assert keys(table(result, "large").changed) == [("55000000000",), ("77",)] and table(result, "large").rows == 60_000
    # 60,000 rows of 9,000 kinds: kind 5 seven times.
    assert [one.copies for one in table(result, "keyless").missing] == [(7, 6)] and table(result, "keyless").missing_count == 1
    assert table(result, "keyless").rows == 60_000
