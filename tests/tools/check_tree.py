"""What must not be in the tree: unfinished work, silenced checks, names of registries, paths of the machine it was written on."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import yaml

ROOT = Path(__file__).resolve().parents[2]
BIGGEST = 400_000
#: Folders in which a checkout may lie on any machine, so that their names say nothing about this one.
COMMON = ("/", "/home", "/mnt", "/opt", "/root", "/srv", "/tmp", "/usr/local", "/usr/src", "/var/lib", "/var/tmp")
HEADER = (
    "# Copyright: cutover.hetzner contributors",
    "# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)",
)


#: The official API document is data that lies beside the checkout and is never copied into it; where it is absent its tests say so and are left out.
#: (file, what is wrong) that is allowed, each for this one reason. One that is no longer found is a finding itself.
WAIVERS = frozenset(
    {
        ("tests/localcloud/api/testing.py", "reaches for something outside of the checkout"),
        ("tests/unit/localcloud/test_api_contract.py", "a skipped test"),
    }
)


@dataclass(frozen=True)
class Rule:
    """pattern: looked for in every line of the files whose name matches; says: what its presence means."""

    says: str
    pattern: re.Pattern[str]
    files: re.Pattern[str]


def rule(says: str, pattern: str, files: str = "") -> Rule:
    return Rule(says, re.compile(pattern), re.compile(files))


# Written so that no pattern finds itself: this file is judged like any other.
CODE = r"\.(py|sh|ya?ml|j2|js|cfg|toml|sql)$|^\.ci/|^Makefile$"
RULES = (
    rule("unfinished", r"\b(TO[D]O|FIXM[E]|XX[X]|HAC[K]|TB[D])\b"),
    rule("unfinished", r"NotImplemente[d]|\bnot (yet )?implemente[d]|\bcoming soo[n]\b", CODE),
    rule("an error that is passed over", r"\bignore_error[s]: ", r"\.ya?ml$"),
    rule("a skipped test", r"\bpytest\.(mark\.)?(skip|xfail|importorskip)|\bunittest\.[s]kip|\b[s]kipTest\(", r"\.py$"),
    rule("a silenced check", r"# (noq[a]|nose[c]|pragma: no cove[r])|# pylint: *disabl[e]|# type: ignor[e](?!\[)", r"\.py$"),
    rule("a silenced check", r"type: ignor[e]", r"^(plugins|roles)/.*\.py$"),
    rule("a silenced check", r"yamllint disabl[e]|\bskip_ansible_lin[t]|shellcheck disabl[e]|# ?noq[a]", r"\.(ya?ml|sh|j2)$|^\.ci/"),
    rule(
        "a registry's host: make it a variable, or leave it to the client's own setting",
        r"\b(npmjs\.(org|com)|pypi\.org|pythonhosted\.org|(deb|security)\.debian\.org|(archive|security)\.ubuntu\.com|galaxy\.ansible\.com"
        r"|proxy\.golang\.org|crates\.io|rubygems\.org|registry-1\.docker\.io|quay\.io|ghcr\.io)\b",
    ),
    rule("left from a merge", r"^(<{7}|>{7}) "),
)


def machine_paths(root: Path) -> re.Pattern[str]:
    """Finds the checkout's own path, and its parent folder's unless that is one where anything may lie."""
    paths = [root, *(parent for parent in [root.parent] if str(parent) not in COMMON)]
    return re.compile("(?<![\\w.-])(" + "|".join(re.escape(str(path)) for path in paths) + r")(?![\w-])")


def findings(name: str, text: str, root: Path = ROOT) -> Iterator[tuple[int, str]]:
    """(line, what is wrong) in one file. name: path below the checkout."""
    lines, here = text.splitlines(), machine_paths(root)
    rules = [item for item in RULES if item.files.search(name)]
    levels = len(PurePosixPath(name).parts)
    for number, line in enumerate(lines, 1):
        for item in rules:
            if item.pattern.search(line):
                yield number, item.says
        if here.search(line):
            yield number, "a path of this machine"
        if name.endswith(".py") and any(int(up) >= levels for up in re.findall(r"\bparents\[(\d+)\]", line)):
            yield number, "reaches for something outside of the checkout"
    if (
        name.startswith("plugins/")
        and name.endswith(".py")
        and text.strip()
        and tuple(line for line in lines[:3] if not line.startswith("#!"))[:2] != HEADER
    ):
        yield 1, f"does not begin with {HEADER[0]!r} and the licence"
    if name.endswith(".md"):
        yield from dead_links(name, lines, root)


def dead_links(name: str, lines: list[str], root: Path) -> Iterator[tuple[int, str]]:
    """Relative links of a document that lead nowhere."""
    for number, line in enumerate(lines, 1):
        for target in re.findall(r"\]\(([^)#\s]+)", re.sub(r"`[^`]*`", "", line)):
            if not re.match(r"[a-z]+:", target) and not (root / name).parent.joinpath(target).exists():
                yield number, f"the link to {target} leads nowhere"


def silenced_settings(root: Path = ROOT) -> list[str]:
    """Settings by which a checker would look away."""
    lint = yaml.safe_load((root / ".ansible-lint").read_text())
    found = [f".ansible-lint: {key} is not empty" for key in ("skip_list", "warn_list", "mock_modules", "mock_roles") if lint.get(key)]
    if lint.get("profile") != "production" or not lint.get("offline"):
        found.append(".ansible-lint: profile is not production, or it is not offline")
    found += [f"{path.relative_to(root)}: findings are ignored" for path in (root / "tests/sanity").glob("ignore*.txt")]
    return found + [
        f"{name}: findings are ignored" for name in (".ansible-lint-ignore", ".config/ansible-lint-ignore.txt") if (root / name).exists()
    ]


def main() -> int:
    """1 when anything was found."""
    listed = subprocess.run(["git", "ls-files", "-zco", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = sorted(name for name in listed.split("\0") if name and (ROOT / name).is_file() and not (ROOT / name).is_symlink())
    bad = silenced_settings()
    waived: set[tuple[str, str]] = set()
    for name in names:
        data = (ROOT / name).read_bytes()
        if len(data) > BIGGEST:
            bad.append(f"{name}: {len(data)} bytes are too many for a repository")
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            continue
        lines = text.splitlines()
        for number, what in findings(name, text):
            if (name, what) in WAIVERS:
                waived.add((name, what))
            else:
                bad.append(f"{name}:{number}: {what}: {lines[number - 1].strip()[:100]}")
    bad += [f"{name}: the waiver for {what!r} is no longer needed" for name, what in sorted(WAIVERS - waived)]
    print("\n".join(bad), file=sys.stderr)
    print(f"tree: {len(names)} files, {len(bad)} findings")
    return 1 if bad or not names else 0


if __name__ == "__main__":
    raise SystemExit(main())
