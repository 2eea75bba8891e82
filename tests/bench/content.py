"""Whether two databases of one server version hold the same: by the servers' own text of every row, not by the engine that is measured."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pgservers

TABLES = """SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'cutover') ORDER BY pg_relation_size(c.oid) DESC, 1"""
# md5 of the text of each row, as two numbers that are added: the order of rows does not matter, their number does.
DIGEST = """SELECT count(*), sum(('x' || substr(h, 1, 15))::bit(60)::bigint), sum(('x' || substr(h, 17, 15))::bit(60)::bigint)
FROM (SELECT md5(t::text) AS h FROM ONLY {table} t OFFSET 0) s"""
OBJECTS = (
    """SELECT 'index', indexrelid::regclass::text, pg_get_indexdef(indexrelid) || ' ' || indisvalid FROM pg_index
       WHERE indrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace) ORDER BY 2""",
    """SELECT 'constraint', conrelid::regclass || '.' || conname, pg_get_constraintdef(oid) || ' ' || convalidated FROM pg_constraint
       WHERE connamespace = 'public'::regnamespace AND conparentid = 0 ORDER BY 2""",
    "SELECT 'sequence', schemaname || '.' || sequencename, coalesce(last_value::text, '') FROM pg_sequences WHERE schemaname = 'public' ORDER BY 2",
)

Digest = tuple[int, int, int]


def digests(server: pgservers.Server, dbname: str, exclude: str = "", sessions: int = 2) -> dict[str, Digest]:
    """{table: (rows, sum, sum)}. exclude: beginning of names that do not count."""
    names = [row[0] for row in server.execute(dbname, TABLES) if not exclude or not row[0].startswith(exclude)]
    with ThreadPoolExecutor(sessions) as pool:
        found = pool.map(lambda name: server.execute(dbname, "SET jit = off", DIGEST.format(table=name))[0], names)
        return {name: (int(row[0]), int(row[1] or 0), int(row[2] or 0)) for name, row in zip(names, found, strict=True)}


def objects(server: pgservers.Server, dbname: str) -> set[tuple[str, str, str]]:
    """Indexes, constraints and sequences with their definitions."""
    return {(row[0], row[1], row[2]) for query in OBJECTS for row in server.execute(dbname, query)}
