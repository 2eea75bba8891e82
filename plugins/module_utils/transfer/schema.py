# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Bring schema, roles and privileges to the target: everything before the rows, and everything after them.

The source is dumped once by pg_dump; what is restored is chosen from the archive's table of contents by what the target lacks, so a
second run has nothing to do and an interrupted one goes on. Privileges and owners come from the catalogues and are compared afterwards.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import catalog, programs, renaming, roles, schema_deferred, schema_late, skew, toc, vault
from . import schema_catalog as facts_of
from .endpoint import Endpoint
from .errors import TransferError
from .freeze import TRIGGER
from .schema_archive import Archive
from .schema_compare import (
    Differences,
    Survey,
    apply_owners,
    apply_privileges,
    defaults_there,
    differences,
    lacking,
    survey,
    unproved,
    without_columns,
)
from .schema_plan import Options, default_public, plan_extensions, platform_rows
from .schema_restore import Restorer
from .selection import Rename, Selection
from .session import connect

if TYPE_CHECKING:
    import psycopg

SECTIONS = ("pre_data", "post_data", "all")
# Of a Supabase stack the services themselves make these schemas, on either side in their own version.
_SERVICE_SCHEMAS = ("auth", "storage")


@dataclass(frozen=True)
class Outcome:
    """applied: what was (or in check mode would be) done, in words; skipped: (object, reason); mentions: functions naming old names.

    deferred: what waits for the cutover; extensions: name, versions and state of each; notes: (object, what to know about it)
    """

    changed: bool
    applied: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    mentions: tuple[dict[str, str], ...] = ()
    roles_created: tuple[str, ...] = ()
    roles_without_password: tuple[str, ...] = ()
    objects: int = 0
    deferred: tuple[schema_deferred.Deferred, ...] = ()
    extensions: tuple[dict[str, str], ...] = ()
    notes: tuple[tuple[str, str], ...] = ()
    vault: vault.Outcome = field(default_factory=vault.Outcome)


def transfer(source: Endpoint, target: Endpoint, selection: Selection, section: str, options: Options, check: bool = False) -> Outcome:
    """Bring the section over. check: only say what would be done.

    Raises TransferError when a table that moves needs what cannot come, when the target is open already and would change, or when
    privileges differ afterwards.
    """
    if section not in SECTIONS:
        raise TransferError(f"unknown section {section!r}", f"Use one of {', '.join(SECTIONS)}.")
    with (
        connect(source, application_name="cutover schema", read_only=True) as src,
        connect(target, application_name="cutover schema") as dst,
    ):
        place = programs.find(options.bin_dir, src.info.server_version, dst.info.server_version)
        unmatched = selection.check(catalog.read_names(src))
        renaming.check(src, selection.rename)
        with tempfile.TemporaryDirectory(prefix="cutover-schema-") as folder:
            archive = Archive(place, Path(folder) / "schema.dump", dst.info.server_version)
            return _Transfer(src, dst, source, target, selection, options, archive, unmatched).run(section, check)


class _Transfer:
    """One transfer: the sessions and what was read once."""

    def __init__(
        self,
        src: psycopg.Connection[Any],
        dst: psycopg.Connection[Any],
        source: Endpoint,
        target: Endpoint,
        selection: Selection,
        options: Options,
        archive: Archive,
        unmatched: Sequence[str],
    ) -> None:
        self.src, self.dst, self.target, self.options = src, dst, target, options
        self.selection, self.archive = selection, archive
        self.notes: list[tuple[str, str]] = [("selection", text) for text in unmatched]
        schemas = facts_of.schema_names(src)
        self.left_out = toc.left_out_schemas(schemas, selection)
        self.extensions = plan_extensions(
            facts_of.extensions(src),
            facts_of.available_extensions(dst),
            options,
            selection.flavour,
            {one.name: one.version for one in facts_of.extensions(dst)},
        )
        self.notes += self.extensions.notes
        with ThreadPoolExecutor(max_workers=1) as beside:
            dumped = beside.submit(archive.dump, source, [schema for schema in self.left_out if schema not in self.extensions.homes])
            self.facts = facts_of.facts(src)
            self.wanted = survey(src, self.facts)
            self.before, there = self._look()
            self.absent = self._absent(there)
            without = facts_of.on_columns(src, [(one.table, one.column) for one in self.absent])
            blocked = facts_of.blocked(src, self.left_out, self.extensions.names) | without
            dumped.result()
        entries = archive.entries()
        self.post = archive.post_data()
        self.verdict = toc.judge(
            entries, self.facts, selection, frozenset(self.left_out), self.extensions.homes, blocked, self.extensions.unwanted
        )
        if self.verdict.broken:
            listed = "; ".join(f"{name}: {reason}" for name, reason in self.verdict.broken)
            raise TransferError(
                f"tables that move need what cannot come along: {listed}",
                "Install the extension on the target, name another in extensions.map, or exclude the tables.",
                broken=[{"object": name, "reason": reason} for name, reason in self.verdict.broken],
            )
        self.hooks = schema_deferred.hooks(src, selection, self.left_out)
        hidden = [
            (f"schema {schema}", "the platform runs this schema itself") for schema in self.left_out if schema not in self.extensions.homes
        ]
        told = {name for name, _reason in hidden}
        ours = f'"{TRIGGER}" on '
        self.skipped = [
            *(s for s in hidden if s[0] != "schema cutover"),
            *(s for s in self.verdict.skipped if s[0] not in told and ours not in s[0]),
            *platform_rows(src, dst, schemas),
            *self._inline(without, {entry.key for entry in entries}),
        ]
        self.notes += self._not_valid() + defaults_there(self.wanted, self.before)
        self.scope = frozenset(entry.key for entry in self.verdict.keep) | default_public(self.facts, self.verdict.keep)
        self.wanted = without_columns(self.wanted, {(one.table, one.column) for one in self.absent})

    def run(self, section: str, check: bool) -> Outcome:
        """All steps of the section."""
        role_plan = self._plan_roles() if section != "post_data" else roles.RolePlan()
        self.skipped += role_plan.skipped
        self.notes += role_plan.notes
        before = self.before
        extensions = self._missing_extensions() if section != "post_data" else []
        entries = self._entries(section, before)
        planned = [f"create role {name}" for name in role_plan.created]
        planned += ["set roles, memberships and settings"] if role_plan.statements and not role_plan.created else []
        planned += [f"create extension {name} in schema {schema}" for name, schema in extensions]
        planned += [self._told(entry) for entry in entries]
        gap = self._differences(before)
        planned += gap.repairs if not (check and planned) else ()
        late = section != "pre_data"
        planned += [f"prove {statement}" for statement in self._unproved(before)] if late else []
        planned += self._deferred_left(coming="pg_cron" in {name for name, _schema in extensions}) if late else []
        forward = self._renames_left() if section != "post_data" else []
        secrets = vault.transfer(self.src, self.dst, self.options.vault, check=True) if late else vault.Outcome()
        planned += [f"vault secret {name}" for name in secrets.moved]
        if gap.lasting:
            raise self._unequal(Differences((), gap.lasting))
        work = bool(planned or forward or role_plan.passwords)
        if check or not work:
            return self._outcome(work, (*planned, *forward), role_plan, secrets)
        self._refuse_open_target()
        if role_plan.statements or role_plan.passwords:
            with self.dst.transaction():
                roles.apply(self.dst, role_plan)
        if self.selection.rename != Rename():
            with self.dst.transaction():
                renaming.back(self.dst, self.selection.rename)
        try:
            self._restore(section, entries, extensions)
        finally:
            with self.dst.transaction():
                forward = renaming.forward(self.dst, self.selection.rename)
        if late:
            schema_late.refresh(self.src, self.dst, self.selection.target_name)
            schema_late.analyze(self.target, self.dst, self.options.jobs)
            secrets = vault.transfer(self.src, self.dst, self.options.vault, check=False)
        after, _there = self._look()
        left = self._entries(section, after)
        if left:
            listed = ", ".join(self._told(entry) for entry in left[:10])
            raise TransferError(
                f"{len(left)} objects are still missing on the target: {listed}", "Run again; if they stay, report it with the list."
            )
        gap = self._differences(after)
        if gap.repairs or gap.lasting:
            raise self._unequal(gap)
        return self._outcome(True, (*planned, *forward), role_plan, secrets)

    def _outcome(self, changed: bool, applied: tuple[str, ...], role_plan: roles.RolePlan, secrets: vault.Outcome) -> Outcome:
        mentions = tuple(renaming.mentions(self.dst, self.selection.rename))
        deferred = schema_deferred.read(self.src, self.dst, self.selection, self.left_out, self.hooks)
        objects = sum(1 for entry in self.verdict.keep if entry.key[0])
        self.skipped += [(f"vault secret {name}", reason) for name, reason in secrets.not_moved]
        return Outcome(
            changed,
            applied,
            tuple(dict.fromkeys(self.skipped)),
            mentions,
            role_plan.created,
            role_plan.without_password,
            objects,
            deferred,
            self.extensions.rows,
            tuple(dict.fromkeys(self.notes)),
            secrets,
        )

    def _look(self) -> tuple[Survey, tuple[catalog.Table, ...]]:
        """The target and its tables under the source's names. Renames are undone for the look only."""
        self.dst.execute("BEGIN")
        try:
            renaming.back(self.dst, self.selection.rename)
            seen = survey(self.dst, facts_of.facts(self.dst))
            return seen, self._unlike_tables(seen)
        finally:
            self.dst.execute("ROLLBACK")

    def _unlike_tables(self, seen: Survey) -> tuple[catalog.Table, ...]:
        """Tables of the target, read only when a service may have made one otherwise than the source's."""
        if self.selection.flavour != "supabase":
            return ()
        ours, theirs = self.wanted.details.get("definition", {}), seen.details.get("definition", {})
        services = tuple(f"{schema}." for schema in _SERVICE_SCHEMAS)
        unlike = any(
            kind == "table" and identity.startswith(services) and theirs.get((kind, identity), text) != text
            for (kind, identity), text in ours.items()
        )
        return tuple(catalog.read_tables(self.dst, Selection())) if unlike else ()

    def _absent(self, there: Sequence[catalog.Table]) -> list[skew.Absent]:
        """Columns of the services' tables that the target's versions lack. Raises TransferError when one holds data."""
        services = [table for table in there if table.schema in _SERVICE_SCHEMAS]
        if not services:
            return []
        found = skew.absent(self.src, catalog.read_tables(self.src, self.selection), services)
        skew.refuse(found)
        self.notes += [
            (f"column {one.table}.{one.column}", "the target's table does not have it; it holds no data on the source") for one in found
        ]
        return found

    def _entries(self, section: str, there: Survey) -> list[toc.Entry]:
        parts = {"pre_data": (False,), "post_data": (True,), "all": (False, True)}[section]
        return [entry for entry in lacking(self.verdict.keep, self.facts, self.wanted, there) if (entry.number in self.post) in parts]

    def _missing_extensions(self) -> list[tuple[str, str]]:
        have = {name for (name,) in self.dst.execute("SELECT extname::text FROM pg_extension").fetchall()}
        return [(name, schema) for name, schema in self.extensions.create if name not in have]

    def _plan_roles(self) -> roles.RolePlan:
        there = roles.read(self.src)
        seeds = roles.referenced(self.src) | set(self.options.role_names) | self.wanted.role_names
        if self.selection.flavour == "supabase":
            seeds |= set(roles.SUPABASE_ROLES)
        unknown = sorted((set(self.options.role_names) | set(self.options.role_passwords)) - set(there.roles))
        if unknown:
            raise TransferError(f"the source has no role {', '.join(unknown)}", "Correct the names of roles or role_passwords.")
        known = frozenset(name for (name,) in self.dst.execute("SELECT name::text FROM pg_settings").fetchall())
        return roles.plan(
            there,
            roles.read(self.dst),
            roles.wanted(there, seeds | set(self.options.role_passwords)),
            source_db=str(self.src.info.dbname),
            target_db=str(self.dst.info.dbname),
            target_settings=known,
            passwords=self.options.role_passwords,
            with_password=roles.with_password(self.dst),
        )

    def _restore(self, section: str, entries: Sequence[toc.Entry], extensions: Sequence[tuple[str, str]]) -> None:
        always = [entry.number for entry in self.verdict.keep if entry.description in toc.ALWAYS]
        how = (self.target, always, self.options.jobs, self.options.maintenance_work_mem)
        restorer = Restorer(self.src, self.dst, self.archive, self.facts, *how)
        if section != "post_data":
            restorer.before_rows([entry for entry in entries if entry.number not in self.post], extensions)
        if section != "pre_data":
            restorer.after_rows([entry for entry in entries if entry.number in self.post])
            restorer.prove(self._unproved(survey(self.dst, facts_of.facts(self.dst))))
            schema_deferred.make_hooks(self.dst, self.hooks)
            schema_deferred.make_jobs(self.dst, schema_deferred.missing_jobs(self.src, self.dst))
        with self.dst.transaction():
            apply_owners(self.dst, self.wanted, self.scope)
        with self.dst.transaction():
            apply_privileges(self.dst, self.wanted, self.scope)

    def _unproved(self, there: Survey) -> list[str]:
        """Statements that prove constraints which the source has proved and the target has not."""
        found = {(fact.kind, fact.identity) for key, fact in self.facts.items() if key in self.scope}
        return unproved(self.wanted, there, found)

    def _inline(self, without: Mapping[toc.Key, str], own_entry: Collection[toc.Key]) -> list[tuple[str, str]]:
        """Constraints that pg_dump writes into CREATE TABLE, which a target with its own, older table does not have."""
        return [
            (fact.named, f"it uses {without[key]}, which does not come along")
            for key, fact in self.facts.items()
            if key in without and key not in own_entry and fact.kind == "table constraint"
        ]

    def _not_valid(self) -> list[tuple[str, str]]:
        """Constraints that are NOT VALID on the source and stay so."""
        kept = {entry.key for entry in self.verdict.keep}
        states = self.wanted.details.get("definition", {})
        return [
            (fact.named, "it is NOT VALID on the source and stays so: rows that break it come along")
            for key, fact in self.facts.items()
            if key in kept and fact.kind.endswith("constraint") and states.get((fact.kind, fact.identity), "").startswith("false")
        ]

    def _deferred_left(self, coming: bool) -> list[str]:
        self.dst.execute("BEGIN")
        try:
            renaming.back(self.dst, self.selection.rename)
            hooks = schema_deferred.missing_hooks(self.dst, self.hooks)
        finally:
            self.dst.execute("ROLLBACK")
        jobs = schema_deferred.missing_jobs(self.src, self.dst, coming)
        return [schema_deferred.told(hook) for hook in hooks] + [f"cron job {job['name']}, switched off" for job in jobs]

    def _differences(self, there: Survey) -> Differences:
        found = differences(self.wanted, there, self.scope, self.facts)
        foreign = tuple(f" {schema}." for schema in _SERVICE_SCHEMAS) if self.selection.flavour == "supabase" else ()
        made_there = [text for text in found.lasting if any(mark in text for mark in foreign)]
        self.notes += [
            (text.removesuffix(" is defined differently"), "the target's own service made it otherwise; left as it is there")
            for text in made_there
        ]
        return replace(found, lasting=tuple(text for text in found.lasting if text not in made_there))

    def _renames_left(self) -> list[str]:
        self.dst.execute("BEGIN")
        try:
            return renaming.forward(self.dst, self.selection.rename)
        finally:
            self.dst.execute("ROLLBACK")

    def _refuse_open_target(self) -> None:
        there = self.dst.execute("SELECT to_regclass('cutover.state') IS NOT NULL").fetchone()
        if there and there[0]:
            state = self.dst.execute("SELECT state FROM cutover.state ORDER BY number DESC LIMIT 1").fetchone()
            if state and state[0] == "cut_over":
                raise TransferError(
                    "the target is in service and its schema differs from the source's",
                    "Change the schema there directly, or roll back first.",
                )

    def _told(self, entry: toc.Entry) -> str:
        fact = self.facts.get((1259, entry.key[1]) if entry.description == "ROW SECURITY" else entry.key)
        return f"{entry.description.lower()} {fact.identity if fact else entry.text}"

    def _unequal(self, gap: Differences) -> TransferError:
        listed = [*gap.repairs, *gap.lasting]
        return TransferError(
            f"{len(listed)} differences between source and target remain: {'; '.join(listed[:5])}",
            "Correct them on the target as on the source, then run again.",
            differences=listed,
        )
