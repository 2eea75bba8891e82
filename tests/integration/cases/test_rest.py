"""Case 45, and 15 through REST: a source that offers only its REST address. Rows are compared by the servers themselves, not by the engine alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import rest_copy, rest_http, rest_source, rest_verify, session
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.endpoint import Endpoint
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.rest_copy import RestCopyResult
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Selection
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.verify import VerifyResult
from integration.conftest import Pair
from integration.transfer.test_row_modules import run
from pgservers import PASSWORD
from postgrest import SECRET_KEY, Asked, Fault, Gateway, PostgREST, token

ROLES = """DO $$ BEGIN
    CREATE ROLE authenticator LOGIN NOINHERIT PASSWORD 'throw-away'; CREATE ROLE anon NOLOGIN; CREATE ROLE service_role NOLOGIN BYPASSRLS;
    GRANT anon, service_role TO authenticator;
EXCEPTION WHEN duplicate_object THEN NULL; END $$"""
PRIVILEGES = """DO $$ DECLARE s text; BEGIN FOREACH s IN ARRAY string_to_array('{schemas}', ',') LOOP
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO anon, service_role', s); EXECUTE format('GRANT ALL ON ALL TABLES IN SCHEMA %I TO service_role', s);
END LOOP; END $$"""


@dataclass(frozen=True)
class World:
    """A source behind a gateway and PostgREST, and a target."""

    pair: Pair
    gateway: Gateway

    def source(self, key: str = SECRET_KEY, **more: Any) -> Endpoint:
        return Endpoint.from_args({"rest": {"url": self.gateway.url, "key": key, **more}, "flavour": "supabase"})

    def copy(self, source: Endpoint | None = None, include: tuple[str, ...] = (), **more: Any) -> RestCopyResult:
        return rest_copy.copy(source or self.source(), self.pair.target, Selection.from_args(include, flavour="supabase"), **more)

    def verify(self, source: Endpoint | None = None, **more: Any) -> VerifyResult:
        return rest_verify.verify(source or self.source(), self.pair.target, Selection(flavour="supabase"), **more)

    def same(self, table: str, other: str | None = None) -> bool:
        """Whether both servers print the same rows, in COPY's own form."""
        texts = []
        for endpoint, name in ((self.pair.source, table), (self.pair.target, other or table)):
            with session.connect(endpoint, application_name="test", read_only=True) as conn:
                conn.execute("SET search_path = public")
                texts.append(conn.execute(f'SELECT t::text FROM {name} t ORDER BY t::text COLLATE "C"').fetchall())
        return bool(texts[0] == texts[1])


@pytest.fixture
def world(pair: Pair) -> Iterator[Callable[..., World]]:
    """Makes the tables on both sides, fills the source, and starts PostgREST and the gateway before it."""
    open_ones: list[Any] = []

    def make(tables: str, rows: str, *, schemas: str = "public", max_rows: int | None = 1000, legacy_keys: bool = True) -> World:
        pair.on_both(*(statement for statement in tables.split(";\n") if statement.strip()))
        pair.on_source(ROLES, *(statement for statement in rows.split(";\n") if statement.strip()), PRIVILEGES.format(schemas=schemas))
        server = pair.source_server
        uri = f"postgresql://authenticator:{PASSWORD}@127.0.0.1:{server.port}/{pair.dbname}?sslmode=disable"
        for one in (PostgREST(uri, schemas, max_rows), None):
            open_ones.append(one.__enter__() if one else Gateway(open_ones[-1].port, legacy_keys=legacy_keys).__enter__())
        return World(pair, open_ones[-1])

    yield make
    for one in reversed(open_ones):
        one.__exit__()


def sized(count: int, name: str) -> str:
    return f"INSERT INTO {name} SELECT n, 'row ' || n FROM generate_series(1, {count}) n"


def test_case_45_sizes_around_the_page_cap(world: Callable[..., World]) -> None:
    """999, 1,000, 1,001 and 0 rows below a cap of 1,000, and keys that are no numbers, with gaps, composite and in a collation of their own."""
    names = {999: "t999", 1000: "t1000", 1001: "t1001", 0: "t0"}
    tables = ";\n".join(f"CREATE TABLE {name} (id int PRIMARY KEY, v text)" for name in names.values())
    tables += """;
        CREATE TABLE pairs (a int, b int, c text COLLATE "C", v text, PRIMARY KEY (a, b, c));
        CREATE TABLE words (word text PRIMARY KEY, "order" int, "select" text, "a.b,""c" text);
        CREATE TABLE "Mixed, case" ("or" int, "and" text, PRIMARY KEY ("or", "and"))"""
    rows = ";\n".join(sized(count, name) for count, name in names.items())
    rows += r""";
        INSERT INTO pairs SELECT a, b, c, a || ',' || b FROM generate_series(1, 11) a, generate_series(1, 11) b,
            unnest(ARRAY['', 'x', 'X', 'ü', 'a"b', 'a\b', '(,)']) c;
        INSERT INTO words SELECT E'w\t"' || chr(97 + n % 26) || CASE n % 3 WHEN 0 THEN 'É' WHEN 1 THEN '😀' ELSE 'null' END || n,
            n, E'line\nend\\.', '\N' FROM generate_series(1, 2500) n;
        INSERT INTO words VALUES ('', NULL, '', NULL), ('null', 1, NULL, 'NULL'), ('"', 1, '', ''), ('%', 1, '&x=1', '#');
        INSERT INTO "Mixed, case" SELECT n % 7, 'v' || n FROM generate_series(1, 1500) n"""
    made = world(tables, rows)
    done = made.copy()
    assert {table.name: table.rows for table in done.tables} == {
        **{f"public.{name}": count for count, name in names.items()}, "public.pairs": 847, "public.words": 2504, "public.Mixed, case": 1500,
    }  # fmt: skip
    assert all(table.counted_before == table.counted_after == table.rows and table.moved == 0 for table in done.tables)
    assert done.changed and not done.consistent and done.page_rows == 1000 and done.snapshot_lsn is None
    assert all(made.same(name) for name in (*names.values(), "pairs", "words", '"Mixed, case"'))
    assert [asked.query for asked in made.gateway.rows_asked("t0")]
    found = made.verify()
    assert found.equal and found.lsn is None and {table.method for table in found.tables} == {"key"}
    again = made.copy()
    assert not again.changed and again.resumed and all(table.resumed for table in again.tables) and again.rows == done.rows


def test_case_45_seven_rows_a_page_and_a_renamed_table(world: Callable[..., World]) -> None:
    """max_rows 7, a rename of schema, table and column, generated and identity columns, and a schema that is not the default."""
    tables = """CREATE SCHEMA "Ünï";
        CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) STORED, old text)"""
    made = world(
        tables,
        """INSERT INTO t (a, old) SELECT n, 'x' || n FROM generate_series(1, 50) n;
        DELETE FROM t WHERE id % 5 = 0;
        CREATE TABLE "Ünï"."Früh" (id int PRIMARY KEY, v text);
        INSERT INTO "Ünï"."Früh" SELECT n, 'ä' || n FROM generate_series(1, 15) n""",
        schemas="public,Ünï",
        max_rows=7,
    )
    made.pair.on_target(
        'ALTER TABLE t RENAME COLUMN old TO "new"', "CREATE SCHEMA app", "CREATE TABLE app.later (id int PRIMARY KEY, v text)"
    )
    rename = {"schemas": {"Ünï": "app"}, "tables": {"Ünï.Früh": "later"}, "columns": {"public.t.old": "new"}}
    selection = Selection.from_args(rename=rename, flavour="supabase")
    done = rest_copy.copy(made.source(), made.pair.target, selection)
    assert {(table.name, table.target, table.rows) for table in done.tables} == {
        ("public.t", "public.t", 40),
        ("Ünï.Früh", "app.later", 15),
    }
    assert done.page_rows == 7
    assert made.same("t") and made.same('"Ünï"."Früh"', "app.later")
    assert rest_verify.verify(made.source(), made.pair.target, selection).equal


def test_case_45_exact_numbers_and_15_json(world: Callable[..., World]) -> None:
    """bigint above 2^53, numeric of 30 digits, floats to the last bit, json with its blanks and double keys, and every type that REST shows."""
    tables = """CREATE TYPE mood AS ENUM ('sad', 'o,k', 'happy');
        CREATE TYPE part AS (x int, y text);
        CREATE DOMAIN short AS varchar(5);
        CREATE TABLE v (id bigint PRIMARY KEY, n numeric, n2 numeric(40, 10), f8 float8, f4 float4, j json, jb jsonb, m money,
            ts timestamptz, lt timestamp, d date, tm time,
            tz timetz, i interval, b bytea, c char(5), vc varchar(9), u uuid, ip inet, net cidr, e mood, ea mood[], ia int[],
            ta text[], fa float8[], p part, s short,
            bits bit(5), vb varbit, r int4range, tr tstzrange, x xml, ts2 tsvector, bo boolean, pt point)"""
    value = r"""-9007199254740993, 123456789012345678901234567890, 123456789012345678901234567890.0123456789, 0.1::float8 + 0.2::float8, 1.1::float4,
        '{"a" :1,  "a":2, "z":"\u0000", "n":1.00}', '{"b":[1.0,1.00,12345678901234567890],"a":"ü"}', -1234.56,
        '1900-01-01 00:00:00.000001+00', 'infinity', '0044-03-15 BC',
        '24:00', '00:00:00-15:59', '1 mon -1 day 00:00:00.000001', '\x00ff5c', 'ab', 'x  ',
         '00000000-0000-0000-0000-0000000000ff', '10.0.0.1/8', '10.0.0.0/8', 'o,k',
        '{happy,NULL,"o,k"}', '[0:1]={1,NULL}', ARRAY['', NULL, 'NULL', E'a"\\b\n'], ARRAY[0.1::float8 + 0.2::float8, 'NaN'],
        ROW(1, E'a,"b\\'), 'abc', B'10101', B'', '[1,5)',
        '[2020-01-01 00:00+00,infinity)', '<a b="c">&lt;</a>', 'a:1A fat:2', true, point(0.1::float8 + 0.2::float8, -0.0)"""
    made = world(
        tables,
        f"""INSERT INTO v VALUES ({value});
        INSERT INTO v (id, f8, f4, d, fa)
            VALUES (9223372036854775807, '-0', 'NaN', '5874897-12-31', '{{}}'), (0, 5e-324, 'Infinity', '-infinity', '{{1e22,-0}}');
        INSERT INTO v (id, n, f8) SELECT n, n / 3.0, n / 3.0 FROM generate_series(1, 300) n""",
    )
    assert made.copy().rows == 303
    assert made.same("v")
    assert made.pair.on_target("SELECT j::text FROM v WHERE id = -9007199254740993") == [(r'{"a" :1,  "a":2, "z":"\u0000", "n":1.00}',)]
    row = "WHERE id = -9007199254740993"
    made.pair.on_target(f"CREATE TABLE kept AS SELECT * FROM v {row}")
    for column, new in (
        *(("n2", "n2 + 0.0000000001"), ("f8", "0.3"), ("j", """'{"a":1,"a":2}'"""), ("m", "-1234.55")),
        *(("c", "'ac'"), ("ea", "NULL"), ("ta[1]", "NULL"), ("pt", "point(0.3, 0)")),
    ):
        made.pair.on_target(f"UPDATE v SET {column} = {new} {row}")
        (table,) = made.verify().tables
        name = column.partition("[")[0]
        assert [(found.key, found.columns) for found in table.changed] == [({"id": "-9007199254740993"}, (name,))] and not table.equal
        made.pair.on_target(f"UPDATE v SET {name} = (SELECT {name} FROM kept) {row}")
    assert made.verify().equal


def test_case_45_rounded_floats_are_refused_by_row(world: Callable[..., World]) -> None:
    """A source that prints floats with 15 digits, as Supabase does: short ones are proven to be whole, the first rounded one is named."""
    made = world(
        "CREATE TABLE prices (id int PRIMARY KEY, price float8);\nCREATE TABLE f (id int PRIMARY KEY, v float8)",
        """ALTER ROLE authenticator SET extra_float_digits = 0;
        INSERT INTO prices SELECT n, n / 4.0 FROM generate_series(1, 400) n;
        INSERT INTO f VALUES (1, 0.5), (2, 0.1::float8 + 0.2::float8), (3, 3)""",
    )
    try:
        made.copy(include=("public.prices",))
        assert made.same("prices")
        with pytest.raises(TransferError, match=r"public\.f, row id=2: column v arrives as 0\.3, which is rounded") as caught:
            made.copy()
        assert caught.value.details["kind"] == "value" and "extra_float_digits = 1" in caught.value.remedy
        # The remedy works, and the rerun goes on.
        made.pair.on_source("ALTER ROLE service_role SET extra_float_digits = 1", "NOTIFY pgrst, 'reload config'")
        _until(lambda: made.copy().changed)
        assert made.same("f")
    finally:
        made.pair.on_source("ALTER ROLE authenticator RESET ALL", "ALTER ROLE service_role RESET ALL")


def _until(action: Callable[[], object]) -> None:
    """PostgREST takes up a changed configuration a moment later."""
    end = time.monotonic() + 20
    while True:
        try:
            action()
            return
        except TransferError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def test_case_45_other_styles_are_refused_by_row(world: Callable[..., World]) -> None:
    made = world(
        "CREATE TABLE d (id int PRIMARY KEY, day date)",
        "INSERT INTO d VALUES (7, '2001-02-03');\nALTER ROLE authenticator SET datestyle = 'SQL, DMY'",
    )
    try:
        with pytest.raises(
            TransferError, match=r"public\.d, row id=7: column day arrives as '03/02/2001', a date that is not in ISO style"
        ):
            made.copy()
        assert made.pair.on_target("SELECT count(*) FROM d") == [(0,)]
    finally:
        made.pair.on_source("ALTER ROLE authenticator RESET ALL")


def test_case_45_writes_between_pages(world: Callable[..., World]) -> None:
    """Rows that appear, change, move to another key and vanish behind and before the reader are brought over by the passes."""
    made = world(
        "CREATE TABLE t (id int PRIMARY KEY, v text, u int UNIQUE)",
        "INSERT INTO t SELECT n * 10, 'v' || n, n FROM generate_series(1, 100) n",
        max_rows=20,
    )
    changes = {
        3: "INSERT INTO t VALUES (5, 'behind', 1000), (999, 'ahead', 1001)",
        4: "UPDATE t SET v = 'changed' WHERE id IN (10, 900); DELETE FROM t WHERE id IN (20, 910)",
        # Comes twice: read at its old key, then at its new one, with the same unique value.
        5: "UPDATE t SET id = 1005 WHERE id = 30; UPDATE t SET u = -u WHERE id IN (50, 60); "
        "UPDATE t SET u = CASE u WHEN -5 THEN 6 ELSE 5 END WHERE u IN (-5, -6)",
    }

    def fault(asked: Asked) -> None:
        if asked.path == "t" and ".asc" in asked.query:
            made.pair.on_source(*changes.pop(len(made.gateway.rows_asked("t")), "SELECT 1").split("; "))

    made.gateway.fault = fault
    done = made.copy()
    table = done.tables[0]
    assert not changes and made.same("t")
    assert table.moved >= 5 and table.passes >= 2 and (table.counted_before, table.counted_after, table.rows) == (100, 100, 100)
    assert made.verify().equal


def test_case_45_a_source_that_never_rests_is_said_so(world: Callable[..., World]) -> None:
    made = world("CREATE TABLE t (id int PRIMARY KEY, v int)", "INSERT INTO t SELECT n, 0 FROM generate_series(1, 30) n", max_rows=10)

    def fault(asked: Asked) -> None:
        if asked.path == "t" and ".asc" in asked.query:
            made.pair.on_source("UPDATE t SET v = v + 1 WHERE id = 1", "INSERT INTO t SELECT max(id) + 1, 0 FROM t")

    made.gateway.fault = fault
    with pytest.raises(TransferError, match=r"public\.t(: \d+ rows were read| moves while it is read: after \d passes)") as caught:
        made.copy()
    assert caught.value.details["kind"] in ("moving", "count_mismatch") and "Stop writes" in caught.value.remedy
    made.gateway.fault = lambda _asked: None
    assert made.copy().changed and made.same("t")


def test_case_45_storms_of_429_and_500_and_broken_links(world: Callable[..., World]) -> None:
    """Every other answer is a refusal with Retry-After, a server error, a reset, or breaks off: all rows arrive once."""
    made = world("CREATE TABLE t (id int PRIMARY KEY, v text)", sized(400, "t"), max_rows=100)
    storms = [
        Fault(429, b'{"message":"slow down"}', {"Content-Type": "application/json", "Retry-After": "0"}),
        Fault(500, b"<html>oops</html>", {"Content-Type": "text/html"}),
        Fault(0),
        Fault(200, half=True),
        Fault(503, b'{"code":"PGRST002","message":"schema cache"}', {"Content-Type": "application/json"}),
    ]

    def fault(asked: Asked) -> Fault | None:
        return storms[(asked.number // 3) % len(storms)] if asked.number % 3 == 2 else None

    made.gateway.fault = fault
    done = made.copy(workers=1)
    assert done.rows == 400 and done.retries >= 4 and made.same("t")
    made.gateway.fault = lambda _asked: Fault(500, b"{}", {"Content-Type": "application/json", "Retry-After": "3600"})
    with pytest.raises(TransferError, match="status 500") as caught:
        made.verify()
    assert caught.value.details["kind"] == "server_error" and "given up" in caught.value.message


def test_case_45_resumes_after_the_last_page(world: Callable[..., World]) -> None:
    """A run that ends in the middle leaves whole pages; the next one asks only for what comes after them."""
    made = world("CREATE TABLE t (id int PRIMARY KEY, v text)", sized(100, "t"), max_rows=10)
    made.gateway.fault = lambda asked: (
        Fault(403, b'{"code":"42501","message":"permission denied for table t"}', {"Content-Type": "application/json"})
        if len(made.gateway.rows_asked("t")) > 6
        else None
    )
    with pytest.raises(TransferError, match="status 403") as caught:
        made.copy()
    assert caught.value.details["kind"] == "privilege" and "GRANT SELECT" in caught.value.remedy
    assert made.pair.on_target("SELECT count(*), max(id) FROM t") == [(60, 60)]
    made.gateway.fault = lambda _asked: None
    made.gateway.requests.clear()
    done = made.copy()
    assert done.resumed and done.rows == 100 and made.same("t")
    first = made.gateway.rows_asked("t")[0].query
    assert "gt.%2260%22" in first
    # Rows of its own in a table that no ledger explains stay untouched.
    made.pair.on_target("DROP SCHEMA cutover CASCADE")
    with pytest.raises(TransferError, match="already holds rows") as caught:
        made.copy()
    assert caught.value.details["kind"] == "target_not_empty"


def test_case_45_no_key_is_refused_unless_one_is_named(world: Callable[..., World]) -> None:
    tables = "CREATE TABLE log (at int, what text);\nCREATE TABLE ok (id int PRIMARY KEY);\nCREATE VIEW seen AS SELECT * FROM ok"
    made = world(tables, "INSERT INTO log SELECT n, 'x' || n % 3 FROM generate_series(1, 50) n;\nINSERT INTO ok VALUES (1)", max_rows=9)
    with pytest.raises(TransferError, match=r"1 tables have no key .*: public\.log$") as caught:
        made.copy()
    assert caught.value.details["kind"] == "no_key" and made.pair.on_target("SELECT count(*) FROM ok") == [(0,)]
    with pytest.raises(TransferError, match=r"what does not identify the rows of public\.log: two rows have what=x0"):
        made.copy(made.source(unique={"public.log": ["what"]}))
    made.pair.on_target("DROP SCHEMA cutover CASCADE", "TRUNCATE log, ok")
    done = made.copy(made.source(unique={"public.log": ["at"]}))
    assert done.rows == 51 and made.same("log") and any("public.seen is a view" in line for line in done.skipped)
    made.pair.on_target("DROP SCHEMA cutover CASCADE", "TRUNCATE log, ok")
    # The same value twice, on either side of a page's edge; and a row without one.
    made.pair.on_source("UPDATE log SET at = 9 WHERE at = 10")
    with pytest.raises(TransferError, match=r"at does not identify the rows of public\.log: two rows have at=9"):
        made.copy(made.source(unique={"public.log": ["at"]}))
    made.pair.on_source("UPDATE log SET at = NULL WHERE at = 9")
    with pytest.raises(TransferError, match=r"public\.log: rows have no value in at"):
        made.copy(made.source(unique={"public.log": ["at"]}))


def test_case_45_an_answer_without_rows_that_are_there_is_found(world: Callable[..., World]) -> None:
    """An empty page that lies would end the reading early: the exact count tells."""
    made = world("CREATE TABLE t (id int PRIMARY KEY, v text)", sized(50, "t"), max_rows=10)
    made.gateway.fault = lambda asked: (
        Fault(200, b"[]", {"Content-Type": "application/json"}) if asked.path == "t" and "gt.%2220%22" in asked.query else None
    )
    with pytest.raises(TransferError, match=r"public\.t: 20 rows were read and brought over, but the source counts 50") as caught:
        made.copy()
    assert caught.value.details["kind"] == "count_mismatch"
    with pytest.raises(TransferError, match="20 rows were read, but the source counts 50"):
        made.verify()


def test_case_45_differences_are_named(world: Callable[..., World]) -> None:
    made = world(
        "CREATE TABLE t (a int, b text, v text, n numeric, PRIMARY KEY (a, b))",
        "INSERT INTO t SELECT n % 9, 'k' || n, 'v' || n, n FROM generate_series(1, 300) n",
        max_rows=40,
    )
    made.copy()
    made.pair.on_target(
        "UPDATE t SET v = '' WHERE b = 'k7'",
        "UPDATE t SET n = 8.0, v = NULL WHERE b = 'k8'",
        "DELETE FROM t WHERE b IN ('k100', 'k200')",
        "INSERT INTO t VALUES (99, 'mine', NULL, 1)",
    )
    table = made.verify().tables[0]
    assert not table.equal and (table.rows, table.target_rows) == (300, 299)
    assert [dict(row.key or {}) for row in table.extra] == [{"a": "99", "b": "mine"}]
    assert {(row.key or {})["b"] for row in table.missing} == {"k100", "k200"}
    assert {((row.key or {})["b"], row.columns) for row in table.changed} == {("k7", ("v",)), ("k8", ("v", "n"))}
    capped = made.verify(max_reported=1).tables[0]
    assert (len(capped.changed), capped.changed_count, capped.missing_count, capped.extra_count) == (1, 2, 2, 1)
    counted = made.verify(mode="counts").tables[0]
    assert (counted.method, counted.missing_count, counted.extra_count) == ("count", 1, 0)


def test_case_45_keys_by_name_and_never_shown(world: Callable[..., World], tmp_path: Path) -> None:
    """Old and new keys are told apart; each refusal has its name; no key is ever in a message."""
    made = world("CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1);\nREVOKE ALL ON t FROM anon", legacy_keys=False)
    cases = {
        "key_filtered": ["sb_publishable_abc", token(role="anon")],
        "key_expired": [token(role="service_role", exp=1)],
        "key_refused": ["sb_secret_not-of-this-project"],
        "legacy_keys_disabled": [token(role="service_role")],
        "bad_key": ["a b"],
    }
    for kind, keys in cases.items():
        for key in keys:
            with pytest.raises(TransferError) as caught:
                made.copy(made.source(key))
            shown = (
                repr(caught.value) + caught.value.message + caught.value.remedy + json.dumps(caught.value.details) + repr(made.source(key))
            )
            assert caught.value.details["kind"] == kind and key not in shown
    made.gateway.requests.clear()
    assert made.copy().rows == 1
    assert all(asked.headers["apikey"] == SECRET_KEY and "authorization" not in asked.headers for asked in made.gateway.requests)
    assert SECRET_KEY not in json.dumps(made.pair.on_target("SELECT source, owner FROM cutover.run"))
    made.gateway.legacy_keys = True
    assert made.verify(made.source(token(role="service_role"))).equal
    with pytest.raises(TransferError) as caught:
        made.copy(Endpoint.from_args({"rest": {"url": "http://192.0.2.1", "key": SECRET_KEY}}))
    assert caught.value.details["kind"] == "tls" and "unencrypted" in caught.value.message


def test_case_45_check_writes_nothing(world: Callable[..., World]) -> None:
    made = world("CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t SELECT generate_series(1, 5)")
    planned = made.copy(check=True)
    assert planned.changed and planned.rows == 0
    assert made.pair.on_target("SELECT count(*) FROM t") == [(0,)]
    assert made.pair.on_target("SELECT to_regnamespace('cutover')") == [(None,)]


def test_case_45_wide_rows_make_smaller_pages(world: Callable[..., World], monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that together are too much for one answer are asked for a few at a time. The bounds are a sixteenth of the real ones."""
    monkeypatch.setattr(rest_http, "MAX_BODY", rest_http.MAX_BODY // 16)
    monkeypatch.setattr(rest_source, "PAGE_BYTES", rest_source.PAGE_BYTES // 16)
    made = world(
        "CREATE TABLE t (id int PRIMARY KEY, v text)", "INSERT INTO t SELECT n, repeat(md5(n::text), 10000) FROM generate_series(1, 24) n"
    )
    assert made.copy().rows == 24
    assert made.same("t")
    assert any(int(asked.query.rpartition("limit=")[2]) < 10 for asked in made.gateway.rows_asked("t"))


def test_case_45_through_the_modules(world: Callable[..., World], tmp_path: Path) -> None:
    """As Ansible runs them: results that say what REST cannot show, and no key in any output."""
    made = world("CREATE TABLE t (id int PRIMARY KEY, v text)", sized(30, "t"), max_rows=10)
    given = {
        "source": {"rest": {"url": made.gateway.url, "key": SECRET_KEY}, "flavour": "supabase"},
        "target": made.pair.target_server.args(made.pair.dbname),
    }
    assert (
        "a REST source has no snapshots, slots or movers to join, but slot" in run("pg_row_copy", {**given, "slot": "s"}, tmp_path)["msg"]
    )
    done = run("pg_row_copy", given, tmp_path)
    assert done["changed"] and done["rows"] == 30 and done["consistent"] is False and done["page_rows"] == 10
    assert (done["tables"][0]["counted_before"], done["tables"][0]["counted_after"], done["tables"][0]["passes"]) == (30, 30, 1)
    assert any("without password hashes" in line for line in done["left_behind"])
    made.pair.on_target("DELETE FROM t WHERE id = 7")
    found = run("pg_row_verify", {**given, "fail_on_difference": False}, tmp_path)
    assert not found["equal"] and found["tables"][0]["missing"] == [{"key": {"id": "7"}}] and not found.get("exact")
