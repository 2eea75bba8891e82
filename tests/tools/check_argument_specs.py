"""Every role's argument_specs and defaults say the same, and every entry point that anything calls is described."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CALLERS = ("playbooks", "roles", "molecule", "tests/e2e")
CALL = re.compile(r"name: cutover\.hetzner\.(\w+)\s*\n\s*tasks_from: (\w+)|tasks_from: (\w+)\s*\n\s*name: cutover\.hetzner\.(\w+)")


def called(root: Path) -> dict[str, set[str]]:
    """Entry points of our roles that playbooks, roles, scenarios and tests call, by role."""
    found: dict[str, set[str]] = {}
    for folder in CALLERS:
        for file in (root / folder).rglob("*.yml"):
            for first, entry, other_entry, other in CALL.findall(file.read_text(encoding="utf-8")):
                found.setdefault(first or other, set()).add(entry or other_entry)
    return found


def problems(role: Path, entries: set[str]) -> list[str]:
    """What differs between meta/argument_specs.yml (entry point main) and defaults/main.yml of one role; entries: those that are called."""
    specs_file, defaults_file = role / "meta/argument_specs.yml", role / "defaults/main.yml"
    if not specs_file.exists():
        return ["no meta/argument_specs.yml"]
    entry_points: dict[str, Any] = yaml.safe_load(specs_file.read_text())["argument_specs"]
    defaults: dict[str, Any] = (yaml.safe_load(defaults_file.read_text()) or {}) if defaults_file.exists() else {}
    options: dict[str, Any] = entry_points["main"].get("options") or {}
    found = [f"{name}: in defaults, not in argument_specs" for name in defaults.keys() - options.keys()]
    for name, option in options.items():
        if not option.get("description"):
            found.append(f"{name}: no description")
        if name in defaults:
            if option.get("required"):
                found.append(f"{name}: required, yet has a default")
            if option.get("default") != defaults[name]:
                found.append(f"{name}: argument_specs says {option.get('default')!r}, defaults say {defaults[name]!r}")
        elif "default" in option:
            found.append(f"{name}: argument_specs has a default, defaults/main.yml has none")
    found += [f"entry point {entry} is called, not described" for entry in sorted(entries - set(entry_points))]
    found += [
        f"entry point {entry} is described, but tasks/{entry}.yml is missing"
        for entry in entry_points
        if not (role / f"tasks/{entry}.yml").exists()
    ]
    if not (role / "README.md").exists():
        found.append("no README.md")
    return found


def main() -> int:
    """Check all roles; 1 when anything differs."""
    roles = sorted(role for role in (ROOT / "roles").iterdir() if (role / "tasks").is_dir())
    calls = called(ROOT)
    bad = [(role.name, problem) for role in roles for problem in problems(role, calls.pop(role.name, set()))]
    bad += [(name, "is called, but there is no such role") for name in calls]
    for role_name, problem in bad:
        print(f"roles/{role_name}: {problem}", file=sys.stderr)
    print(f"argument_specs: {len(roles)} roles, {len(bad)} problems")
    return 1 if bad or not roles else 0


if __name__ == "__main__":
    raise SystemExit(main())
