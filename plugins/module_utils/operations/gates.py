# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Judging measured results against named criteria: pure."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import OperationsError

OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "in": lambda measured, wanted: measured in wanted,
}
_MISSING = object()


@dataclass(frozen=True)
class Criterion:
    """What must hold: the value at ``field`` (dotted path) of ``result`` compared by ``op`` with ``value``."""

    name: str
    result: str
    field: str = "ok"
    op: str = "eq"
    value: Any = True


@dataclass(frozen=True)
class Judgement:
    """One criterion with what was measured (None when nothing was) and whether it holds."""

    name: str
    holds: bool
    measured: Any
    wanted: str
    reason: str


def criterion(raw: Mapping[str, Any]) -> Criterion:
    """A criterion from plain data; unknown keys, unknown operators and missing names are refused."""
    known = {"name", "result", "field", "op", "value"}
    unknown = sorted(set(raw) - known)
    if unknown:
        raise OperationsError(
            f"criterion {raw.get('name', '?')!r} has unknown keys: {', '.join(unknown)}", f"Known keys are {', '.join(sorted(known))}."
        )
    for key in ("name", "result"):
        if not raw.get(key):
            raise OperationsError(f"a criterion has no {key}: {dict(raw)}", f"Give every criterion a {key}.")
    op = str(raw.get("op", "eq"))
    if op not in OPERATORS:
        raise OperationsError(f"criterion {raw['name']!r}: unknown operator {op!r}", f"Use one of {', '.join(OPERATORS)}.")
    return Criterion(str(raw["name"]), str(raw["result"]), str(raw.get("field", "ok")), op, raw.get("value", True))


def dig(data: Any, path: str) -> Any:
    """The value at a dotted path of dicts and lists, or a marker when there is none."""
    for part in path.split("."):
        if isinstance(data, Mapping) and part in data:
            data = data[part]
        elif isinstance(data, Sequence) and not isinstance(data, str) and part.isdigit() and int(part) < len(data):
            data = data[int(part)]
        else:
            return _MISSING
    return data


def judge(criteria: Sequence[Criterion], results: Mapping[str, Any]) -> list[Judgement]:
    """Every criterion with its verdict. What was not measured does not hold."""
    verdicts = []
    for item in criteria:
        wanted = f"{item.field} {item.op} {item.value}"
        measured = dig(results.get(item.result, _MISSING), item.field) if item.result in results else _MISSING
        if measured is _MISSING:
            verdicts.append(Judgement(item.name, False, None, wanted, f"not measured: {item.result}.{item.field}"))
            continue
        try:
            holds = bool(OPERATORS[item.op](measured, item.value))
            reason = "" if holds else f"{item.result}.{item.field} is {measured!r}, wanted {item.op} {item.value!r}"
        except TypeError:
            holds, reason = False, f"{item.result}.{item.field} is {measured!r}, which cannot be compared with {item.value!r}"
        verdicts.append(Judgement(item.name, holds, measured, wanted, reason))
    return verdicts


def decide(judgements: Sequence[Judgement], decision: str) -> str:
    """``go`` or ``no_go``. A person may stop a move that is green; one who lets a red one go must say ``go`` explicitly."""
    if decision in ("go", "no_go"):
        return decision
    return "go" if judgements and all(j.holds for j in judgements) else "no_go"
