# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What two servers agree on: literals that both hash and print before the first row is compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .canonical import STRATEGIES, Agreement, hashed
from .catalog import Column
from .errors import TransferError

if TYPE_CHECKING:
    import psycopg

# Literals whose text or hash could differ between versions, builds and settings. {type under test: SQL literals}
PROBES: Mapping[str, tuple[str, ...]] = {
    "pg_catalog.bool": ("true", "NULL::bool"),
    "pg_catalog.int2": ("(-32768)::int2",),
    "pg_catalog.int4": ("0", "2147483647", "-1"),
    "pg_catalog.int8": ("9223372036854775807", "(-9223372036854775807)::int8", "4294967296", "0::int8"),
    "pg_catalog.oid": ("4294967295::oid",),
    "pg_catalog.char": ("'x'::\"char\"", "''::\"char\""),
    "pg_catalog.float4": ("'1.1'::float4", "'-0'::float4", "'1e-45'::float4"),
    "pg_catalog.float8": (
        "0.1::float8 + 0.2::float8",
        "'-0'::float8",
        "'NaN'::float8",
        "'-Infinity'::float8",
        "'5e-324'::float8",
        "1e22::float8",
    ),
    "pg_catalog.numeric": ("1.0", "1.00", "'NaN'::numeric", "1234567890123456789012345678901234567890.12345", "-0.000"),
    "pg_catalog.text": ("''", "'a|b'", "'<null>'", "U&'\\00fc\\+01F600'", "E'\\\\.\\n\"'", "'(a,b)'"),
    "pg_catalog.varchar": ("'trailing  '::varchar",),
    "pg_catalog.bpchar": ("'ab'::char(5)",),
    "pg_catalog.bytea": ("'\\x00ff'::bytea", "'\\x'::bytea"),
    "pg_catalog.uuid": ("'00000000-0000-0000-0000-0000000000ff'::uuid",),
    "pg_catalog.date": ("'infinity'::date", "'4713-01-01 BC'::date", "'5874897-12-31'::date"),
    "pg_catalog.time": ("'24:00'::time",),
    "pg_catalog.timetz": ("'00:00:00-15:59'::timetz",),
    "pg_catalog.timestamp": ("'-infinity'::timestamp", "'294276-12-31 23:59:59.999999'::timestamp"),
    "pg_catalog.timestamptz": (
        "'-infinity'::timestamptz",
        "'2000-01-01 00:00:00+00'::timestamptz",
        "'1900-01-01 00:00:00+00'::timestamptz",
        "'0044-03-15 BC'::timestamptz",
    ),
    "pg_catalog.interval": ("'1 mon -1 day 00:00:00.000001'::interval", "'-178000000 years'::interval", "'30 days'::interval"),
    "pg_catalog.json": ('\'{"a" :1, "a":2}\'::json',),
    "pg_catalog.jsonb": ('\'{"b":[1.0,1.00],"a":"\\u00fc"}\'::jsonb',),
    "pg_catalog.inet": ("'10.0.0.1/8'::inet", "'::1'::inet"),
    "pg_catalog.cidr": ("'10.0.0.0/8'::cidr",),
    "pg_catalog.macaddr": ("'00:11:22:33:44:55'::macaddr",),
    "pg_catalog.bit": ("B'10101'",),
    "pg_catalog.varbit": ("B''::varbit",),
    "pg_catalog.money": ("'-1234.56'::money",),
    "pg_catalog.point": ("point(0.1, -0.0)",),
    "pg_catalog.int4range": ("int4range(1, 5)", "'empty'::int4range", "int4range(NULL, 3)"),
    "pg_catalog.int4multirange": ("'{[1,2),[5,6)}'::int4multirange",),
    "pg_catalog.tsvector": ("'a:1A fat:2'::tsvector",),
    "pg_catalog.xml": ("'<a b=\"c\"/>'::xml",),
    "pg_catalog._int4": ("'[0:1]={1,2}'::int4[]", "'{}'::int4[]"),
    "pg_catalog._text": ("ARRAY['', NULL, 'NULL', 'a\"b']",),
    "pg_catalog._float8": ("ARRAY[0.1::float8, 'NaN']",),
}
_OPTIONAL = {"pg_catalog.xml"}


def probe_column(base: str) -> Column:
    """A column of a built-in type, as :mod:`.canonical` wants it."""
    element = f"pg_catalog.{base.rpartition('._')[2]}" if "._" in base else ""
    return Column(
        "probe",
        "character(5)" if base == "pg_catalog.bpchar" else "",
        base,
        "m" if "multirange" in base else "r" if "range" in base else "b",
        element,
        "b" if element else "",
        *(False, "", "", "", 1),
    )


def probes(used: Iterable[str]) -> list[tuple[str, str]]:
    """(type, literal) of all that is asked. A server may be built without XML: its literal is for those who use it."""
    types = PROBES.keys() - (_OPTIONAL - set(used))
    return [(base, literal) for base, literals in PROBES.items() if base in types for literal in literals]


def probe_query(strategy: str, asked: Sequence[tuple[str, str]]) -> str:
    """Statement that gives (number, first, second) for each literal; strategy ``plain`` gives its text instead of hashes."""
    parts = []
    for number, (base, literal) in enumerate(asked):
        if strategy == "plain":
            parts.append(f"SELECT {number}, ROW({literal})::text, ''")
            continue
        column = probe_column(base)
        found = hashed(Agreement(strategy), [(f"({literal})", column, column)])
        parts.append(f"SELECT {number}, h1::text, h2::text FROM ({found.select((), '(SELECT) s')}) q")
    return " UNION ALL ".join(parts)


def differing_types(asked: Sequence[tuple[str, str]], left: Sequence[Sequence[Any]], right: Sequence[Sequence[Any]]) -> frozenset[str]:
    """Types whose probes came out differently; left and right: answers to one :func:`probe_query` of both servers."""
    ours, theirs = {row[0]: tuple(row[1:]) for row in left}, {row[0]: tuple(row[1:]) for row in right}
    return frozenset(base for number, (base, _literal) in enumerate(asked) if ours.get(number) != theirs.get(number))


def agree(strategy: str, used: frozenset[str], plain: frozenset[str], hashes: frozenset[str], texts: frozenset[str]) -> Agreement | None:
    """How these types can be compared under a strategy, or None.

    plain: types that the servers print differently; hashes: types whose hashes under the strategy differ; texts: the same under strategy text
    A type's own hash makes do without a common text, and under ``record`` a type whose own hashes differ is hashed as text.
    """
    if strategy != "record":
        # A hash that differs for one text differs for any.
        return Agreement(strategy) if not hashes - plain and not used & plain else None
    as_text = hashes & used
    if as_text & plain or (as_text and texts - plain):
        return None
    return Agreement(strategy, as_text)


def shake_hands(
    source: psycopg.Connection[Any], target: psycopg.Connection[Any], used: Iterable[str], wanted: str | None = None
) -> Agreement:
    """The fastest strategy on which both servers agree for the used types.

    used: types (Column.base) in the tables to be compared; wanted: this strategy or none
    Raises TransferError when a used type is printed and hashed differently, or the servers agree on no strategy.
    """
    if wanted is not None and wanted not in STRATEGIES:
        raise TransferError(f"unknown hash {wanted!r}", f"Use one of {', '.join(STRATEGIES)}.")
    types = frozenset(used)
    asked = probes(types)
    plain = differing_types(asked, *(conn.execute(probe_query("plain", asked)).fetchall() for conn in (source, target)))
    reasons = []

    def differing(strategy: str) -> frozenset[str] | None:
        """Types whose probes differ; None where a server cannot compute them, for example md5 in FIPS mode."""
        try:
            answers = []
            for conn in (source, target):
                with conn.transaction():
                    answers.append(conn.execute(probe_query(strategy, asked)).fetchall())
        except Exception as error:
            if getattr(error, "sqlstate", None) is None:
                raise
            reasons.append(f"{strategy}: {str(error).splitlines()[0]}")
            return None
        return differing_types(asked, *answers)

    for strategy in (wanted,) if wanted else STRATEGIES:
        hashes = differing(strategy)
        if hashes is None:
            continue
        texts = differing("text") if strategy == "record" and hashes & types else frozenset()
        agreed = agree(strategy, types, plain, hashes, frozenset(PROBES) if texts is None else texts)
        if agreed is not None:
            return agreed
        reasons.append(f"{strategy}: {', '.join(sorted(hashes or plain & types))} differ")
    broken = sorted(plain & types)
    if broken:
        raise TransferError(
            f"the servers print values of type {', '.join(broken)} differently, so equal rows would look different",
            "Exclude the tables that use it, or bring both servers to one version.",
            kind="handshake",
            types=broken,
        )
    raise TransferError(f"the servers agree on no hash: {'; '.join(reasons)}", "Bring both servers to one version.", kind="handshake")
