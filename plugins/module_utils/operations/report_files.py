# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The report's files beside the journal: ``report.json`` for programs, ``report.html`` for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import journal, report, report_html


def write(folder: Path, events: Sequence[journal.Event]) -> tuple[dict[str, Any], bool]:
    """(report of the last run as data, whether a file changed). Raises OperationsError when the page cannot be made."""
    data = report.summarise(journal.current_run(list(events)))
    changed = _replace(folder / "report.json", json.dumps(data, indent=2, ensure_ascii=False) + "\n")
    return data, _replace(folder / "report.html", report_html.render(data)) or changed


def _replace(path: Path, text: str) -> bool:
    """Replace the file in one move; True when the text differs."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
    return True
