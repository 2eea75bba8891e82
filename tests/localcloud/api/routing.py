"""Calls, replies and the table of operations."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from . import errors
from .inputs import Body, parse
from .lists import Query, positive
from .store import Document, Tx

if TYPE_CHECKING:
    from .cloud import Cloud

M = TypeVar("M", bound=Body)


@dataclass(frozen=True)
class Reply:
    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """One request inside one transaction (a snapshot for GET, the writer's for everything else)."""

    cloud: Cloud
    tx: Tx
    path: str
    params: dict[str, str]
    query: Query
    data: Any

    @property
    def id(self) -> int:
        return self.number("id")

    def number(self, name: str) -> int:
        return positive(self.params[name], name)

    def body(self, model: type[M]) -> M:
        return parse(model, self.data)

    def get(self, kind: str, ident: int | None = None) -> Document:
        """A document of this kind (default: the one in the path). Raises ApiError 404."""
        ident = self.id if ident is None else ident
        document = self.tx.get(kind, ident)
        if document is None:
            raise errors.not_found(kind, ident)
        return document

    def unique(self, kind: str, name: str, own: int | None = None) -> None:
        other = self.tx.named(kind, name)
        if other is not None and other["id"] != own:
            raise errors.not_unique(f"{kind.replace('_', ' ')} name is already used")


Handler = Callable[[Call], Reply]


@dataclass(frozen=True)
class Operation:
    method: str
    template: str
    handler: Handler
    pattern: re.Pattern[str]


OPERATIONS: list[Operation] = []


def op(method: str, template: str) -> Callable[[Handler], Handler]:
    """Register a handler for a method and a path template like ``/servers/{id}``."""

    def register(handler: Handler) -> Handler:
        pattern = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", template))
        OPERATIONS.append(Operation(method, template, handler, pattern))
        return handler

    return register


def find(path: str) -> list[tuple[Operation, dict[str, str]]]:
    """All operations whose template fits; fixed words win over parameters (``/servers/actions`` over ``/servers/{id}``)."""
    found = [(operation, match.groupdict()) for operation in OPERATIONS if (match := operation.pattern.fullmatch(path))]
    best = min((len(params) for _unused, params in found), default=0)
    return [(operation, params) for operation, params in found if len(params) == best]
