# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Two independent 64-bit hashes of a row from the hash functions of its columns' types, without rendering what needs no rendering. Pure.

How values become one hash: a column that is never NULL is hashed with the hash of the columns before it as its seed, so that every bit of it goes through
the whole function. What may be NULL, and what cannot take part in such a chain, is hashed under a seed of its own column and joined by XOR, NULL as 0, to
the seed that the chain begins with; the chain then keeps values that moved between rows from cancelling out in a sum.

Every change is seen by at least one of the two hashes with all its 64 bits, and by both but for these:
PostgreSQL's hash of a bigint or a timestamp folds 64 bits to 32 first: 1 and 4294967296 hash alike under every seed. So the second hash takes a bigint
as the seed, which is used whole, and a timestamp as its distance from a fixed moment in floating point. That distance is exact for 142 years around
2000; where it is not, moments that share it are neighbours within 2 ms, which the fold tells apart.
What has to be rendered or unpacked is hashed once, by all its bytes, and that hash takes part in both as a bigint does in the second: of two such
values one pair in 2^64 looks alike to both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# The hash of a zero distance is its seed unchanged: a moment that no clock shows keeps that from happening.
_ORIGIN = "1999-12-31 23:59:59.654321"
# Columns in one chain: a server's stack ends some thousand nested calls deep.
_LONGEST = 100
_SECOND = 1_000_000

_FUNCTIONS = {
    "int2": "hashint2extended",
    "int4": "hashint4extended",
    "oid": "hashoidextended",
    "char": "hashcharextended",
    "uuid": "uuid_hash_extended",
    "inet": "hashinetextended",
    "text": "hashtextextended",
}
# hashed: a bigint that is a hash of the value already
KINDS = (*_FUNCTIONS, "int8", "timestamp", "timestamptz", "float4", "float8", "bytea", "hashed")


@dataclass(frozen=True)
class Form:
    """How a column is hashed. sql: expression of it, of type kind; costly: worth computing once for both hashes."""

    sql: str
    kind: str
    nullable: bool = True
    costly: bool = False

    def once(self, number: int) -> Form:
        """The form whose value is its hash where computing it costs much. number: of its column."""
        if not self.costly or self.kind not in ("text", "bytea"):
            return self
        return Form(_alone(0, self, self.sql, number), "hashed", nullable=False, costly=True)


def pair_of_hashes(forms: Sequence[Form], names: Sequence[str]) -> tuple[str, str]:
    """(first, second) as bigint expressions. names: what to write for each form, its sql or a name under which a subquery gives it."""
    halves = []
    for which in (0, 1):
        groups = [
            _chain(which, forms[start : start + _LONGEST], names[start : start + _LONGEST], which * _SECOND + start * 10 + 1)
            for start in range(0, len(forms), _LONGEST)
        ]
        halves.append(groups[0] if len(groups) == 1 else f"hashint4extended({which + 1}, {' # '.join(groups)})")
    return halves[0], halves[1]


def _chain(which: int, forms: Sequence[Form], names: Sequence[str], salt: int) -> str:
    """One hash of some columns. salt: a number that no other chain of the row begins with."""
    links: list[tuple[str, str]] = []
    joined: list[str] = []
    whole = ""
    for place, (form, name) in enumerate(zip(forms, names, strict=True), start=salt + 1):
        if form.kind == "hashed":
            joined.append(f"hashint4extended({place}, {name})" if which else name)
        elif which and form.kind == "int8" and not form.nullable:
            if whole:
                joined.append(f"hashint4extended({place}, {name})")
            else:
                whole = name
        elif form.nullable or form.kind in ("float4", "float8", "bytea"):
            joined.append(_alone(which, form, name, place))
        else:
            links.append((form.kind, name))
    seed = " # ".join([whole, *joined] if whole else joined) or str(salt)
    # Distances first: whatever hash comes after them is a full one.
    for kind, name in sorted(links, key=lambda link: not link[0].startswith("timestamp")):
        seed = _seeded(which, kind, name, seed)
    return seed if links else f"hashint4extended({salt}, {seed})"


def _seeded(which: int, kind: str, name: str, seed: str) -> str:
    """Hash of a value under a seed; NULL for NULL."""
    if kind == "int8":
        return f"hashint8extended({name}, {seed})"
    if kind in ("timestamp", "timestamptz"):
        zone = kind == "timestamptz"
        if which:
            origin = f"'{_ORIGIN}{'+00' if zone else ''}'::{kind}"
            return f"hashfloat8extended({'tstzrange' if zone else 'tsrange'}_subdiff({name}, {origin}), {seed})"
        # The zone's offset of nothing turns one type into the other without a look at a calendar.
        return f"timestamp_hash_extended({f'timezone(interval {chr(39)}0{chr(39)}, {name})' if zone else name}, {seed})"
    return f"{_FUNCTIONS[kind]}({name}, {seed})"


def _alone(which: int, form: Form, name: str, number: int) -> str:
    """Hash of a value under the number of its column and hash; 0 for NULL."""
    if form.kind == "bytea":
        # The one way to a bytea's hash in SQL. A NULL inside a row counts as 0 there.
        return f"hash_record_extended(ROW({name}), {number})"
    if form.kind in ("float4", "float8"):
        # The hash of a zero is the seed, whatever its sign: in one of the two the seed then comes from its text.
        seed = str(number) if which else f"CASE WHEN {name} = 0 THEN hashtextextended({name}::text, {number}) ELSE {number} END"
        found = f"hash{form.kind}extended({name}, {seed})"
    elif which and form.kind == "int8":
        found = f"hashint4extended({number}, {name})"
    else:
        found = _seeded(which, form.kind, name, str(number))
    return f"coalesce({found}, 0)" if form.nullable else found
