"""The environment file editor: what is not named stays byte for byte, what is set reads back."""

from __future__ import annotations

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.operations import dotenv
from ansible_collections.cutover.hetzner.plugins.module_utils.operations.errors import OperationsError
from hypothesis import given
from hypothesis import strategies as st

OLD = (
    "# the old server\r\n"
    "NODE_ENV=production\r\n"
    "\r\n"
    'export DATABASE_URL="postgres://a:b@old/x"   # keep me\r\n'
    "PORT = 3000\r\n"
    "EMPTY=\r\n"
    "PORT=3001\r\n"
    "KEY: yaml style\r\n"
    "PEM='-----BEGIN\r\nabc\r\n-----END'\r\n"
    "LAST=x"
)

keys = st.from_regex(r"[A-Z][A-Z0-9_]{0,8}", fullmatch=True)
values = st.text(alphabet=st.characters(blacklist_categories=("Cs",)), max_size=30)
plain_values = st.text(alphabet=st.characters(blacklist_categories=("Cs", "Cc")), max_size=30)
lines = st.one_of(
    st.from_regex(r"#[ a-zA-Z='\"]{0,20}", fullmatch=True),
    st.just(""),
    st.builds(
        "{}{}{}={}".format,
        st.sampled_from(["", "export ", "  "]),
        keys,
        st.sampled_from(["", " "]),
        st.from_regex(r"[ a-z0-9/:]{0,12}", fullmatch=True),
    ),
    st.builds('{}="{}" # note'.format, keys, st.from_regex(r"[a-z #\\n]{0,12}", fullmatch=True)),
)
files = st.builds(
    lambda parts, end, last: end.join(parts) + (end if last else ""),
    st.lists(lines, max_size=12),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)


def test_reads_what_the_application_reads() -> None:
    assert dotenv.parse(OLD) == {
        "NODE_ENV": "production",
        "DATABASE_URL": "postgres://a:b@old/x",
        "PORT": "3001",
        "EMPTY": "",
        "KEY": "yaml style",
        "PEM": "-----BEGIN\nabc\n-----END",
        "LAST": "x",
    }


def test_sets_in_place_and_keeps_quotes_export_comment_and_line_ends() -> None:
    change = dotenv.edit(OLD, {"DATABASE_URL": "postgres://a:b@new/x", "PORT": "4000", "EMPTY": "full"})
    assert change.text == (OLD.replace("@old/", "@new/").replace("PORT=3001", "PORT=4000").replace("EMPTY=", "EMPTY=full"))
    assert change.updated == ("DATABASE_URL", "PORT", "EMPTY")
    assert change.added == ()


def test_appends_in_the_files_own_manner() -> None:
    assert dotenv.edit(OLD, {"NEW": "1"}).text == OLD + "\r\nNEW=1"
    assert dotenv.edit("A=1\n", {"NEW": "two words"}).text == "A=1\nNEW='two words'\n"
    assert dotenv.edit("", {"NEW": "1"}).text == "NEW=1\n"


def test_unset_drops_every_assignment_of_the_key_with_its_lines() -> None:
    change = dotenv.edit(OLD, {}, ["PORT", "PEM", "NOT_THERE"])
    assert change.text == OLD.replace("PORT = 3000\r\n", "").replace("PORT=3001\r\n", "").replace(
        "PEM='-----BEGIN\r\nabc\r\n-----END'\r\n", ""
    )
    assert change.removed == ("PORT", "PEM")


def test_unset_keeps_the_comment_on_the_next_line() -> None:
    assert dotenv.edit("A=1\n# about B\nB=2\n", {}, ["A"]).text == "# about B\nB=2\n"


def test_bytes_that_are_no_text_survive() -> None:
    raw = b"A=\xff\xfe\nB=1\n"
    change = dotenv.edit(raw.decode("utf-8", "surrogateescape"), {"B": "2"})
    assert change.text.encode("utf-8", "surrogateescape") == b"A=\xff\xfe\nB=2\n"


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("p@ss:w/d%2B", "K=p@ss:w/d%2B\n"),
        ("a#b", "K='a#b'\n"),
        ("it's", 'K="it\'s"\n'),
        ("""it's "both" """, """K=`it's "both" `\n"""),
        ("", "K=\n"),
    ],
)
def test_quotes_only_where_needed(value: str, line: str) -> None:
    assert dotenv.edit("", {"K": value}).text == line
    assert dotenv.parse(line) == {"K": value}


def test_missing_names_absent_and_empty_keys() -> None:
    assert dotenv.edit("A=1\nB=\n", {"C": "1"}, [], ["A", "B", "C", "D"]).missing == ("B", "D")


@pytest.mark.parametrize(
    ("assign", "unset", "words"),
    [({"A B": "1"}, [], "'A B'"), ({"A": "1"}, ["A"], "both set and unset"), ({"A": "'\"`#\n"}, [], "cannot be written")],
)
def test_refuses(assign: dict[str, str], unset: list[str], words: str) -> None:
    with pytest.raises(OperationsError, match=words) as error:
        dotenv.edit("X=1\n", assign, unset)
    assert error.value.remedy


def test_refuses_to_write_into_an_unclosed_quote() -> None:
    """Appending "…'" would close the quote of the line before and swallow it."""
    change = dotenv.edit("A='open\n", {"B": "x"})
    assert dotenv.parse(change.text) == {"A": "'open", "B": "x"}


@pytest.mark.parametrize(("value", "text"), [(True, "true"), (False, "false"), (3000, "3000"), ("x", "x")])
def test_as_text(value: object, text: str) -> None:
    assert dotenv.as_text("K", value) == text


@pytest.mark.parametrize("value", [None, {"a": 1}, [1]])
def test_as_text_refuses(value: object) -> None:
    with pytest.raises(OperationsError, match="for K is"):
        dotenv.as_text("K", value)


def test_diff_shows_no_value() -> None:
    change = dotenv.edit("A=topsecret\nB=other\n# C=commented\n", {"A": "newsecret", "D": "third"})
    before, after = dotenv.masked(change, "A=topsecret\nB=other\n")
    assert before == "A=<old value>\nB=<value>\n"
    assert after == "A=<new value>\nB=<value>\nD=<value>\n"


@given(text=files, key=keys, value=values)
def test_set_reads_back_and_nothing_else_changes(text: str, key: str, value: str) -> None:
    before = dotenv.parse(text)
    try:
        change = dotenv.edit(text, {key: value})
    except OperationsError:
        assert any(mark in value for mark in "'\"`#\n\r\\ \u2028\u2029") or value != value.strip() or not value.isprintable()
        return
    assert dotenv.parse(change.text) == before | {key: value}
    assert dotenv.edit(change.text, {key: value}).changed is False
    assert dotenv.edit(change.text, {key: value}).text == change.text


@given(text=files, key=keys, value=plain_values.filter(lambda text: "`" not in text))
def test_one_line_values_without_backticks_can_always_be_written(text: str, key: str, value: str) -> None:
    assert dotenv.parse(dotenv.edit(text, {key: value}).text)[key] == value


@given(text=files, key=keys, value=st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True))
def test_other_lines_are_byte_identical(text: str, key: str, value: str) -> None:
    old = text.splitlines(keepends=True)
    new = dotenv.edit(text, {key: value}).text.splitlines(keepends=True)
    if key in dotenv.parse(text):
        differing = [number for number, (left, right) in enumerate(zip(old, new, strict=True)) if left != right]
        assert len(differing) <= 1
        assert all(key in old[number] for number in differing)
    else:
        assert [line.rstrip("\r\n") for line in new] == [*(line.rstrip("\r\n") for line in old), f"{key}={value}"]


@given(text=files, key=keys)
def test_unset_leaves_the_other_lines(text: str, key: str) -> None:
    change = dotenv.edit(text, {}, [key])
    assert key not in dotenv.parse(change.text)
    kept = iter(text.splitlines(keepends=True))
    assert all(line in kept for line in change.text.splitlines(keepends=True))
