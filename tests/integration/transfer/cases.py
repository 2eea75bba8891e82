"""A schema with everything that is hard to move, and its rows, for the tests of copy, verify and resync."""

from __future__ import annotations

import time
from collections.abc import Callable

SCHEMA = (
    "CREATE TYPE mood AS ENUM ('calm', 'it''s', 'Ünruhig')",
    "CREATE TYPE two AS (a int, b text)",
    "CREATE DOMAIN positive AS int CHECK (value > 0)",
    "CREATE DOMAIN small_positive AS positive CHECK (value < 1000)",
    """CREATE TABLE wide (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, i2 int2, i4 int4, f4 float4, f8 float8, n numeric, n2 numeric(12, 2), t text, v varchar(40),
        c char(6), b bytea, u uuid, d date, tm time, tz timetz, ts timestamp, tstz timestamptz, iv interval, j json, jb jsonb, ip inet, net cidr,
        mac macaddr, bits bit(5), vbits varbit, m mood, ms mood[], ia int[], ta text[], ma numeric[], p two, dom small_positive, r int4range,
        mr int4multirange, tsv tsvector, x xml, amount money, o oid, rc regclass, pt point, flag bool, ch "char",
        double_id bigint GENERATED ALWAYS AS (id * 2) STORED)""",
    # The same without the types that force text, so that binary is met by hard values too.
    """CREATE TABLE wide_binary (
        id int PRIMARY KEY, f4 float4, f8 float8, n numeric, t text, b bytea, ts timestamp, tstz timestamptz, iv interval, jb jsonb, m mood, ia int[],
        ip inet, dom small_positive, r int4range, bits varbit)""",
    "CREATE TABLE text_key (company text, kind text, code text, value jsonb, PRIMARY KEY (company, kind, code))",
    "CREATE TABLE uuid_key (id uuid PRIMARY KEY, note text)",
    "CREATE TABLE pair_key (a int, b int, note text, PRIMARY KEY (a, b))",
    "CREATE TABLE no_key (a int, b text)",
    "CREATE TABLE nullable_key (a int UNIQUE, b text)",
    "CREATE TABLE empty_one (id int PRIMARY KEY)",
    "CREATE TABLE no_columns ()",
    'CREATE TABLE "Odd ""Name\\" (id int PRIMARY KEY, "select" text, "Ümläut %s" text)',
    "CREATE TABLE ranged (id int, at date, note text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)",
    "CREATE TABLE ranged_1 PARTITION OF ranged FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')",
    "CREATE TABLE ranged_2 PARTITION OF ranged FOR VALUES FROM ('2025-01-01') TO ('2026-01-01') PARTITION BY RANGE (at)",
    "CREATE TABLE ranged_2_a PARTITION OF ranged_2 FOR VALUES FROM ('2025-01-01') TO ('2025-07-01')",
    "CREATE TABLE ranged_2_b PARTITION OF ranged_2 FOR VALUES FROM ('2025-07-01') TO ('2026-01-01')",
    "CREATE TABLE ranged_rest PARTITION OF ranged DEFAULT",
    "CREATE TABLE hashed (m mood, id int) PARTITION BY HASH (m)",
    "CREATE TABLE hashed_0 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
    "CREATE TABLE hashed_1 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
    "CREATE TABLE parent (id int PRIMARY KEY, note text)",
    "CREATE TABLE child (extra int) INHERITS (parent)",
)

_COLUMNS = (
    "i2, i4, f4, f8, n, n2, t, v, c, b, u, d, tm, tz, ts, tstz, iv, j, jb, ip, net, mac, bits, vbits, m, ms, ia, ta, ma, p, dom, r, mr, tsv, x,"
    " amount, o, rc, pt, flag, ch"
)

ROWS = (
    f"""INSERT INTO wide ({_COLUMNS}) VALUES
        (-32768, -2147483648, '-0', '-0', '1.0', '1.00', '', '', '', '', '00000000-0000-0000-0000-000000000000', '-infinity', '00:00', '24:00:00-15:59',
         '-infinity', 'infinity', '-178000000 years', '{{"a": 1,  "a":2}}', '{{"b":"\\u00e9"}}', '::1/64', '10.0.0.0/8', '00:11:22:33:44:55', B'00000', B'',
         'it''s', '{{calm,NULL}}', '{{}}', '{{"",NULL,"NULL"}}', '{{1.0,1.00,NaN}}', '(,)', 1, 'empty', '{{}}', '', '<a/>', '-92233720368547758.08', 0, 'wide',
         '(-0,1e-310)', true, 'x'),
        (32767, 2147483647, 'NaN', 'Infinity', 'NaN', '9999999999.99', E'a''b"c\\\\.\\n\\\\N\\r\\t', 'x  ', 'ab', '\\x00ff5c', NULL, '5874897-12-31', '24:00',
         '00:00:00+15:59', '4713-01-01 BC', '294276-12-31 23:59:59.999999+00', '-1 mon +2 days -03:04:05.6', '"\\u0000"', 'null', '10.0.0.1', '::/0', NULL,
         B'11111', B'101', 'Ünruhig', '{{}}',
         '[0:1]={{1,2}}', '{{{{a,b}},{{"c d","e\\"f"}}}}', '{{}}', '(1,"q""(")', 999, '[1,5)', '{{[1,2),[5,6)}}', 'a:1A fat:2',
         '', '92233720368547758.07', 4294967295, NULL, NULL, false, NULL),
        (0, 0, '1e-45', '5e-324', '1234567890123456789012345678901234567890.123456789', NULL, '\\.', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
         '1 day -00:00:01', '[ ]', '[1.0, 1.00]', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
         NULL, NULL, NULL, NULL),
        ({", ".join(["NULL"] * 41)})""",
    f"""INSERT INTO wide ({_COLUMNS}) SELECT g, g, g / 3.0, 0.1 + g, g * 1.10, g, repeat('größer ' || g, g % 50), g, g, decode(md5(g::text), 'hex'),
        md5(g::text)::uuid, '2024-01-01'::date + g, '01:02:03', '01:02:03+01', '2024-01-01'::timestamp + g * '1 min'::interval, '2024-01-01'::timestamptz
        - g * '1 us'::interval, g * '1 min'::interval, '{{"g": 1}}', jsonb_build_object('g', g, 'list', array[g, g + 1]), '10.0.0.1', '10.0.0.0/24', NULL,
        g::bit(5), g::bit(9)::varbit, 'calm', '{{calm}}', array[g, NULL], array['x', 'y z'], array[g / 3.0], row(g, 'b')::two, 1 + g % 900,
        int4range(g, g + 5), '{{}}', to_tsvector('simple', 'word' || g), '<g/>', g, g, 'no_key', point(g, g), g % 2 = 0, 'c'
        FROM generate_series(1, 3000) g""",
    """INSERT INTO wide_binary SELECT g, CASE g % 4 WHEN 0 THEN 'NaN' WHEN 1 THEN '-0' WHEN 2 THEN '-Infinity' ELSE g / 7.0 END,
        CASE g % 3 WHEN 0 THEN '-0' ELSE
        sqrt(abs(g)) END, CASE g % 5 WHEN 0 THEN 'NaN' WHEN 1 THEN '1.00' ELSE g / 3.0 END,
        CASE g % 3 WHEN 0 THEN '' WHEN 1 THEN NULL ELSE E'\\\\N\\t' || g END,
        decode(md5(g::text), 'hex'), CASE g % 9 WHEN 0 THEN 'infinity' ELSE '2000-01-01'::timestamp + g * '1 us'::interval END, '1500-01-01 BC',
        g * '1 day -1 min'::interval, jsonb_build_object('k', g), 'it''s', array[g, NULL], '::1', 1 + abs(g) % 900, int4range(g, NULL), g::bit(7)
        FROM generate_series(-1000, 1000) g""",
    """INSERT INTO text_key SELECT 'Firma ' || g % 7, CASE g % 3 WHEN 0 THEN 'session' WHEN 1 THEN 'Session' ELSE 'sëssion 😀' END, 'key:' || g,
        jsonb_build_object('data', repeat(md5(g::text), 5)) FROM generate_series(1, 4000) g""",
    "INSERT INTO uuid_key SELECT md5(g::text)::uuid, 'note ' || g FROM generate_series(1, 2000) g",
    "INSERT INTO pair_key SELECT a, b, a || '/' || b FROM generate_series(1, 40) a, generate_series(1, 40) b",
    "INSERT INTO no_key SELECT g % 100, CASE WHEN g % 10 = 0 THEN NULL ELSE 'b' || g % 100 END FROM generate_series(1, 3000) g",
    "INSERT INTO nullable_key VALUES (1, 'a'), (NULL, 'b'), (NULL, 'b'), (NULL, NULL)",
    "INSERT INTO \"Odd \"\"Name\\\" VALUES (1, 'x', 'y'), (2, NULL, '')",
    "INSERT INTO ranged SELECT g, '2024-01-01'::date + g, 'r' || g FROM generate_series(0, 900) g",
    "INSERT INTO hashed SELECT (enum_range(NULL::mood))[1 + g % 3], g FROM generate_series(1, 300) g",
    "INSERT INTO parent SELECT g, 'p' || g FROM generate_series(1, 50) g",
    "INSERT INTO child SELECT g, 'c' || g, g FROM generate_series(1, 70) g",
    "INSERT INTO no_columns DEFAULT VALUES",
    "INSERT INTO no_columns DEFAULT VALUES",
)


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Wait for a condition, at most so long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(0.02)
