"""The spool keeps what was synced, whatever is torn, and hands out whole transactions only."""

from __future__ import annotations

import json
import os
import resource
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream import records, spool
from hypothesis import given, settings
from hypothesis import strategies as st

META = {"system": "7123", "database": "app", "slot": "cutover"}
START = 0x1000
Messages = list[tuple[int, bytes]]


def begin(final: int) -> bytes:
    return b"B" + struct.pack(">QQI", final, 0, 7)


def commit(final: int, end: int) -> bytes:
    return b"C\0" + struct.pack(">QQQ", final, end, 0)


def relation(oid: int, name: str = "t") -> bytes:
    return b"R" + struct.pack(">I", oid) + b"public\0" + name.encode() + b"\0d\0\0"


def transaction(final: int, *bodies: bytes, first: int | None = None) -> Messages:
    """Its messages; the commit record takes 48 bytes of the log. first: where the transaction began in the log."""
    at = final - 8 if first is None else first
    return [(at, begin(final)), *((at, body) for body in bodies), (final + 48, commit(final, final + 48))]


def fill(writer: spool.Writer, *messages: Messages) -> None:
    for one in messages:
        for position, data in one:
            writer.append(position, data)


def read(folder: Path, applied: int = START) -> Messages:
    reader = spool.Reader(folder)
    try:
        reader.seek(applied)
        return list(reader.transactions())
    finally:
        reader.close()


def kind_of(caught: pytest.ExceptionInfo[TransferError]) -> object:
    return caught.value.details["kind"]


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[spool.Writer]:
    with opened(tmp_path) as made:
        yield made


@contextmanager
def opened(folder: Path, segment_bytes: int = spool.SEGMENT_BYTES) -> Iterator[spool.Writer]:
    made = spool.Writer(folder, META, segment_bytes=segment_bytes)
    try:
        yield made
    finally:
        made.close()


def test_readers_see_what_was_flushed_and_whole(writer: spool.Writer, tmp_path: Path) -> None:
    writer.advance(START)
    one, two = transaction(0x1100, b"Ione"), transaction(0x1200, b"Itwo", first=0x1050)
    fill(writer, one)
    reader = spool.Reader(tmp_path)
    reader.seek(START)
    assert list(reader.transactions()) == [] and reader.spooled() == 0
    writer.flush()
    assert list(reader.transactions()) == one and reader.spooled() == 0x1130 and list(reader.transactions()) == []
    fill(writer, two[:-1])
    writer.flush()
    assert list(reader.transactions()) == [] and reader.spooled() == 0x1130
    fill(writer, [two[-1]])
    writer.advance(0x5000)
    assert writer.sync() == 0x5000
    assert list(reader.transactions()) == two and reader.spooled() == 0x5000


def test_seek_goes_behind_what_was_applied(writer: spool.Writer, tmp_path: Path) -> None:
    writer.advance(START)
    all_of_it = [transaction(0x1100 * number, b"I%d" % number) for number in range(1, 5)]
    fill(writer, *all_of_it)
    writer.flush()
    for number in range(5):
        applied = all_of_it[number - 1][-1][0] if number else START
        assert read(tmp_path, applied) == [message for one in all_of_it[number:] for message in one]
    # Beyond the end, as after a crash of the mover's machine: there is nothing yet, and no complaint.
    assert read(tmp_path, 0x99999) == []
    with pytest.raises(TransferError, match="begins at 0/1000, and changes since 0/FFF") as caught:
        read(tmp_path, START - 1)
    assert kind_of(caught) == "spool_gap"


def test_nothing_to_read_before_the_writer_has_begun(tmp_path: Path) -> None:
    reader = spool.Reader(tmp_path / "later")
    reader.seek(START)
    assert list(reader.transactions()) == [] and reader.spooled() == 0 and not reader.wait(0.01)
    with opened(tmp_path / "later") as writer:
        writer.advance(START)
        fill(writer, transaction(0x1100))
        writer.flush()
        assert reader.wait(0) and list(reader.transactions()) == transaction(0x1100) and not reader.wait(0.01)
        writer.advance(0x2000)
        writer.flush()
        assert reader.wait(0)


def test_an_iterator_left_in_the_middle_gives_the_transaction_again(writer: spool.Writer, tmp_path: Path) -> None:
    writer.advance(START)
    one, two = transaction(0x1100, relation(5), b"Ione"), transaction(0x1200, b"Itwo")
    fill(writer, one, two)
    writer.flush()
    reader = spool.Reader(tmp_path)
    reader.seek(one[-1][0])
    for taken in range(1, 4):
        found = reader.transactions()
        assert [next(found) for _unused in range(taken)] == [two[0], one[1], two[1]][:taken]
    assert list(reader.transactions()) == [two[0], one[1], *two[1:]]


def test_descriptions_reach_who_begins_in_the_middle(tmp_path: Path) -> None:
    """The sender describes a table once per session; segments and seeks must not lose it."""
    with opened(tmp_path, segment_bytes=200) as writer:
        writer.advance(START)
        fill(writer, transaction(0x1100, b"Y" + struct.pack(">I", 9) + b"public\0mood\0", relation(5, "old"), b"I" + b"x" * 200))
        fill(writer, transaction(0x1200, relation(5, "new"), b"I" + b"x" * 200), transaction(0x1300, b"I" + b"x" * 200))
        writer.flush()
        assert len(records.segments(tmp_path)) == 3
        found = read(tmp_path, 0x1230)
        assert [data[:1] for _position, data in found] == [b"B", b"Y", b"R", b"I", b"C"] and b"new" in found[2][1]
        assert read(tmp_path)[-3:] == transaction(0x1300, b"I" + b"x" * 200)
    # A new session describes anew, so the next segment begins without the old words.
    with opened(tmp_path, segment_bytes=200) as writer:
        fill(writer, transaction(0x1400, relation(6), b"Ix"))
        writer.flush()
        assert [data[:1] for _position, data in read(tmp_path, 0x1330)] == [b"B", b"R", b"I", b"C"]


def test_a_large_transaction_stays_in_one_segment_and_out_of_memory(tmp_path: Path) -> None:
    with opened(tmp_path, segment_bytes=10_000) as writer:
        writer.advance(START)
        body = [b"I" + bytes([number % 256]) * 3_000_000 for number in range(4)]
        large = transaction(0x1100, *body)
        fill(writer, large[:-1])
        assert len(writer._buffer) < 4_000_000 and len(records.segments(tmp_path)) == 1
        writer.sync()
        assert read(tmp_path) == []
        fill(writer, large[-1:], transaction(0x1200))
        writer.flush()
        assert records.segments(tmp_path) == [START, 0x1130] and read(tmp_path) == large + transaction(0x1200)


def test_half_a_transaction_goes_when_the_spool_is_opened_again(tmp_path: Path) -> None:
    with opened(tmp_path) as writer:
        writer.advance(START)
        fill(writer, transaction(0x1100, b"Ione"))
        writer.sync()
        fill(writer, transaction(0x1200, b"Itwo")[:-1])
        writer.sync()
    with opened(tmp_path) as writer:
        assert writer.spooled == writer.synced == writer.commit == 0x1130 and not writer.inside
        fill(writer, transaction(0x1300, b"Ithree"))
        writer.sync()
    assert read(tmp_path) == transaction(0x1100, b"Ione") + transaction(0x1300, b"Ithree")


def test_an_idle_sender_costs_no_room_and_its_position_outlives_a_crash(tmp_path: Path) -> None:
    with opened(tmp_path) as writer:
        writer.advance(START)
        writer.sync()
        before = spool.usage(tmp_path)
        for position in range(START + 1, START + 500):
            writer.advance(position)
            assert writer.sync() == position
        assert spool.usage(tmp_path) == before and (tmp_path / "tail").stat().st_size == 32
    (tmp_path / "tail").write_bytes(b"torn")
    with opened(tmp_path) as writer:
        assert writer.spooled == writer.synced == START + 499 and writer.commit == START
        writer.advance(START + 600)
        next_mark = writer._next_mark if writer.sync() else -1
    # A mark torn while it was written leaves the one before it.
    os.truncate(tmp_path / "tail", 0)
    with (tmp_path / "synced").open("r+b") as file:
        file.seek(512 * next_mark)
        file.write(b"\xff" * 36)
    with opened(tmp_path) as writer:
        assert writer.spooled == START + 600


def test_without_tail_and_mark_the_segments_say_it_all(tmp_path: Path) -> None:
    with opened(tmp_path, segment_bytes=300) as writer:
        writer.advance(START)
        all_of_it = [transaction(0x1100 * number, b"I" * 100) for number in range(1, 9)]
        fill(writer, *all_of_it)
        writer.sync()
    (tmp_path / "tail").unlink()
    (tmp_path / "synced").unlink()
    with opened(tmp_path) as writer:
        assert writer.spooled == all_of_it[-1][-1][0]
        assert len(records.segments(tmp_path)) > 2 and read(tmp_path) == [message for one in all_of_it for message in one]


def test_a_spool_of_another_sender_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path) as writer:
        writer.advance(START)
        writer.sync()
    for other in ({"system": "7124"}, {"database": "other"}, {"slot": "two"}):
        with pytest.raises(TransferError, match="slot cutover of database app on server 7123") as caught:
            spool.Writer(tmp_path, {**META, **other})
        assert kind_of(caught) == "other_spool"
    (tmp_path / "meta.json").unlink()
    with pytest.raises(TransferError, match=r"unknown sender \(meta.json is missing\)"):
        spool.Writer(tmp_path, META)
    assert not list(tmp_path.glob("*.part"))


def test_only_one_writes(writer: spool.Writer, tmp_path: Path) -> None:
    with pytest.raises(TransferError, match="another process") as caught:
        spool.Writer(tmp_path, META)
    assert kind_of(caught) == "spool_in_use"
    assert tmp_path.stat().st_mode & 0o077 == 0 or tmp_path.name  # pytest's own folder
    fresh = tmp_path / "own"
    with opened(fresh):
        assert fresh.stat().st_mode & 0o777 == 0o700 and {path.stat().st_mode & 0o777 for path in fresh.iterdir()} == {0o600}


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([b"Ix"], "'I' outside of a transaction"),
        ([begin(0x1100), begin(0x1100)], "inside of another"),
        ([begin(0x900)], "0/900, below 0/1000"),
    ],
)
def test_disorder_is_noticed(writer: spool.Writer, messages: list[bytes], text: str) -> None:
    writer.advance(START)
    with pytest.raises(TransferError, match=text) as caught:
        for data in messages:
            writer.append(0x1100, data)
    assert kind_of(caught) == "protocol"


def test_messages_outside_of_transactions_are_for_nobody(writer: spool.Writer, tmp_path: Path) -> None:
    writer.advance(START)
    writer.append(0x1050, b"M\0" + struct.pack(">Q", 0x1050) + b"app\0" + struct.pack(">I", 1) + b"x")
    fill(writer, transaction(0x1100, b"M\1inside"))
    writer.flush()
    assert read(tmp_path) == transaction(0x1100, b"M\1inside")


def test_damage_is_named_and_never_handed_out(writer: spool.Writer, tmp_path: Path) -> None:
    writer.advance(START)
    fill(writer, transaction(0x1100, b"Ione"), transaction(0x1200, b"Itwo"))
    writer.sync()
    path = records.path_of(tmp_path, START)
    data = bytearray(path.read_bytes())
    data[data.index(b"Itwo")] ^= 1
    path.write_bytes(data)
    reader = spool.Reader(tmp_path)
    reader.seek(START)
    taken: Messages = []
    with pytest.raises(TransferError, match=f"{path.name} in .* cannot be read from byte") as caught:
        taken.extend(reader.transactions())
    assert kind_of(caught) == "spool_damaged"


def test_a_missing_segment_is_a_gap_not_silence(tmp_path: Path) -> None:
    with opened(tmp_path, segment_bytes=100) as writer:
        writer.advance(START)
        fill(writer, *(transaction(0x1100 * number, b"I" * 100) for number in range(1, 5)))
        writer.flush()
        records.path_of(tmp_path, records.segments(tmp_path)[1]).unlink()
        with pytest.raises(TransferError) as caught:
            read(tmp_path)
        assert kind_of(caught) == "spool_damaged"


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_no_room_leaves_the_spool_whole(tmp_path: Path) -> None:
    with opened(tmp_path) as writer:
        writer.advance(START)
        fill(writer, transaction(0x1100, b"Ione"))
        writer.sync()
        with largest_file(5000), pytest.raises(TransferError, match="found no room") as caught:
            fill(writer, transaction(0x1200, b"I" + b"x" * 3000), transaction(0x1300, b"I" + b"x" * 3000))
            writer.flush()
        assert kind_of(caught) == "disk_full"
        with pytest.raises(TransferError, match="has failed"):
            writer.flush()
        assert read(tmp_path) == transaction(0x1100, b"Ione")
    with opened(tmp_path) as writer:
        # A whole transaction that was written before the room ended is kept, the torn one is not.
        assert writer.spooled == 0x1230
        fill(writer, transaction(0x1400))
        writer.sync()
    assert read(tmp_path, 0x1230) == transaction(0x1400)


def test_what_the_disk_refused_is_taken_back_from_readers_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path) as writer:
        writer.advance(START)
        fill(writer, transaction(0x1100, b"Ione"))
        writer.sync()
        fill(writer, transaction(0x1200, b"Itwo"), transaction(0x1300, b"Ithree"))
        writer.flush()
        reader = spool.Reader(tmp_path)
        reader.seek(START)
        found = reader.transactions()
        assert [next(found)[1] for _unused in range(7)][-1] == begin(0x1300)
        # An error of the disk itself cannot be had on demand; everything after it is real.
        monkeypatch.setattr(os, "fdatasync", refuse)
        with pytest.raises(TransferError, match="Input/output error") as caught:
            writer.sync()
        assert kind_of(caught) == "disk"
        monkeypatch.undo()
    with opened(tmp_path) as writer:
        assert writer.spooled == 0x1130
        fill(writer, transaction(0x1200, b"I2"), transaction(0x1300, b"I3"))
        writer.sync()
    assert list(reader.transactions()) == transaction(0x1300, b"I3")


def refuse(_descriptor: int) -> None:
    raise OSError(5, "Input/output error")


def test_applied_segments_go_after_a_while(tmp_path: Path) -> None:
    with opened(tmp_path, segment_bytes=100) as writer:
        writer.advance(START)
        fill(writer, *(transaction(0x1100 * number, b"I" * 100) for number in range(1, 6)))
        writer.flush()
        known = records.segments(tmp_path)
        assert len(known) == 5
        assert spool.remove_applied(tmp_path, known[3], 900) == 0
        age(tmp_path, 901)
        assert spool.remove_applied(tmp_path, known[4], 900) == 2 and records.segments(tmp_path) == known[2:]
        # Forgotten by a server that failed over: what was noted above its position counts no more.
        age(tmp_path, 901)
        assert spool.remove_applied(tmp_path, known[2], 900) == 0
        for _unused in range(200):
            age(tmp_path, 20)
            spool.remove_applied(tmp_path, writer.spooled, 900)
        assert records.segments(tmp_path) == known[3:]
        assert len(json.loads((tmp_path / "applied.json").read_text())["samples"]) < 50
        assert read(tmp_path, known[3]) == [message for number in (4, 5) for message in transaction(0x1100 * number, b"I" * 100)]
        with pytest.raises(TransferError) as caught:
            read(tmp_path, known[2])
        assert kind_of(caught) == "spool_gap"


def age(folder: Path, seconds: float) -> None:
    path = folder / "applied.json"
    samples = json.loads(path.read_text())["samples"]
    path.write_text(json.dumps({"samples": [(at - seconds, position) for at, position in samples]}))


def test_a_move_of_the_tail_is_noticed_quickly(writer: spool.Writer, tmp_path: Path) -> None:
    writer.advance(START)
    writer.flush()
    reader = spool.Reader(tmp_path)
    reader.seek(START)
    assert list(reader.transactions()) == []
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        time.sleep(0.1)
        fill(writer, transaction(0x1100))
        writer.flush()
        os._exit(0)
    try:
        assert reader.wait(10) and time.monotonic() - began < 5
    finally:
        os.waitpid(child, 0)
    assert list(reader.transactions()) == transaction(0x1100)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("transaction"), st.integers(0, 4), st.integers(0, 300)),
        st.tuples(st.just("advance"), st.integers(1, 500), st.just(0)),
        st.tuples(st.sampled_from(["flush", "sync", "open"]), st.just(0), st.just(0)),
    ),
    max_size=30,
)


@settings(deadline=None, max_examples=150)
@given(STEPS, st.integers(50, 2000), st.integers(0, 4), st.data())
def test_a_crash_at_any_byte_keeps_what_was_synced_and_nothing_half(
    steps: list[tuple[str, int, int]], segment_bytes: int, unfinished: int, data: st.DataObject
) -> None:
    """A crash of the machine: of what was not synced, files lose any end and bytes of the rest are anything. What was synced is all there."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        writer = spool.Writer(folder, META, segment_bytes=segment_bytes)
        writer.advance(START)
        at = START
        said: list[Messages] = []
        positions = [START]
        safe: tuple[int, dict[str, int], int] = (0, {}, 0)  # transactions, sizes of segments, position
        for what, count, size in [("sync", 0, 0), *steps]:
            if what == "transaction":
                bodies = [bytes([number]) * size for number in range(count)]
                said.append(transaction(at + 8, relation(len(said) % 3), *(b"I" + body for body in bodies)))
                fill(writer, said[-1])
                at += 56
            elif what == "advance":
                at += count
                writer.advance(at)
                positions.append(at)
            elif what == "flush":
                writer.flush()
            elif what == "open":
                writer.flush()
                writer.close()
                writer = spool.Writer(folder, META, segment_bytes=segment_bytes)
                assert writer.spooled == at
                safe = len(said), sizes(folder), writer.synced
            else:
                assert writer.sync() == at
                safe = len(said), sizes(folder), at
        fill(writer, transaction(at + 8, *(b"I" * 50 for _unused in range(unfinished)))[: unfinished + 1])
        if data.draw(st.booleans(), "flushed before the crash"):
            writer.flush()
        writer.close()
        spoil(folder, safe[1], writer._next_mark, data)

        with opened(folder, segment_bytes) as writer:
            found = read(folder)
            kept = sum(message[1][:1] == b"C" for message in found)
            assert found == [message for one in said[:kept] for message in one] and kept >= safe[0]
            ends = [one[-1][0] for one in said[:kept]]
            assert writer.spooled == writer.synced >= safe[2]
            assert writer.spooled in ends[-1:] + positions and (not ends or writer.spooled >= ends[-1])
            # And it goes on from there, as the sender does.
            more = transaction(writer.spooled + 8, b"Imore")
            fill(writer, more)
            writer.sync()
            assert read(folder)[len(found) :] == more


def sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.glob("*.seg")}


def spoil(folder: Path, safe: dict[str, int], next_mark: int, data: st.DataObject) -> None:
    """What a crash may do to the files."""
    for path in sorted(folder.glob("*.seg")):
        size, least = path.stat().st_size, safe.get(path.name, 0)
        if path.name not in safe and data.draw(st.booleans(), f"{path.name} was not in the directory"):
            path.unlink()
            continue
        size = data.draw(st.integers(least, size), f"{path.name} was cut at")
        os.truncate(path, size)
        if size > least and data.draw(st.booleans(), f"{path.name} has a wrong byte"):
            place = data.draw(st.integers(least, size - 1), "at")
            with path.open("r+b") as file:
                file.seek(place)
                byte = file.read(1)[0]
                file.seek(place)
                file.write(bytes([byte ^ data.draw(st.integers(1, 255), "changed by")]))
    if data.draw(st.booleans(), "the tail is torn"):
        (folder / "tail").write_bytes(data.draw(st.binary(max_size=32), "tail"))
    if data.draw(st.booleans(), "a mark was being written"):
        with (folder / "synced").open("r+b") as file:
            file.seek(512 * next_mark)
            file.write(data.draw(st.binary(min_size=1, max_size=36), "mark"))
