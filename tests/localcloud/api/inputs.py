"""Request bodies: strict models, and their errors in the API's words."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, ValidationError

from .errors import ApiError
from .labels import label_problem

HOSTNAME = re.compile(r"[a-zA-Z0-9](?:[-a-zA-Z0-9]{0,61}[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[-a-zA-Z0-9]{0,61}[a-zA-Z0-9])?)*")
VOLUME_NAME = re.compile(r"[a-zA-Z0-9](?:[-_.a-zA-Z0-9]{0,62}[a-zA-Z0-9])?")


class Body(BaseModel):
    """Base of all bodies: unknown fields and wrong types are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


def _labels(value: dict[str, str]) -> dict[str, str]:
    problem = label_problem(value)
    if problem:
        raise ValueError(problem)
    return value


def _hostname(value: str) -> str:
    if not HOSTNAME.fullmatch(value) or len(value) > 253:
        raise ValueError("must be a valid hostname as per RFC 1123")
    return value


def _volume_name(value: str) -> str:
    if not VOLUME_NAME.fullmatch(value):
        raise ValueError("must be 1 to 64 alphanumerics, dashes, underscores and dots, beginning and ending with an alphanumeric")
    return value


def _network(value: str) -> str:
    try:
        return str(ipaddress.IPv4Network(value))
    except ValueError as error:
        raise ValueError("must be an IPv4 range in CIDR notation without host bits") from error


def _address(value: str) -> str:
    try:
        return str(ipaddress.IPv4Address(value))
    except ValueError as error:
        raise ValueError("must be an IPv4 address") from error


Labels = Annotated[dict[str, str], AfterValidator(_labels)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=128)]
Hostname = Annotated[str, AfterValidator(_hostname)]
VolumeName = Annotated[str, AfterValidator(_volume_name)]
Cidr = Annotated[str, AfterValidator(_network)]
Address = Annotated[str, AfterValidator(_address)]
Ref = int | str
Model = TypeVar("Model", bound=Body)


class Empty(Body):
    """A body without fields."""


class DeleteProtection(Body):
    delete: bool | None = None


class DnsPtr(Body):
    ip: str
    dns_ptr: Hostname | None = None


def _message(error: Any) -> str:
    kind = error["type"]
    if kind == "missing":
        return "is required"
    if kind == "value_error":
        return str(error["ctx"]["error"])
    return str(error["msg"]).removeprefix("Input ").removeprefix("Value error, ")


def parse(model: type[Model], data: Any) -> Model:
    """The body as its model. Raises ApiError 422 with the fields and messages in ``details``."""
    try:
        return model.model_validate({} if data is None else data)
    except ValidationError as error:
        problems: dict[str, list[str]] = {}
        for item in error.errors():
            # A union reports one error per branch: the branch's name at the end says nothing to a client.
            parts = [str(part) for part in item["loc"] if not (isinstance(part, str) and part in ("int", "str"))]
            if item["type"] == "extra_forbidden":
                raise ApiError(
                    422,
                    "invalid_input",
                    f"invalid input: unknown field name '{parts[-1]}'",
                    {"fields": [{"name": ".".join(parts), "messages": ["unknown field name"]}]},
                ) from error
            problems.setdefault(".".join(parts) or "body", []).append(_message(item))
        name, messages = next(iter(problems.items()))
        raise ApiError(
            422,
            "invalid_input",
            f"invalid input in field '{name}': {', '.join(messages)}",
            {"fields": [{"name": field, "messages": texts} for field, texts in problems.items()]},
        ) from error
