"""ansible-doc shows every plugin, every module and every entry point of every role, and has nothing to complain about."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
KINDS = {"module": "modules", "filter": "filter", "callback": "callback", "inventory": "inventory", "lookup": "lookup"}


def documented(kind: str, names: list[str]) -> tuple[dict[str, Any], str, str]:
    """(documentation by name, plain text, complaints) of ansible-doc for plugins of one kind."""
    command = ["ansible-doc", "--type", kind, *names]
    text = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    data = subprocess.run([*command, "--json"], cwd=ROOT, capture_output=True, text=True, check=False)
    complaints = text.stderr.strip() + (f" ended with {text.returncode}" if text.returncode else "")
    return (json.loads(data.stdout) if data.returncode == 0 else {}), text.stdout, complaints


def plugins(kind: str, folder: str) -> tuple[int, list[str]]:
    """How many there are of a kind, and what is wrong with their documentation."""
    names = [f"cutover.hetzner.{file.stem}" for file in sorted((ROOT / "plugins" / folder).glob("*.py")) if file.stem != "__init__"]
    if not names:
        return 0, []
    data, text, complaints = documented(kind, names)
    bad = [complaints] if complaints else []
    for name in names:
        shown = data.get(name) or {}
        if not (shown.get("doc") or {}).get("short_description") or f"({name})" not in text and name not in text:
            bad.append(f"{kind} {name} is not shown")
        elif kind in ("module", "filter") and not (shown.get("examples") and shown.get("return")):
            bad.append(f"{kind} {name} has no examples or no return values")
    return len(names), bad


def roles() -> tuple[int, list[str]]:
    """The same for roles: each entry point with its options."""
    names = sorted(path.parents[1].name for path in ROOT.glob("roles/*/meta/argument_specs.yml"))
    data, text, complaints = documented("role", [f"cutover.hetzner.{name}" for name in names])
    bad = [complaints] if complaints else []
    for name in names:
        wanted = yaml.safe_load((ROOT / f"roles/{name}/meta/argument_specs.yml").read_text())["argument_specs"]
        shown = data.get(f"cutover.hetzner.{name}", {}).get("entry_points", {})
        bad += [f"role {name}: entry point {entry} is not shown" for entry in wanted if entry not in shown or f"{entry}" not in text]
    return len(names), bad


def main() -> int:
    """1 when anything is not shown."""
    results = {kind: plugins(kind, folder) for kind, folder in KINDS.items()} | {"role": roles()}
    bad = [text for _number, texts in results.values() for text in texts]
    print("\n".join(bad), file=sys.stderr)
    print("ansible-doc: " + ", ".join(f"{number} {kind}" for kind, (number, _texts) in results.items() if number))
    return 1 if bad or not results["module"][0] or not results["role"][0] else 0


if __name__ == "__main__":
    raise SystemExit(main())
