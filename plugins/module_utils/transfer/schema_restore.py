# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Chosen entries of an archive, made on the target in the order that they need: schemas, extensions, tables; then keys, indexes, foreign keys, the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import foreign_keys, schema_late, toc
from . import schema_catalog as facts_of
from .catalog import quote_ident
from .endpoint import Endpoint
from .schema_archive import Archive

if TYPE_CHECKING:
    import psycopg

_STAGES = (("CONSTRAINT",), ("INDEX", "INDEX ATTACH", "MATERIALIZED VIEW", "STATISTICS"))


class Restorer:
    """One archive and the target that it goes to.

    facts: of the source, by catalogue identity; always: numbers of entries that go with every restore (encoding and the like)
    jobs: parallel sessions; memory: maintenance_work_mem of each
    """

    def __init__(
        self,
        src: psycopg.Connection[Any],
        dst: psycopg.Connection[Any],
        archive: Archive,
        facts: Mapping[toc.Key, toc.Fact],
        target: Endpoint,
        always: Sequence[int],
        jobs: int,
        memory: str,
    ) -> None:
        self.src, self.dst, self.archive, self.facts = src, dst, archive, facts
        self.target, self.always, self.jobs, self.memory = target, list(always), jobs, memory

    def before_rows(self, entries: Sequence[toc.Entry], extensions: Sequence[tuple[str, str]]) -> None:
        """Schemas, then extensions (name, schema), then what may need them."""
        self._restore([entry for entry in entries if entry.description == "SCHEMA"], single=True)
        for name, schema in extensions:
            self.dst.execute(f"CREATE EXTENSION IF NOT EXISTS {quote_ident(name)} WITH SCHEMA {quote_ident(schema)}")
        self._restore([entry for entry in entries if entry.description != "SCHEMA"], single=True)

    def after_rows(self, entries: Sequence[toc.Entry]) -> None:
        """Keys, then indexes, then foreign keys (not proved yet where they are ours to make), then triggers, policies and what else there is."""
        schema_late.adopt_keys(self.src, self.dst, [entry.key[1] for entry in entries if entry.description == "CONSTRAINT"])
        there = {(fact.kind, fact.identity) for fact in facts_of.facts(self.dst).values()}
        late = [entry for entry in entries if entry.description != "CONSTRAINT" or not self._is_there(entry, there)]
        keys = foreign_keys.read(self.src) if any(entry.description == "FK CONSTRAINT" for entry in late) else ()
        by_hand = {key.oid: key for key in keys if not key.inherited}
        for stage in _STAGES:
            self._restore([entry for entry in late if entry.description in stage], single=False)
        ours = [entry for entry in late if entry.description == "FK CONSTRAINT" and entry.key[1] in by_hand]
        schema_late.add_foreign_keys(self.dst, [by_hand[entry.key[1]] for entry in ours])
        schema_late.validate(self.target, foreign_keys.proofs_of_partitions(keys, foreign_keys.read(self.dst)), self.jobs)
        done = [name for stage in _STAGES for name in stage]
        self._restore([entry for entry in late if entry.description not in done and entry not in ours], single=False)

    def prove(self, statements: Iterable[str]) -> None:
        """Run ALTER TABLE ... VALIDATE CONSTRAINT, tables side by side."""
        groups: dict[str, list[str]] = {}
        for statement in statements:
            groups.setdefault(statement.partition(" VALIDATE ")[0], []).append(statement)
        schema_late.validate(self.target, groups, self.jobs)

    def _is_there(self, entry: toc.Entry, there: set[tuple[str, str]]) -> bool:
        fact = self.facts.get(entry.key)
        return fact is not None and (fact.kind, fact.identity) in there

    def _restore(self, entries: Sequence[toc.Entry], single: bool) -> None:
        if entries:
            settings = {"statement_timeout": "0", "lock_timeout": "30s", "maintenance_work_mem": self.memory}
            numbers = self.always + [entry.number for entry in entries]
            self.archive.restore(self.target, numbers, jobs=None if single else self.jobs, settings=settings)
