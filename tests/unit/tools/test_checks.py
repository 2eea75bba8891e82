"""The tree's own rules object to what they are there for, and to nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools import check_argument_specs, check_tree

HEADER = "\n".join(check_tree.HEADER) + "\n"
# Put together here, so that this file breaks no rule itself.
UNFINISHED, SILENT, IGNORED = "TO" + "DO: later", "# no" + "qa", "type: " + "ignore"


@pytest.mark.parametrize(
    ("name", "line", "says"),
    [
        ("docs/a.md", UNFINISHED, "unfinished"),
        ("roles/a/tasks/main.yml", "# FIX" + "ME", "unfinished"),
        ("plugins/filter/a.py", "raise Not" + "ImplementedError", "unfinished"),
        ("roles/a/tasks/main.yml", "ignore_" + "errors: true", "passed over"),
        ("tests/unit/a.py", "@pytest.mark." + "skip", "skipped test"),
        ("tests/unit/a.py", "pytest." + "importorskip('x')", "skipped test"),
        ("tests/unit/a.py", f"import os  {SILENT}: F401", "silenced"),
        ("tests/unit/a.py", f"x = 1  # {IGNORED}", "silenced"),
        ("plugins/filter/a.py", f"x = 1  # {IGNORED}[misc]", "silenced"),
        ("roles/a/tasks/main.yml", "# yamllint " + "disable-line", "silenced"),
        ("tests/a.sh", "# shellcheck " + "disable=SC1090", "silenced"),
        ("roles/a/defaults/main.yml", "url: https://registry.npmjs" + ".org", "registry"),
        ("requirements.txt", "--index-url https://pypi" + ".org/simple", "registry"),
        ("docs/a.md", "see /checkouts/main/docs", "path of this machine"),
        ("docs/a.md", "see /checkouts/other", "path of this machine"),
        ("tests/unit/a.py", "Path(__file__).parents[3]", "outside of the checkout"),
        ("docs/a.md", "[gone](nowhere.md)", "leads nowhere"),
        ("galaxy.yml", "<" * 7 + " mine", "merge"),
    ],
)
def test_a_violation_is_named(name: str, line: str, says: str) -> None:
    text = f"{HEADER if name.startswith('plugins') else ''}{line}\n"
    assert [what for _number, what in check_tree.findings(name, text, Path("/checkouts/main")) if says in what]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("tests/unit/a.py", f"x = 1  # {IGNORED}[misc]"),
        ("tests/unit/a.py", "shutil.rmtree(folder, ignore_errors=True)"),
        ("tests/unit/a.py", "Path(__file__).parents[2]"),
        ("docs/a.md", "see /checkouts-of-others and other/checkouts/main.md"),
        ("docs/a.md", "[the web](https://example.org) [here](#part) `[x](y)`"),
        ("LICENSE", "this is not " + "implemented by anybody"),
    ],
)
def test_what_is_allowed_passes(name: str, line: str) -> None:
    assert list(check_tree.findings(name, f"{line}\n", Path("/checkouts/main"))) == []


def test_a_plugin_begins_with_the_licence() -> None:
    assert list(check_tree.findings("plugins/modules/a.py", f"#!/usr/bin/python\n{HEADER}x = 1\n")) == []
    assert list(check_tree.findings("plugins/modules/a.py", "x = 1\n")) == [
        (1, f"does not begin with {check_tree.HEADER[0]!r} and the licence")
    ]


def test_a_common_folder_is_no_path_of_this_machine() -> None:
    assert not check_tree.machine_paths(Path("/opt/main")).search("/opt/application")
    assert check_tree.machine_paths(Path("/opt/main")).search("cd /opt/main && make")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (".ansible-lint", "profile: production\noffline: true\nskip_list: [no-handler]\n"),
        (".ansible-lint", "profile: basic\noffline: true\n"),
        (".ansible-lint-ignore", "playbooks/a.yml no-handler\n"),
        ("tests/sanity/ignore-2.19.txt", "plugins/modules/a.py validate-modules:x\n"),
    ],
)
def test_a_checker_that_looks_away_is_named(tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / "tests/sanity").mkdir(parents=True)
    (tmp_path / ".ansible-lint").write_text("profile: production\noffline: true\nskip_list: []\n")
    assert check_tree.silenced_settings(tmp_path) == []
    (tmp_path / file).write_text(text)
    assert check_tree.silenced_settings(tmp_path)


@pytest.fixture
def role(tmp_path: Path) -> Path:
    """A role whose specification and defaults agree."""
    made = tmp_path / "roles/a"
    for folder in ("meta", "defaults", "tasks"):
        (made / folder).mkdir(parents=True)
    (made / "README.md").write_text("# a\n")
    (made / "tasks/main.yml").write_text("---\n")
    (made / "defaults/main.yml").write_text("---\na_port: 1\n")
    (made / "meta/argument_specs.yml").write_text(
        "argument_specs: {main: {short_description: x, options: {a_port: {description: x, type: int, default: 1}}}}\n"
    )
    return made


def test_a_role_that_agrees_passes(role: Path) -> None:
    assert check_argument_specs.problems(role, {"main"}) == []


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("defaults/main.yml", "a_port: 2\n", "argument_specs says 1"),
        ("defaults/main.yml", "a_port: 1\na_more: 1\n", "not in argument_specs"),
        ("defaults/main.yml", "---\n", "defaults/main.yml has none"),
        ("meta/argument_specs.yml", "argument_specs: {main: {options: {a_port: {default: 1}}}}\n", "no description"),
        ("meta/argument_specs.yml", "argument_specs: {main: {}, more: {}}\n", "tasks/more.yml is missing"),
    ],
)
def test_a_difference_is_named(role: Path, file: str, text: str, says: str) -> None:
    (role / file).write_text(text)
    assert says in " ".join(check_argument_specs.problems(role, set()))


def test_a_called_entry_point_must_be_described(role: Path, tmp_path: Path) -> None:
    (tmp_path / "playbooks").mkdir()
    (tmp_path / "playbooks/a.yml").write_text("- include_role:\n    name: cutover.hetzner.a\n    tasks_from: undo\n")
    assert check_argument_specs.called(tmp_path) == {"a": {"undo"}}
    assert check_argument_specs.problems(role, {"undo"}) == ["entry point undo is called, not described"]
