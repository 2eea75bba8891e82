# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What of a schema comes along: extensions, and what lives in the platform's own rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from . import schema_catalog as facts_of
from . import schema_deferred, toc
from .errors import TransferError

if TYPE_CHECKING:
    import psycopg

# Extensions that reach out of the database or hold the platform's own keys: running on both sides they would act twice.
PLATFORM_EXTENSIONS = (
    "pg_cron",
    "pg_net",
    "pgsodium",
    "supabase_vault",
    "pg_graphql",
    "pgmq",
    "wrappers",
    "supautils",
    "pg_tle",
    "supabase-dbdev",
)


@dataclass(frozen=True)
class Options:
    """extension_map: name on the source to name on the target; extension_skip: not taken even where the target has them.

    role_names: roles to take although nothing names them; role_passwords: for those that may log in; jobs: parallel sessions for indexes
    vault: what happens to vault secrets, one of :data:`.vault.MODES`
    """

    bin_dir: str | None = None
    extension_map: Mapping[str, str] = field(default_factory=dict)
    extension_skip: tuple[str, ...] = ()
    role_names: tuple[str, ...] = ()
    role_passwords: Mapping[str, str] = field(default_factory=dict, repr=False)
    jobs: int = 2
    maintenance_work_mem: str = "256MB"
    vault: str = "report"


@dataclass(frozen=True)
class ExtensionPlan:
    """create: (name on the target, schema); unwanted: source object to reason; names: extensions that stay behind; homes: their schemas.

    rows: for the result; notes: (object, what to know about it)
    """

    create: tuple[tuple[str, str], ...]
    unwanted: Mapping[toc.Key, str]
    names: tuple[str, ...]
    homes: frozenset[str]
    rows: tuple[dict[str, str], ...] = ()
    notes: tuple[tuple[str, str], ...] = ()


def plan_extensions(
    installed: Sequence[facts_of.Extension],
    available: Mapping[str, str],
    options: Options,
    flavour: str,
    there: Mapping[str, str] | None = None,
) -> ExtensionPlan:
    """Which extensions come along. Pure. Raises TransferError for a map onto an extension that the target cannot create.

    available, there: version that the target would install, and has installed, by name
    """
    create, unwanted, names, homes, rows, notes = [], {}, [], set(), [], []
    for extension in installed:
        name = options.extension_map.get(extension.name, extension.name)
        if name != extension.name and name not in available:
            raise TransferError(
                f"extensions.map gives {extension.name} the extension {name}, which the target does not offer",
                "Install its package on every member of the target, or correct extensions.map.",
            )
        version = (there or {}).get(name, available.get(name, ""))
        if extension.name in options.extension_skip:
            reason = "extensions.skip names it"
        elif flavour == "supabase" and extension.name in PLATFORM_EXTENSIONS and extension.name not in options.extension_map:
            reason = "it is part of the platform and would act on both sides"
        elif name not in available:
            reason = "the target does not offer it"
        else:
            reason = ""
        rows.append(
            {
                "name": extension.name,
                "target_name": name,
                "schema": extension.schema,
                "version": extension.version,
                "target_version": version,
                "left_behind": reason,
            }
        )
        if reason:
            unwanted[(3079, extension.oid)] = reason
            names.append(extension.name)
            continue
        create.append((name, extension.schema))
        if extension.schema != "pg_catalog":
            homes.add(extension.schema)
        if version != extension.version:
            notes.append((f"extension {extension.name}", f"version {extension.version} on the source, {version} on the target"))
    return ExtensionPlan(tuple(create), unwanted, tuple(names), frozenset(homes), tuple(rows), tuple(notes))


def default_public(facts: Mapping[toc.Key, toc.Fact], keep: Sequence[toc.Entry]) -> frozenset[toc.Key]:
    """The schema public when anything in it moves. pg_dump leaves it out where it is as initdb made it, which differs between versions. Pure."""
    if not any((fact := facts.get(entry.key)) is not None and fact.schema == "public" and fact.kind != "schema" for entry in keep):
        return frozenset()
    return frozenset(key for key, fact in facts.items() if fact.kind == "schema" and fact.identity == "public")


def platform_rows(src: psycopg.Connection[Any], dst: psycopg.Connection[Any], schemas: Sequence[str]) -> list[tuple[str, str]]:
    """What lives in rows of platform tables and has to be made again by hand: cron jobs that the target cannot take."""
    if "cron" not in schemas:
        return []
    jobs = schema_deferred.cron_jobs(src)
    if jobs is None:
        return [("cron.job", "our role may not read all of it, so which jobs there are is not known")]
    if schema_deferred.has_cron(dst):
        return []
    return [(f"cron job {job['name']}", "the target has no pg_cron; schedule it there after the cutover") for job in jobs]
