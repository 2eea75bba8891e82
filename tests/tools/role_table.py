"""``role_table.py ROLE``: writes the table of variables in a role's README from its argument_specs."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]


def plain(text: str) -> str:
    """Ansible's markup as Markdown. Pure."""
    text = re.sub(r"[VOC]\(([^)]*)\)", lambda found: f"`{found[1]}`" if found[1] else "(empty)", text)
    return " ".join(text.split())


def shown(value: Any) -> str:
    return f"`{json.dumps(value)}`" if isinstance(value, bool) else f"`{value!r}`"


def rows(options: dict[str, Any], prefix: str = "") -> list[str]:
    """Lines of the table. Pure."""
    found = []
    for name, option in options.items():
        words = option["description"] if isinstance(option["description"], list) else [option["description"]]
        if "choices" in option:
            words = [*words, "One of " + ", ".join(f"`{choice}`" if choice else "(empty)" for choice in option["choices"]) + "."]
        kind = option["type"] + (f" of {option['elements']}" if "elements" in option else "")
        default = "**required**" if option.get("required") else shown(option["default"]) if "default" in option else ""
        found.append(f"| `{prefix}{name}` | {kind} | {default} | {plain(' '.join(words))} |")
        found += rows(option.get("options", {}), f"{prefix}{name}[].")
    return found


def main() -> None:
    role = ROOT / "roles" / sys.argv[1]
    options = yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
    table = "\n".join(["| name | type | default | what |", "|---|---|---|---|", *rows(options)])
    readme = role / "README.md"
    readme.write_text(re.sub(r"(?ms)^\| name \| type .*?\n(?=\n)", lambda _found: table + "\n", readme.read_text(), count=1))


if __name__ == "__main__":
    main()
