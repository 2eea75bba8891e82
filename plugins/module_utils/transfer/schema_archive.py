# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A dump of the source's schema in pg_dump's own format, of which chosen entries are restored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import programs, toc
from .catalog import quote_ident
from .endpoint import Endpoint

_TIMEOUT_SETTING = "SET transaction_timeout = 0;"


@dataclass(frozen=True)
class Archive:
    """place: directory of the programs; path: file of the dump; target_version: the server's number (150018 is 15.18)."""

    place: Path
    path: Path
    target_version: int

    def dump(self, source: Endpoint, left_out: Sequence[str]) -> None:
        """Write the schema of the source, all but these schemas. Takes ACCESS SHARE on its tables, waiting at most half a minute."""
        without = [argument for schema in left_out for argument in ("--exclude-schema", quote_ident(schema))]
        programs.run(
            self.place / "pg_dump",
            [
                "--format=custom",
                "--schema-only",
                "--no-subscriptions",
                "--no-security-labels",
                "--lock-wait-timeout=30s",
                "--file",
                str(self.path),
                *without,
            ],
            source,
            {"statement_timeout": "0", "row_security": "off"},
            timeout=900,
        )

    def entries(self) -> tuple[toc.Entry, ...]:
        """All entries with what each needs."""
        return self._list("--verbose")

    def post_data(self) -> frozenset[int]:
        """Numbers of the entries that belong after the rows."""
        # A verbose listing shows what each entry needs, but everything; a plain one shows a section.
        return frozenset(entry.number for entry in self._list("--section=post-data") if entry.description not in toc.ALWAYS)

    def restore(self, target: Endpoint, numbers: Sequence[int], *, jobs: int | None, settings: dict[str, str]) -> None:
        """Restore entries in this order. jobs: parallel sessions; None for one transaction, which leaves nothing behind when it fails."""
        if not numbers:
            return
        chosen = self.path.with_suffix(".list")
        chosen.write_text("".join(f"{number};\n" for number in numbers))
        options = ["--exit-on-error", "--no-tablespaces", f"--use-list={chosen}"]
        if programs.major(self.place) >= 17 > self.target_version // 10000:
            self._through_psql(target, options, jobs is None, settings)
            return
        mode = ["--single-transaction"] if jobs is None else [f"--jobs={max(1, jobs)}"]
        dbname = target.parameters().get("dbname") or target.parameters().get("user") or ""
        programs.run(self.place / "pg_restore", [*mode, *options, f"--dbname={dbname}", str(self.path)], target, settings)

    def _through_psql(self, target: Endpoint, options: Sequence[str], single: bool, settings: dict[str, str]) -> None:
        # pg_restore from 17 on begins with a setting that servers before 17 refuse. It stands in the fixed lines before the first entry.
        script = self.path.with_suffix(".sql")
        programs.run(self.place / "pg_restore", [*options, f"--file={script}", str(self.path)])
        text = script.read_bytes()
        head, mark, rest = text.partition(b"\n--\n-- Name: ")
        script.write_bytes(head.replace(_TIMEOUT_SETTING.encode(), b"", 1) + mark + rest)
        once = ["--single-transaction"] if single else []
        programs.run(
            self.place / "psql",
            ["--no-psqlrc", "--quiet", "--output=/dev/null", "--set=ON_ERROR_STOP=1", *once, f"--file={script}"],
            target,
            settings,
        )

    def _list(self, how: str) -> tuple[toc.Entry, ...]:
        return toc.parse(programs.run(self.place / "pg_restore", ["--list", how, str(self.path)]))
