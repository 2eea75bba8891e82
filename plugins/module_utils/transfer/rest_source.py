# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A source behind PostgREST: what it has, how many rows, and the rows themselves, page by page until one is empty."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import quote

from . import rest_query, rest_values
from .catalog import Column
from .endpoint import Endpoint
from .errors import TransferError, certain
from .pairing import Pair
from .rest_http import Client, decoded
from .rest_query import RestTable

Row: TypeAlias = "tuple[str | None, ...]"
Key: TypeAlias = "tuple[str, ...]"

# A page is made smaller when its answer grows beyond this.
PAGE_BYTES = 16 * 1024 * 1024
# Longer addresses are refused by common gateways.
LONGEST_QUERY = 6000
# Rows asked for by key in one request.
ROWS_BY_KEY = 100


@dataclass
class Knowledge:
    """What was learnt of the source on the way, shared by all threads.

    floats_exact: a value showed more digits than a server that rounds would; largest_page: rows of the largest answer
    """

    floats_exact: bool = False
    largest_page: int = 0
    requests: int = 0
    retries: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Source:
    """A connection to the source for one thread. It asks for as many rows at a time as the endpoint says; the source may send fewer."""

    def __init__(self, endpoint: Endpoint, knowledge: Knowledge) -> None:
        self.client = Client(endpoint)
        self.knowledge = knowledge
        self.page_rows = certain(endpoint.rest, "the REST address").page_rows

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_details: object) -> None:
        self.client.close()
        with self.knowledge.lock:
            self.knowledge.requests += self.client.requests
            self.knowledge.retries += self.client.retries

    def schemas(self) -> tuple[str, ...]:
        """Schemas that the source exposes: it names them when it is asked for one that cannot be."""
        try:
            reply = self.client.get("", headers={"Accept-Profile": "cutover: which schemas?"})
        except TransferError as error:
            found = rest_query.exposed_schemas(error.message) if error.details.get("kind") == "not_exposed" else ()
            if not found:
                raise
            return found
        return (reply.headers.get("content-profile", "public").encode("latin-1").decode(),)

    def tables(self, schema: str) -> tuple[RestTable, ...]:
        """Tables and views of a schema, as far as the key may see them."""
        reply = self.client.get("", headers=_profile(schema) | {"Accept": "application/openapi+json"})
        return rest_query.read_description(schema, decoded(reply))

    def count(self, table: RestTable, condition: str = "") -> int | None:
        """Exact number of rows; None when the source gave up counting them."""
        query = rest_query.query(rest_query.name(table.columns[0][0]), condition=condition, limit=1)
        try:
            reply = self.client.get(table.name, query, _profile(table.schema) | {"Prefer": "count=exact"}, many=True)
        except TransferError as error:
            if error.details.get("kind") == "too_big":
                return None
            raise
        found = rest_query.total(reply.headers.get("content-range"))
        if found is None:
            raise TransferError(
                f"the REST source did not count {table.schema}.{table.name}: Content-Range is {reply.headers.get('content-range')!r}",
                "Look for a proxy that takes headers away.",
                kind="not_rest",
            )
        return found

    def pages(self, pair: Pair, columns: Sequence[Column], start: Key | None = None) -> Iterator[list[Row]]:
        """Rows after ``start`` in the order of the key, until a page is empty. Columns must begin with those of the key.

        Rows behind the key that is the last at the beginning are left to a later reading: a table that grows at its end would have none.
        Raises TransferError when the key is not unique, or a text says less than its value.
        """
        key = pair.source.key
        limit, last = self.page_rows, start
        columns_of_key = [pair.source.column(name) for name in key]
        newest = self._rows(pair, columns_of_key, "", 1, backwards=True)[0]
        end = rest_query.up_to(key, [text or "" for text in newest[0]]) if newest else ""
        while True:
            condition = ",".join(part for part in (rest_query.after(key, last) if last is not None else "", end) if part)
            try:
                rows, size = self._rows(pair, columns, condition, limit)
            except TransferError as error:
                if error.details.get("kind") != "too_big" or limit == 1:
                    raise
                limit = max(1, limit // 4)
                continue
            if not rows:
                return
            with self.knowledge.lock:
                self.knowledge.largest_page = max(self.knowledge.largest_page, len(rows))
            last = self._checked_keys(pair, rows, last)
            self._check_values(pair, columns, rows)
            # Grows again slowly after a page that was too large, or when rows get shorter.
            limit = max(1, min(self.page_rows, limit * 2, PAGE_BYTES * len(rows) // max(size, 1)))
            yield rows

    def by_key(self, pair: Pair, columns: Sequence[Column], keys: Sequence[Key]) -> list[Row]:
        """Rows with these keys, as far as there still are any."""
        found: list[Row] = []
        waiting = [rest_query.equals(pair.source.key, key) for key in keys]
        while waiting:
            some = _fitting(waiting)
            if len(some) == 1:
                rows = self._rows(pair, columns, some[0], len(some))[0]
            else:
                try:
                    rows = self._rows(pair, columns, rest_query.any_of(some), len(some))[0]
                except TransferError as error:
                    if error.details.get("kind") != "too_big":
                        raise
                    rows = [row for one in some for row in self._rows(pair, columns, one, 1)[0]]
            found += rows
            # A server may cap its pages at fewer rows than were asked for.
            asked = len(some)
            if 0 < len(rows) < asked <= len(waiting):
                rows_left = self._left_out(pair, columns, some, rows)
                found += rows_left
            waiting = waiting[asked:]
        self._check_values(pair, columns, found)
        return found

    def _left_out(self, pair: Pair, columns: Sequence[Column], asked: Sequence[str], got: Sequence[Row]) -> list[Row]:
        size = len(pair.source.key)
        have = {rest_query.equals(pair.source.key, [text or "" for text in row[:size]]) for row in got}
        return [row for one in asked if one not in have for row in self._rows(pair, columns, one, 1)[0]]

    def _rows(self, pair: Pair, columns: Sequence[Column], condition: str, limit: int, backwards: bool = False) -> tuple[list[Row], int]:
        key = pair.source.key
        query = rest_query.query(rest_query.select(columns), ordered=rest_query.order(key, backwards), condition=condition, limit=limit)
        reply = self.client.get(pair.source.name, query, _profile(pair.source.schema), many=limit > 1)
        found = decoded(reply)
        names = [f"c{place}" for place in range(len(columns))]
        try:
            if not isinstance(found, list):
                raise TypeError
            rows = [tuple(row[name] for name in names) for row in found]
        except (TypeError, KeyError) as error:
            raise TransferError(
                f"the REST source sent something else than rows of {pair.name}", "Look for a proxy that changes answers.", kind="not_rest"
            ) from error
        return rows, len(reply.body)

    def _checked_keys(self, pair: Pair, rows: Sequence[Row], before: Key | None) -> Key:
        """Key of the last row. Where the key is only said to be unique, the page's rows and its edge are looked at."""
        size = len(pair.source.key)
        last = before
        for row in rows:
            key = row[:size]
            if None in key:
                raise _not_unique(pair, "a row has no value in it")
            if key == last:
                raise _not_unique(pair, f"two rows have {named(pair, key)}")
            last = tuple(text or "" for text in key)
        if last is None:
            raise TransferError(f"a page of {pair.name} has no rows", "Report this as a fault of cutover.hetzner.")
        if pair.source.key_source == "unique":
            found = self._rows(pair, [pair.source.column(name) for name in pair.source.key], rest_query.equals(pair.source.key, last), 2)[0]
            if len(found) > 1:
                raise _not_unique(pair, f"two rows have {named(pair, last)}")
        return last

    def check_unique(self, pair: Pair, table: RestTable) -> None:
        """Refuse a key that was named by hand and is empty in some row: such rows would never be read."""
        if pair.source.key_source != "unique":
            return
        for column in pair.source.key:
            if self.count(table, rest_query.is_null(column)):
                raise _not_unique(pair, f"rows have no value in {column}")

    def _check_values(self, pair: Pair, columns: Sequence[Column], rows: Sequence[Row]) -> None:
        for place, column in enumerate(columns):
            for row in rows:
                text = row[place]
                if text is not None and (reason := rest_values.unreadable(column, text)):
                    raise TransferError(
                        f"{pair.name}, row {named(pair, row)}: column {column.name} arrives as {text[:80]!r}, {reason}",
                        "Run in the source's SQL editor: ALTER ROLE service_role SET datestyle = 'ISO'; ALTER ROLE service_role SET intervalstyle = 'postgres';"
                        " NOTIFY pgrst, 'reload config'; then run again.",
                        kind="value",
                        table=pair.name,
                        column=column.name,
                    )
        doubtful = [(place, column) for place, column in enumerate(columns) if rest_values.holds_floats(column)]
        if doubtful and not self.knowledge.floats_exact:
            self._check_floats(pair, doubtful, rows)

    def _check_floats(self, pair: Pair, doubtful: Sequence[tuple[int, Column]], rows: Sequence[Row]) -> None:
        """Ask the source whether each float equals its own text, until one shows all its digits, which settles it for all."""
        for row in rows:
            for place, column in doubtful:
                text = row[place]
                if text is not None and rest_values.shows_all_digits(column, text):
                    self.knowledge.floats_exact = True
                    return
        for place, column in doubtful:
            in_doubt = [row for row in rows if row[place] is not None and not rest_values.surely_exact(column, row[place] or "")]
            if in_doubt and not rest_values.has_equality(column):
                raise self._rounded(pair, column, in_doubt[0], place, "may be")
            size = len(pair.source.key)
            key_columns = [pair.source.column(name) for name in pair.source.key]
            asked = {
                row[:size]: rest_query.equals((*pair.source.key, column.name), [text or "" for text in (*row[:size], row[place])])
                for row in in_doubt
            }
            waiting = list(asked.values())
            equal: set[Row] = set()
            while waiting:
                some = _fitting(waiting)
                equal |= set(self._rows(pair, key_columns, rest_query.any_of(some), len(some))[0])
                waiting = waiting[len(some) :]
            for row in in_doubt:
                if row[:size] not in equal and self._still(pair, column, row, place):
                    raise self._rounded(pair, column, row, place, "is")

    def _still(self, pair: Pair, column: Column, row: Row, place: int) -> bool:
        """Whether a row still shows this text without being equal to it: a row that has changed meanwhile says nothing."""
        size = len(pair.source.key)
        key = rest_query.equals(pair.source.key, [text or "" for text in row[:size]])
        now = self._rows(pair, [column], key, 1)[0]
        whole = rest_query.equals((*pair.source.key, column.name), [text or "" for text in (*row[:size], row[place])])
        return now == [(row[place],)] and not self._rows(pair, [column], whole, 1)[0]

    def _rounded(self, pair: Pair, column: Column, row: Row, place: int, sure: str) -> TransferError:
        return TransferError(
            f"{pair.name}, row {named(pair, row)}: column {column.name} arrives as {(row[place] or '')[:80]}, which {sure} rounded:"
            " the source prints floats with too few digits (extra_float_digits below 1)",
            "Run in the source's SQL editor: ALTER ROLE service_role SET extra_float_digits = 1; NOTIFY pgrst, 'reload config'; then run again.",
            kind="value",
            table=pair.name,
            column=column.name,
        )


def named(pair: Pair, row: Sequence[str | None]) -> str:
    """The key of a row for a message."""
    return ", ".join(f"{name}={text}" for name, text in zip(pair.source.key, row, strict=False))


def _not_unique(pair: Pair, what: str) -> TransferError:
    return TransferError(
        f"{', '.join(pair.source.key)} does not identify the rows of {pair.name}: {what}",
        "Name columns in rest.unique that are unique and never empty, or exclude the table.",
        kind="no_key",
        table=pair.name,
    )


def _fitting(conditions: Sequence[str]) -> list[str]:
    """As many of the first conditions as one request can hold, at least one."""
    size = 0
    some: list[str] = []
    for condition in conditions[:ROWS_BY_KEY]:
        size += len(quote(condition)) + 8
        if some and size > LONGEST_QUERY:
            break
        some.append(condition)
    return some


def _profile(schema: str) -> dict[str, str | bytes]:
    return {"Accept-Profile": schema.encode()}
