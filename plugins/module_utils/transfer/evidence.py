# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Rows that differ, by name: read from both sides where sums differ, with the columns that changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .blocks import Lens, batches, columns_of, is_big, lenses
from .canonical import Agreement, hashed
from .catalog import Column, qualified, quote_ident, quote_literal
from .compare import Comparison, Duo, Plan
from .differences import Difference, Hit, Tally, merge
from .errors import TransferError
from .pairing import Pair, relation
from .spans import Range

if TYPE_CHECKING:
    import psycopg

COLUMNS_PER_QUERY = 300
KEYS_PER_QUERY = 1000
ROW_TEXT = 500
_SLICED = ("pg_catalog.text", "pg_catalog.varchar", "pg_catalog.bytea")


def collect(duo: Duo, plan: Plan, found: Comparison, tally: Tally) -> None:
    """Every row that differs inside the ranges of a comparison."""
    shared = [one for one in found.ranges if one.source_rows and one.target_rows]
    for missing in (True, False):
        only = [one for one in found.ranges if not (one.target_rows if missing else one.source_rows)]
        _one_sided(duo, plan, only, missing, tally)
    for batch in batches(plan.eyes[0], shared):
        duo.steer((plan.eyes[0].indexed, plan.eyes[1].indexed))
        merge(*_streams(duo, plan.eyes, batch), tally)


def _one_sided(duo: Duo, plan: Plan, ranges: Sequence[Range], missing: bool, tally: Tally) -> None:
    """Blocks that only one side has need no comparison: their rows are counted already, and only as many are read as are listed."""
    side = 0 if missing else 1
    conn = (duo.source, duo.target)[side]
    for batch in batches(plan.eyes[side], ranges):
        rows = sum(one.source_rows + one.target_rows for one in batch)
        listed = tally.missing if missing else tally.extra
        hits: Iterator[Hit] = iter(())
        if len(listed) < tally.cap:
            duo.steer((plan.eyes[0].indexed, plan.eyes[1].indexed))
            hits = _stream(conn, plan.eyes[side], batch)
        tally.one_sided(missing, rows, _at_most(hits, listed, tally.cap))


def _at_most(hits: Iterator[Hit], listed: Sequence[Hit], cap: int) -> Iterator[Hit]:
    for hit in hits:
        yield hit
        if len(listed) >= cap:
            return


def _streams(duo: Duo, eyes: tuple[Lens, Lens], batch: list[Range]) -> tuple[Iterator[Hit], Iterator[Hit]]:
    """Rows of both sides inside the ranges, by position, read as they are needed."""
    return _stream(duo.source, eyes[0], batch), _stream(duo.target, eyes[1], batch)


def _stream(conn: psycopg.Connection[Any], eye: Lens, batch: list[Range]) -> Iterator[Hit]:
    with conn.cursor(name="cutover_rows") as cursor:
        cursor.itersize = 5000
        cursor.execute(eye.detail(batch))
        yield from cursor


def compare_keys(duo: Duo, pair: Pair, agreement: Agreement, keys: Sequence[tuple[str, ...]], tally: Tally) -> None:
    """Every row that differs among those with these keys."""
    eyes = lenses(pair, agreement)
    wrong = [key for key in keys if len(key) != len(pair.key)]
    if wrong:
        raise TransferError(
            f"keys of {pair.name} have {len(wrong[0])} values, its key has {len(pair.key)} columns", "Give one text per column of the key."
        )
    _prefer_indexes(duo, True)
    for start in range(0, len(keys), KEYS_PER_QUERY):
        some = keys[start : start + KEYS_PER_QUERY]
        inside = [f"WHERE {_key_filter(pair, side, some)}" for side in (0, 1)]
        # One line of sums from each side says that a thousand rows are equal; they travel only where it does not.
        sums = duo.both(eyes[0].whole_sums(inside[0]), eyes[1].whole_sums(inside[1]))
        if sums[0] != sums[1]:
            queries = [f"SELECT * FROM ({eye.rows(where)}) s ORDER BY 1" for eye, where in zip(eyes, inside, strict=True)]
            merge(*duo.both(queries[0], queries[1]), tally)
    _prefer_indexes(duo, False)


def _prefer_indexes(duo: Duo, whether: bool) -> None:
    """Have rows looked up by their key: a thousand of them may look like reason enough to read the whole table, whose size must not count here."""
    query = f"SELECT set_config(name, '{'off' if whether else 'on'}', true) FROM unnest('{{enable_seqscan,enable_hashjoin,enable_mergejoin}}'::text[]) name"
    duo.both(query, query)


def _key_filter(pair: Pair, side: int, keys: Sequence[tuple[str, ...]]) -> str:
    """Condition for rows with these keys. The types' modifiers stay away: a cast to varchar(3) would shorten silently."""
    columns = [both[side] for both in pair.key]
    arrays = ", ".join(f"{quote_literal(_array(key[place] for key in keys))}::text[]" for place in range(len(columns)))
    casts = ", ".join(f"c{place}::{qualified(*_split(column.base))}" for place, column in enumerate(columns))
    names = ", ".join(quote_ident(column.name) for column in columns)
    aliases = ", ".join(f"c{place}" for place in range(len(columns)))
    return f"({names}) IN (SELECT {casts} FROM unnest({arrays}) u({aliases}))"


def _array(texts: Iterable[str]) -> str:
    """An array of texts as PostgreSQL reads it: one literal, where a constructor would be parsed element by element."""
    quoted = (text.replace("\\", "\\\\").replace('"', '\\"') for text in texts)
    return "{" + ",".join(f'"{text}"' for text in quoted) + "}"


def _split(base: str) -> tuple[str, str]:
    schema, _unused, name = base.partition(".")
    return schema, name


def named(
    duo: Duo, pair: Pair, agreement: Agreement, tally: Tally
) -> tuple[tuple[Difference, ...], tuple[Difference, ...], tuple[Difference, ...]]:
    """(missing, extra, changed) of a tally, for people."""
    if not pair.key:
        return _contents(duo, pair, agreement, tally.missing), _contents(duo, pair, agreement, tally.extra), ()
    columns = _changed_columns(duo, pair, agreement, tally.changed)
    missing, extra = (tuple(Difference(_key(pair, hit)) for hit in hits) for hits in (tally.missing, tally.extra))
    return missing, extra, tuple(Difference(_key(pair, hit), columns=columns.get(hit[1] or (), ())) for hit in tally.changed)


def _key(pair: Pair, hit: Hit) -> dict[str, str]:
    return {left.name: text for (left, _right), text in zip(pair.key, hit[1] or (), strict=True)}


def _changed_columns(duo: Duo, pair: Pair, agreement: Agreement, hits: list[Hit]) -> dict[tuple[str, ...], tuple[str, ...]]:
    """{key: columns that differ}, by both hashes of each column of the few rows that are listed."""
    differing: dict[tuple[str, ...], list[str]] = {}
    keys = list(dict.fromkeys(hit[1] for hit in hits if hit[1] is not None))
    big = is_big(pair)
    for start in range(0, len(pair.columns) if keys else 0, COLUMNS_PER_QUERY):
        part = pair.columns[start : start + COLUMNS_PER_QUERY]
        queries = []
        for side, table in enumerate((pair.source, pair.target)):
            key = ", ".join(f"{quote_ident(both[side].name)}::text" for both in pair.key)
            hashes = ", ".join(_both_hashes(agreement, one, big) for one in columns_of(pair, side, part))
            queries.append(f"SELECT ARRAY[{key}]::text[], {hashes} FROM {relation(table)} t WHERE {_key_filter(pair, side, keys)}")
        ours, theirs = ({tuple(row[0]): row[1:] for row in rows} for rows in duo.both(queries[0], queries[1]))
        for key_, left in ours.items():
            pairs = zip((column.name for column, _right in part), left, theirs.get(key_, left), strict=True)
            differing.setdefault(key_, []).extend(name for name, one, other in pairs if one != other)
    return {key_: tuple(columns) for key_, columns in differing.items()}


def _both_hashes(agreement: Agreement, column: tuple[str, Column, Column], big: bool) -> str:
    """Expression of both hashes of one column: one alone folds a bigint."""
    return f"(SELECT h1::text || ' ' || h2 FROM ({hashed(agreement, [column], big).select((), '(SELECT) q')}) p)"


def _contents(duo: Duo, pair: Pair, agreement: Agreement, hits: list[Hit]) -> tuple[Difference, ...]:
    """Rows without a key, by what they hold and how often each side has them."""
    if not hits:
        return ()
    listed = ",".join(str(hit[2]) for hit in hits)
    found: list[dict[tuple[int, int], tuple[str, int]]] = []
    queries = []
    for side, eye in enumerate(lenses(pair, agreement)):
        columns = ", ".join(_shown(name, *both) for name, *both in columns_of(pair, side))
        hashes = eye.hashed.select([(f"ROW({columns})", "content")], f"{eye.relation} t")
        text = f"left(min(content::text), {ROW_TEXT})"
        queries.append(
            f"SELECT h1, h2, {text}, count(*) FROM ({hashes} OFFSET 0) d WHERE h1 = ANY ('{{{listed}}}'::bigint[]) GROUP BY 1, 2"
        )
    for rows in duo.both(queries[0], queries[1]):
        found.append({(row[0], row[1]): (row[2], row[3]) for row in rows})
    differences = []
    for hit in hits:
        left, right = found[0].get((hit[2], hit[3])), found[1].get((hit[2], hit[3]))
        text = (left or right or ("", 0))[0]
        differences.append(Difference(None, row=text, copies=(left[1] if left else 0, right[1] if right else 0)))
    return tuple(differences)


def _shown(name: str, left: Column, right: Column) -> str:
    """A column inside the text of a row: only the beginning of what may be longer than a row's text can be."""
    return f"substr({name}, 1, {ROW_TEXT})" if left.base == right.base and left.base in _SLICED else name
