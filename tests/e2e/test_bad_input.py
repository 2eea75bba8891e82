"""What cannot work ends before anything is changed, with a message that names the key or object and the remedy."""

from __future__ import annotations

import re
import shutil

import pytest

from e2e.conftest import ask_old, servers
from e2e.demo import ROOT, Demo

#: Name, (text of migration.yml, its replacement), what the message must say.
CASES = {
    "unknown_key": (("    workers: 2\n", "    wrokers: 2\n"), [r"migration\.database\.wrokers", r"Supported parameters include"]),
    "unreachable_source": (
        ('host: "{{ demo_state.old_address }}"\n      dbname', "host: 10.93.12.250\n      dbname"),
        [r"10\.93\.12\.250"],
    ),
    "wrong_password": (('password: "{{ demo_source_password }}"', 'password: "{{ demo_source_password }}x"'), [r"password", r"postgres"]),
    "missing_private_network": (
        ("- {name: private, ip_range", "- {name: other, ip_range"),
        [r"private network private", r"migration\.stack\.topology"],
    ),
    "server_outside_the_network": (
        ("networks: [{name: private, ip: 10.93.200.21}]", "networks: []"),
        [r"db1", r"Add it to the server's networks"],
    ),
    "budget": (("monthly_max: 40", "monthly_max: 10"), [r"budget", r"17\.98"]),
    "retired_type": (("type: cx33", "type: cx32"), [r"cx32", r"cx33"]),
}


@pytest.mark.parametrize("case", CASES)
def test_refused(demo: Demo, case: str) -> None:
    (old, new), wanted = CASES[case]
    inventory = ROOT / ".cache" / f"inventory-{case}"
    shutil.rmtree(inventory, ignore_errors=True)
    shutil.copytree(ROOT / "inventories/demo", inventory)
    declaration = inventory / "group_vars/all/migration.yml"
    text = declaration.read_text()
    assert old in text
    declaration.write_text(text.replace(old, new))
    before = ask_old(demo, "select count(*) from pg_trigger")
    said = demo.playbook(f"bad-{case}", "playbooks/migrate.yml", check=False, inventory=str(inventory))
    shutil.rmtree(inventory)
    assert "failed=1" in said
    message = re.sub(r"\s+", " ", said)
    for pattern in wanted:
        assert re.search(pattern, message), f"{pattern} is not in what was said: {message[-1500:]}"
    assert servers(demo) == ["old"]
    assert ask_old(demo, "select count(*) from pg_namespace where nspname = 'cutover'") == "0"
    assert ask_old(demo, "select count(*) from pg_trigger") == before
