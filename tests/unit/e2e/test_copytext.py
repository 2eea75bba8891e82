from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from e2e.old_world import copytext
from e2e.old_world.copytext import Value, field


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "\\N"),
        ("", ""),
        ("\\N", "\\\\N"),
        ("a\tb\nc\rd", "a\\tb\\nc\\rd"),
        (True, "t"),
        (0.1, "0.1"),
        (b"\x00\xff", "\\\\x00ff"),
        (date(2026, 1, 2), "2026-01-02"),
        (datetime(2026, 1, 2, 3, 4, 5, 6, UTC), "2026-01-02 03:04:05.000006+00:00"),
        (timedelta(minutes=90), "5400 seconds"),
        ({"a": 'x"\n'}, '{"a":"x\\\\"\\\\n"}'),
        (["a,b", 'q"', "\\", ""], '{"a,b","q\\\\"","\\\\\\\\",""}'),
    ],
)
def test_field(value: Value, text: str) -> None:
    assert field(value) == text


def test_a_file_depends_on_its_lines_alone(tmp_path: Path) -> None:
    rows = [(1, "ä"), (2, None)]
    for name in ("a", "b"):
        assert copytext.write(tmp_path / name, copytext.lines(rows)) == 2
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert b"".join(copytext.read(tmp_path / "a", 3)).decode() == "1\tä\n2\t\\N\n"
