# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a gate judges, from what was registered on the hosts: pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError


def gate_measurements(measured: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Results and criteria of a gate.

    measured: host -> ``{probes: [result of probe, ...], processes: [process of pm2_app, ...]}``
    Returns ``{results: {name: result}, criteria: [criterion, ...]}``: every probe must hold; every host must have processes, all online, none restarted.
    """
    results: dict[str, Any] = {}
    criteria: list[dict[str, Any]] = []
    for host, found in measured.items():
        if not isinstance(found, Mapping):
            raise AnsibleFilterError(f"gate_measurements: {host} has no probes and processes")
        for probe in found.get("probes") or []:
            name = f"{host}: {probe['name']}"
            results[name] = dict(probe)
            criteria.append({"name": name, "result": name})
        name = f"{host}: processes"
        results[name] = _summary(found.get("processes") or [])
        criteria.append({"name": f"{name} exist", "result": name, "field": "count", "op": "gt", "value": 0})
        criteria.append({"name": f"{name} are online", "result": name, "field": "offline", "value": 0})
        criteria.append({"name": f"{name} did not restart", "result": name, "field": "restarts", "value": 0})
    return {"results": results, "criteria": criteria}


def _summary(processes: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    rows = list(processes)
    return {
        "count": len(rows),
        "offline": sum(1 for p in rows if p.get("status") != "online"),
        "restarts": sum(int(p.get("restarts") or 0) for p in rows),
    }


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Any]:
        """Name to function."""
        return {"gate_measurements": gate_measurements}
