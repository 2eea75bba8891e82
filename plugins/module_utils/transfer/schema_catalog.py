# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the schema transfer compares on both sides: identities, privileges, owners, comments, extensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import acl
from .toc import Fact, Key

if TYPE_CHECKING:
    import psycopg

# Everything that pg_dump writes and that has a catalogue row of its own, except what an extension brings and what the system is made of.
_OBJECTS = """
WITH spaces AS (SELECT oid, nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'cutover')),
objects(classid, objid, schema, relation) AS (
    SELECT 'pg_namespace'::regclass, oid, nspname::text, 0::oid FROM spaces
    UNION ALL SELECT 'pg_class'::regclass, c.oid, s.nspname::text,
        coalesce(i.indrelid, d.refobjid, CASE WHEN c.relkind IN ('r', 'p', 'f') THEN c.oid END, 0::oid)
        FROM pg_class c JOIN spaces s ON s.oid = c.relnamespace LEFT JOIN pg_index i ON i.indexrelid = c.oid
        LEFT JOIN pg_depend d ON c.relkind = 'S' AND d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_class'::regclass
             AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
        WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 'i', 'I')
    UNION ALL SELECT 'pg_constraint'::regclass, k.oid, s.nspname::text, k.conrelid FROM pg_constraint k JOIN spaces s ON s.oid = k.connamespace
        WHERE k.contype IN ('p', 'u', 'x', 'f', 'c', 'n') OR k.contypid <> 0
    UNION ALL SELECT 'pg_trigger'::regclass, t.oid, s.nspname::text, t.tgrelid FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
        JOIN spaces s ON s.oid = c.relnamespace WHERE NOT t.tgisinternal
    UNION ALL SELECT 'pg_policy'::regclass, p.oid, s.nspname::text, p.polrelid FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
        JOIN spaces s ON s.oid = c.relnamespace
    UNION ALL SELECT 'pg_attrdef'::regclass, a.oid, s.nspname::text, a.adrelid FROM pg_attrdef a JOIN pg_class c ON c.oid = a.adrelid
        JOIN spaces s ON s.oid = c.relnamespace
    UNION ALL SELECT 'pg_rewrite'::regclass, r.oid, s.nspname::text, CASE WHEN c.relkind IN ('r', 'p') THEN c.oid ELSE 0::oid END
        FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class JOIN spaces s ON s.oid = c.relnamespace
    UNION ALL SELECT 'pg_statistic_ext'::regclass, x.oid, s.nspname::text, x.stxrelid FROM pg_statistic_ext x JOIN spaces s ON s.oid = x.stxnamespace
    UNION ALL SELECT 'pg_proc'::regclass, p.oid, s.nspname::text, 0::oid FROM pg_proc p JOIN spaces s ON s.oid = p.pronamespace
    UNION ALL SELECT 'pg_type'::regclass, t.oid, s.nspname::text, 0::oid FROM pg_type t JOIN spaces s ON s.oid = t.typnamespace
    UNION ALL SELECT 'pg_collation'::regclass, o.oid, s.nspname::text, 0::oid FROM pg_collation o JOIN spaces s ON s.oid = o.collnamespace
    UNION ALL SELECT 'pg_conversion'::regclass, o.oid, s.nspname::text, 0::oid FROM pg_conversion o JOIN spaces s ON s.oid = o.connamespace
    UNION ALL SELECT 'pg_operator'::regclass, o.oid, s.nspname::text, 0::oid FROM pg_operator o JOIN spaces s ON s.oid = o.oprnamespace
    UNION ALL SELECT 'pg_opclass'::regclass, o.oid, s.nspname::text, 0::oid FROM pg_opclass o JOIN spaces s ON s.oid = o.opcnamespace
    UNION ALL SELECT 'pg_opfamily'::regclass, o.oid, s.nspname::text, 0::oid FROM pg_opfamily o JOIN spaces s ON s.oid = o.opfnamespace
    UNION ALL SELECT 'pg_ts_config'::regclass, o.oid, s.nspname::text, 0::oid FROM pg_ts_config o JOIN spaces s ON s.oid = o.cfgnamespace
    UNION ALL SELECT 'pg_ts_dict'::regclass, o.oid, s.nspname::text, 0::oid FROM pg_ts_dict o JOIN spaces s ON s.oid = o.dictnamespace
    UNION ALL SELECT 'pg_ts_parser'::regclass, o.oid, s.nspname::text, 0::oid FROM pg_ts_parser o JOIN spaces s ON s.oid = o.prsnamespace
    UNION ALL SELECT 'pg_ts_template'::regclass, o.oid, s.nspname::text, 0::oid FROM pg_ts_template o JOIN spaces s ON s.oid = o.tmplnamespace
    UNION ALL SELECT 'pg_default_acl'::regclass, oid, '', 0::oid FROM pg_default_acl
    UNION ALL SELECT 'pg_cast'::regclass, oid, '', 0::oid FROM pg_cast WHERE oid >= 16384
    UNION ALL SELECT 'pg_transform'::regclass, oid, '', 0::oid FROM pg_transform
    UNION ALL SELECT 'pg_am'::regclass, oid, '', 0::oid FROM pg_am WHERE oid >= 16384
    UNION ALL SELECT 'pg_language'::regclass, oid, '', 0::oid FROM pg_language WHERE oid >= 16384
    UNION ALL SELECT 'pg_extension'::regclass, oid, '', 0::oid FROM pg_extension
    UNION ALL SELECT 'pg_event_trigger'::regclass, oid, '', 0::oid FROM pg_event_trigger
    UNION ALL SELECT 'pg_publication'::regclass, oid, '', 0::oid FROM pg_publication
    UNION ALL SELECT 'pg_foreign_data_wrapper'::regclass, oid, '', 0::oid FROM pg_foreign_data_wrapper
    UNION ALL SELECT 'pg_foreign_server'::regclass, oid, '', 0::oid FROM pg_foreign_server
    UNION ALL SELECT 'pg_user_mapping'::regclass, umid, '', 0::oid FROM pg_user_mappings)
SELECT o.classid::oid::bigint, o.objid::bigint, i.type, i.identity, o.schema, rn.nspname::text, rc.relname::text, pn.nspname::text, p.relname::text,
       EXISTS (SELECT FROM pg_depend e WHERE e.classid = o.classid AND e.objid = o.objid AND e.deptype = 'e')
FROM objects o CROSS JOIN LATERAL pg_identify_object(o.classid, o.objid, 0) i
LEFT JOIN pg_class rc ON rc.oid = o.relation AND rc.relkind IN ('r', 'p', 'f') LEFT JOIN pg_namespace rn ON rn.oid = rc.relnamespace
LEFT JOIN pg_class p ON rc.relispartition AND p.oid = pg_partition_root(rc.oid) LEFT JOIN pg_namespace pn ON pn.oid = p.relnamespace
WHERE i.identity IS NOT NULL
"""

# What uses an object of a schema that stays behind, or a member of an extension that stays behind. A view's uses hang on its rule.
_BLOCKED = """
WITH own(classid, objid, name) AS (
    SELECT d.classid, d.objid, 'extension ' || e.extname FROM pg_extension e JOIN pg_depend d
      ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e' WHERE e.extname = ANY(%(extensions)s)
    UNION ALL SELECT x.classid, x.objid, i.type || ' ' || i.identity FROM (
        SELECT 'pg_proc'::regclass::oid AS classid, oid AS objid, pronamespace AS space FROM pg_proc
        UNION ALL SELECT 'pg_class'::regclass, oid, relnamespace FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
        UNION ALL SELECT 'pg_type'::regclass, oid, typnamespace FROM pg_type) x
      JOIN pg_namespace n ON n.oid = x.space CROSS JOIN LATERAL pg_identify_object(x.classid, x.objid, 0) i
      WHERE n.nspname = ANY(%(schemas)s) AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = x.classid AND e.objid = x.objid AND e.deptype = 'e')),
gone AS (SELECT * FROM own UNION ALL SELECT o.classid, t.typarray, o.name FROM own o JOIN pg_type t ON o.classid = 'pg_type'::regclass AND t.oid = o.objid
         WHERE t.typarray <> 0)
SELECT DISTINCT coalesce(CASE WHEN r.oid IS NOT NULL THEN 'pg_class'::regclass::oid::bigint END,
                CASE WHEN a.oid IS NOT NULL THEN 'pg_class'::regclass::oid::bigint END, d.classid::bigint),
       coalesce(r.ev_class, a.adrelid, d.objid)::bigint, g.name,
       coalesce((SELECT string_agg(DISTINCT attname, ', ') FROM pg_attribute
                 WHERE attrelid = d.objid AND d.classid = 'pg_class'::regclass AND attnum = d.objsubid AND attnum > 0), '')
FROM pg_depend d JOIN gone g ON g.classid = d.refclassid AND g.objid = d.refobjid
LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
LEFT JOIN pg_attrdef a ON d.classid = 'pg_attrdef'::regclass AND a.oid = d.objid
WHERE d.deptype = 'n' AND NOT EXISTS (SELECT FROM gone s WHERE s.classid = d.classid AND s.objid = d.objid)
"""

_ACLS = """
WITH spaces AS (SELECT oid, nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'cutover')),
lists(kind, classid, objid, sub, name, owner, acl, fallback) AS (
    SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, 'pg_class'::regclass, c.oid, '', format('%I.%I', s.nspname, c.relname), c.relowner,
           c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner)
      FROM pg_class c JOIN spaces s ON s.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
    UNION ALL SELECT 'COLUMN', 'pg_class'::regclass, c.oid, a.attname::text, format('%I.%I', s.nspname, c.relname), c.relowner, a.attacl, '{}'
      FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN spaces s ON s.oid = c.relnamespace
      WHERE a.attacl IS NOT NULL AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
    UNION ALL SELECT 'SCHEMA', 'pg_namespace'::regclass, n.oid, '', quote_ident(n.nspname), n.nspowner, n.nspacl, acldefault('n', n.nspowner)
      FROM spaces JOIN pg_namespace n USING (oid)
    UNION ALL SELECT 'ROUTINE', 'pg_proc'::regclass, p.oid, '', p.oid::regprocedure::text, p.proowner, p.proacl, acldefault('f', p.proowner)
      FROM pg_proc p JOIN spaces s ON s.oid = p.pronamespace
    UNION ALL SELECT CASE t.typtype WHEN 'd' THEN 'DOMAIN' ELSE 'TYPE' END,
           'pg_type'::regclass, t.oid, '', format('%I.%I', s.nspname, t.typname), t.typowner, t.typacl,
           acldefault('T', t.typowner)
      FROM pg_type t JOIN spaces s ON s.oid = t.typnamespace LEFT JOIN pg_class c ON c.oid = t.typrelid
      WHERE t.typcategory <> 'A' AND (t.typrelid = 0 OR c.relkind = 'c')
    UNION ALL SELECT 'FOREIGN DATA WRAPPER', 'pg_foreign_data_wrapper'::regclass, f.oid, '', quote_ident(f.fdwname), f.fdwowner, f.fdwacl,
           acldefault('F', f.fdwowner) FROM pg_foreign_data_wrapper f
    UNION ALL SELECT 'FOREIGN SERVER', 'pg_foreign_server'::regclass, f.oid, '', quote_ident(f.srvname), f.srvowner, f.srvacl,
           acldefault('S', f.srvowner) FROM pg_foreign_server f)
SELECT l.kind, i.type, i.identity, l.sub, l.name, pg_get_userbyid(l.owner)::text, l.classid::oid::bigint, l.objid::bigint,
       coalesce((SELECT jsonb_agg(jsonb_build_array(coalesce(g.rolname, ''), o.rolname, x.privilege_type, x.is_grantable) ORDER BY x.place)
                 FROM aclexplode(coalesce(l.acl, l.fallback)) WITH ORDINALITY x(grantor, grantee, privilege_type, is_grantable, place)
                 JOIN pg_roles o ON o.oid = x.grantor LEFT JOIN pg_roles g ON g.oid = x.grantee), '[]')
FROM lists l CROSS JOIN LATERAL pg_identify_object(l.classid, l.objid, 0) i
WHERE NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = l.classid AND e.objid = l.objid AND e.deptype = 'e')
"""

_DETAILS = """
SELECT 'rls', 'table', i.identity, c.relrowsecurity::text || c.relforcerowsecurity::text FROM pg_class c,
  LATERAL pg_identify_object('pg_class'::regclass, c.oid, 0) i
  WHERE c.relkind IN ('r', 'p') AND (c.relrowsecurity OR c.relforcerowsecurity)
UNION ALL SELECT 'attached', i.type, i.identity, '' FROM pg_class c, LATERAL pg_identify_object('pg_class'::regclass, c.oid, 0) i WHERE c.relispartition
UNION ALL SELECT 'owned', 'sequence', i.identity, '' FROM pg_depend d JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'S',
  LATERAL pg_identify_object('pg_class'::regclass, c.oid, 0) i
  WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0 AND d.deptype = 'a'
UNION ALL SELECT 'comment', i.type, i.identity, string_agg(d.objsubid || d.description, E'\\n' ORDER BY d.objsubid)
  FROM pg_description d, LATERAL pg_identify_object(d.classoid, d.objoid, 0) i WHERE d.objoid >= 16384 GROUP BY i.type, i.identity
UNION ALL SELECT 'view', i.type, i.identity, pg_get_viewdef(c.oid) FROM pg_class c, LATERAL pg_identify_object('pg_class'::regclass, c.oid, 0) i
  WHERE c.relkind IN ('v', 'm') AND c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
UNION ALL SELECT 'attached', i.type, i.identity, '' FROM pg_constraint k JOIN pg_class c ON c.oid = k.conindid AND c.relispartition,
  LATERAL pg_identify_object('pg_constraint'::regclass, k.oid, 0) i WHERE k.contype IN ('p', 'u', 'x')
UNION ALL SELECT 'proof', i.type, i.identity, format('ALTER TABLE %I.%I VALIDATE CONSTRAINT %I', n.nspname, c.relname, k.conname) FROM pg_constraint k
  JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace, LATERAL pg_identify_object('pg_constraint'::regclass, k.oid, 0) i
  WHERE k.contype IN ('f', 'c') AND k.conparentid = 0 AND n.nspname !~ '^pg_'
UNION ALL SELECT 'definition', i.type, i.identity, k.convalidated || pg_get_constraintdef(k.oid) FROM pg_constraint k
  JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace, LATERAL pg_identify_object('pg_constraint'::regclass, k.oid, 0) i
  WHERE k.contype IN ('p', 'u', 'x', 'f', 'c') AND n.nspname !~ '^pg_'
UNION ALL SELECT 'definition', i.type, i.identity, pg_get_indexdef(x.indexrelid) FROM pg_index x
  JOIN pg_class c ON c.oid = x.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace, LATERAL pg_identify_object('pg_class'::regclass, c.oid, 0) i
  WHERE n.nspname !~ '^pg_'
UNION ALL SELECT 'definition', i.type, i.identity, pg_get_triggerdef(t.oid) || t.tgenabled::text FROM pg_trigger t,
  LATERAL pg_identify_object('pg_trigger'::regclass, t.oid, 0) i WHERE NOT t.tgisinternal
UNION ALL SELECT 'definition', i.type, i.identity, concat_ws(' ', p.polcmd, p.polpermissive, pg_get_expr(p.polqual, p.polrelid), '/',
    pg_get_expr(p.polwithcheck, p.polrelid), (SELECT string_agg(coalesce(r.rolname, 'PUBLIC'), ',' ORDER BY r.rolname)
      FROM unnest(p.polroles) u(id) LEFT JOIN pg_roles r ON r.oid = u.id)) FROM pg_policy p, LATERAL pg_identify_object('pg_policy'::regclass, p.oid, 0) i
UNION ALL SELECT 'definition', i.type, i.identity, CASE WHEN p.prosqlbody IS NULL
  THEN md5(pg_get_functiondef(p.oid)) ELSE pg_get_functiondef(p.oid) END FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace,
  LATERAL pg_identify_object('pg_proc'::regclass, p.oid, 0) i
  WHERE p.prokind IN ('f', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_proc'::regclass AND e.objid = p.oid AND e.deptype = 'e')
UNION ALL SELECT 'definition', i.type, i.identity, string_agg(concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod),
    a.attnotnull AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'n' AND NOT k.convalidated AND a.attnum = ANY(k.conkey)),
    a.attidentity,
    a.attgenerated, pg_get_expr(d.adbin, d.adrelid)), ', ' ORDER BY a.attname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum,
  LATERAL pg_identify_object('pg_class'::regclass, c.oid, 0) i WHERE c.relkind IN ('r', 'p', 'f') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  GROUP BY i.type, i.identity
UNION ALL SELECT 'definition', i.type, i.identity, array_to_string(d.defaclacl, ' ') FROM pg_default_acl d,
  LATERAL pg_identify_object('pg_default_acl'::regclass, d.oid, 0) i
"""


@dataclass(frozen=True)
class Extension:
    """An installed extension. members' schema as on this side; columns: table columns whose type it brings, ``schema.table.column``."""

    oid: int
    name: str
    version: str
    schema: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Privileges:
    """Access control list of one object as it takes effect: the built-in default spelled out."""

    subject: acl.Subject
    key: Key
    identity: tuple[str, str, str]
    items: tuple[acl.Item, ...]


def facts(conn: psycopg.Connection[Any]) -> dict[Key, Fact]:
    """Every object outside the system's schemas, members of extensions left out."""
    found = {}
    for classid, objid, kind, identity, schema, rel_schema, rel, root_schema, root, member in conn.execute(_OBJECTS).fetchall():
        if not member:
            table = (rel_schema, rel) if rel is not None else None
            found[(classid, objid)] = Fact(kind, identity, schema, table, (root_schema, root) if root is not None else None)
    return found


def blocked(conn: psycopg.Connection[Any], schemas: Sequence[str], extensions: Sequence[str]) -> dict[Key, str]:
    """Objects that use something of these schemas or extensions: (class, object) to what it is, with the columns where it is a table."""
    rows = conn.execute(_BLOCKED, {"schemas": list(schemas), "extensions": list(extensions)}).fetchall()
    found: dict[Key, tuple[str, list[str]]] = {}
    for classid, objid, name, columns in sorted(rows):
        first, so_far = found.setdefault((classid, objid), (name, []))
        # A type and its arrays are two rows of one extension.
        so_far += [one for one in columns.split(", ") if one and name == first and one not in so_far]
    return {key: name + (f" (column {', '.join(sorted(columns))})" if columns else "") for key, (name, columns) in found.items()}


def on_columns(conn: psycopg.Connection[Any], columns: Sequence[tuple[str, str]]) -> dict[Key, str]:
    """Objects that use one of these columns, (schema.table, column): (class, object) to the column. Defaults among them."""
    if not columns:
        return {}
    rows = conn.execute(
        "SELECT DISTINCT coalesce(CASE WHEN r.oid IS NOT NULL THEN 'pg_class'::regclass::oid::bigint END, d.classid::bigint),"
        " coalesce(r.ev_class, d.objid)::bigint, n.nspname || '.' || c.relname || '.' || a.attname FROM pg_depend d"
        " JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid JOIN pg_class c ON c.oid = a.attrelid"
        " JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid"
        " WHERE d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0 AND d.deptype IN ('n', 'a', 'i')"
        " AND n.nspname || '.' || c.relname || '.' || a.attname = ANY(%s)",
        ([f"{table}.{column}" for table, column in columns],),
    ).fetchall()
    return {(classid, objid): f"column {name}" for classid, objid, name in rows}


def privileges(conn: psycopg.Connection[Any]) -> dict[tuple[str, str, str], Privileges]:
    """Access control lists by (kind, identity, column). On a frozen side as they will be after the thaw."""
    found = {}
    for kind, _type, identity, sub, name, owner, classid, objid, items in conn.execute(_ACLS).fetchall():
        key = (kind, identity, sub)
        found[key] = Privileges(acl.Subject(kind, name, owner, sub), (classid, objid), key, acl.items_of(items))
    tables = {one.key[1]: one for one in found.values() if one.key[0] == 1259 and not one.subject.column}
    for oid, column, before in _remembered(conn):
        table = tables.get(oid)
        if table is not None:
            kind = "COLUMN" if column else table.subject.kind
            key = (kind, table.identity[1], column)
            subject = acl.Subject(kind, table.subject.name, table.subject.owner, column)
            found[key] = Privileges(subject, table.key, key, tuple(acl.Item(**item) for item in before))
    return found


def _remembered(conn: psycopg.Connection[Any]) -> list[tuple[int, str, list[dict[str, Any]]]]:
    there = conn.execute("SELECT to_regclass('cutover.acl') IS NOT NULL AND to_regclass('cutover.freeze') IS NOT NULL").fetchone()
    if not there or not there[0]:
        return []
    return conn.execute(
        "SELECT a.oid::bigint, coalesce(t.attname::text, ''), a.before FROM cutover.acl a"
        " LEFT JOIN pg_attribute t ON t.attrelid = a.oid AND t.attnum = a.attnum AND a.attnum > 0"
        " WHERE EXISTS (SELECT FROM cutover.freeze WHERE state = 'frozen')"
    ).fetchall()


def forget(conn: psycopg.Connection[Any], oid: int) -> None:
    """Drop what a freeze remembered of the lists of this relation."""
    there = conn.execute("SELECT to_regclass('cutover.acl') IS NOT NULL").fetchone()
    if there and there[0]:
        conn.execute("DELETE FROM cutover.acl WHERE oid = %s::oid", (oid,))


def details(conn: psycopg.Connection[Any]) -> dict[str, dict[tuple[str, str], str]]:
    """Properties that have no catalogue row of their own, by what, (kind, identity): rls, attached, owned, comment, view."""
    found: dict[str, dict[tuple[str, str], str]] = {}
    for what, kind, identity, text in conn.execute(_DETAILS).fetchall():
        found.setdefault(what, {})[(kind, identity)] = text
    return found


def extensions(conn: psycopg.Connection[Any]) -> list[Extension]:
    """Installed extensions except plpgsql, by name."""
    rows = conn.execute(
        """SELECT e.oid::bigint, e.extname::text, e.extversion, n.nspname::text,
                  coalesce((SELECT array_agg(DISTINCT format('%s.%s.%s', cn.nspname, c.relname, a.attname))
                     FROM pg_depend d JOIN pg_type t ON d.classid = 'pg_type'::regclass AND t.oid = d.objid
                     JOIN pg_attribute a ON a.atttypid IN (t.oid, t.typarray) AND a.attnum > 0 AND NOT a.attisdropped
                     JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p') JOIN pg_namespace cn ON cn.oid = c.relnamespace
                     WHERE d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'), '{}')
           FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname <> 'plpgsql' ORDER BY 2"""
    ).fetchall()
    return [Extension(oid, name, version, schema, tuple(sorted(columns))) for oid, name, version, schema, columns in rows]


def available_extensions(conn: psycopg.Connection[Any]) -> dict[str, str]:
    """Extensions that the server could create: name to default version."""
    return dict(conn.execute("SELECT name::text, coalesce(default_version, '') FROM pg_available_extensions").fetchall())


def schema_names(conn: psycopg.Connection[Any]) -> list[str]:
    """Schemas outside the system's own."""
    rows = conn.execute(
        "SELECT nspname::text FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' ORDER BY 1"
    ).fetchall()
    return [name for (name,) in rows]
