"""Faults on demand: rules that make chosen calls or actions fail."""

from __future__ import annotations

import re
import threading
from typing import Annotated, Literal

from pydantic import Field

from .inputs import Body, parse
from .store import Document


class Rule(Body):
    """When method and path (regular expression, whole path below /v1) fit, the ``nth`` to ``nth + times - 1`` call is hit.

    effect ``error``: answered with status, code, message before anything is done; ``error_after_commit``: the same after it was done;
    ``drop``: the connection breaks before anything is done; ``drop_after_commit``: after it was done;
    ``action_error``: actions of ``command`` end with code and message.
    """

    effect: Literal["error", "error_after_commit", "drop", "drop_after_commit", "action_error"] = "error"
    method: str = ".*"
    path: str = ".*"
    command: str = ".*"
    nth: Annotated[int, Field(ge=1)] = 1
    times: Annotated[int, Field(ge=1)] = 1
    status: Annotated[int, Field(ge=400, le=599)] = 503
    code: str = "unavailable"
    message: str = "injected fault"
    headers: dict[str, str] = {}


class Rules(Body):
    rules: list[Rule]


class Faults:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[tuple[Rule, list[int]]] = []

    def replace(self, data: object) -> list[Document]:
        """Set all rules (an empty list clears them). Raises ApiError 422."""
        rules = parse(Rules, data).rules
        with self._lock:
            self._rules = [(rule, [0]) for rule in rules]
        return self.state()

    def state(self) -> list[Document]:
        with self._lock:
            return [{**rule.model_dump(), "seen": seen[0]} for rule, seen in self._rules]

    def _hit(self, fits: list[tuple[Rule, list[int]]]) -> Rule | None:
        hit = None
        for rule, seen in fits:
            seen[0] += 1
            if hit is None and rule.nth <= seen[0] < rule.nth + rule.times:
                hit = rule
        return hit

    def call(self, method: str, path: str) -> Rule | None:
        with self._lock:
            fits = [
                (rule, seen)
                for rule, seen in self._rules
                if rule.effect != "action_error" and re.fullmatch(rule.method, method) and re.fullmatch(rule.path, path)
            ]
            return self._hit(fits)

    def action(self, command: str) -> Document | None:
        with self._lock:
            fits = [(rule, seen) for rule, seen in self._rules if rule.effect == "action_error" and re.fullmatch(rule.command, command)]
            rule = self._hit(fits)
        return None if rule is None else {"code": rule.code, "message": rule.message}
