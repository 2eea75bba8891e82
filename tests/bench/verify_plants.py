"""What the verification benchmark plants on the target: ten ordinary differences, and changes of the kinds that comparisons have been seen to miss."""

from __future__ import annotations

# {table: statements for the target}: 5 rows changed, 3 missing, 2 extra in all.
PLANTS = {
    "leads": (
        "UPDATE leads SET remark = coalesce(remark, '') || ' ' WHERE id = 101",
        "UPDATE leads SET data = data || '{\"seen\": -1}' WHERE id = (SELECT max(id) / 2 FROM leads)",
        "DELETE FROM leads WHERE id = (SELECT max(id) / 3 FROM leads)",
        """INSERT INTO leads OVERRIDING SYSTEM VALUE SELECT max(id) + 5, 'ffffffff-ffff-ffff-ffff-ffffffffffff', 1, 'new', NULL, NULL, 'new', 1, 1,
           '{}', true, NULL, '2025-01-01 00:00+00', NULL FROM leads""",
    ),
    "events": (
        "UPDATE events SET value = 0.1 WHERE id = 3 AND value IS DISTINCT FROM 0.1",
        "UPDATE events SET kind = kind + 1 WHERE id = (SELECT max(id) - 2 FROM events)",
        "UPDATE events SET created_at = created_at + interval '1 us' WHERE id = (SELECT max(id) / 5 FROM events)",
        "DELETE FROM events WHERE id IN (SELECT max(id) / n FROM events, (VALUES (7), (11)) v(n) GROUP BY n)",
        "INSERT INTO events SELECT max(id) + 9, 1, 1, 1, '2025-01-01 00:00+00' FROM events",
    ),
}
_COUNTS = {"leads": 4, "events": 6}


def wanted(table: str) -> int:
    """How many rows of a table the plants make different."""
    return _COUNTS.get(table, 0)


_VALUES = {
    "big": ("bigint", "1", "4294967296"),
    "moment": ("timestamptz", "'2000-01-01 00:00:00.000001+00'", "'2000-01-01 01:11:34.967296+00'"),
    "far": ("timestamptz", "'9999-12-31 23:59:59.999999+00'", "'9999-12-31 23:59:59.99999+00'"),
    "zero": ("float8", "0", "'-0'"),
    "ulp": ("float8", "0.3", "0.1::float8 + 0.2::float8"),
    "digits": ("numeric", "1.0", "1.00"),
    "long_number": ("numeric", "12345678901234", "12345678901235"),
    "empty": ("text", "''", "NULL"),
    "blank": ("text", "'a'", "'a '"),
    "upper": ("text", "'straße'", "'Straße'"),
    "joined": ("text[]", "'{a,b}'", "'{\"a,b\"}'"),
    "bounds": ("int[]", "'{1,2}'", "'[0:1]={1,2}'"),
    "span": ("interval", "'30 days'", "'1 mon'"),
    "plain_json": ("json", "'{\"a\":1}'", "'{\"a\": 1}'"),
    "bytes": ("bytea", "'\\x0001'", "'\\x0100'"),
    "bits": ("varbit", "B'0'", "B'00'"),
}
_COLUMNS = ", ".join(f"{name} {kind}" for name, (kind, _value, _changed) in _VALUES.items())
_SWAPPED = (1001, 1002)
# Rows 1, 2, 3 ... change in one column each; two rows exchange a value; one of three equal rows without a key is lost.
TRAP_SCHEMA = (f"CREATE TABLE trap (id int PRIMARY KEY, {_COLUMNS})", "CREATE TABLE trap_keyless (at timestamptz, what text)")
TRAP_ROWS = (
    f"INSERT INTO trap SELECT g, {', '.join(value for _kind, value, _changed in _VALUES.values())} FROM generate_series(1, 1000) g",
    *(f"INSERT INTO trap (id, blank, upper) VALUES ({number}, 'value of {number}', 'same')" for number in _SWAPPED),
    "INSERT INTO trap_keyless SELECT '2025-01-01 00:00+00', 'w' || g % 100 FROM generate_series(1, 300) g",
)
TRAPS = (
    *(
        f"UPDATE trap SET {name} = {changed} WHERE id = {place}"
        for place, (name, (_kind, _value, changed)) in enumerate(_VALUES.items(), start=1)
    ),
    f"UPDATE trap a SET blank = b.blank FROM trap b WHERE (a.id, b.id) IN ({_SWAPPED}, {_SWAPPED[::-1]})",
    "DELETE FROM trap_keyless WHERE ctid = (SELECT min(ctid) FROM trap_keyless WHERE what = 'w42')",
)
TRAPPED = {
    "public.trap": [str(place) for place in range(1, len(_VALUES) + 1)] + [str(number) for number in _SWAPPED],
    "public.trap_keyless": ['("2025-01-01 00:00:00+00",w42)'],
}
