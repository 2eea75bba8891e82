"""Holds every exchange against the official OpenAPI document, when a copy is at hand (``CUTOVER_HCLOUD_SPEC``)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs


@dataclass(frozen=True)
class Waiver:
    """A place where official clients and the document disagree: violations at ``where`` of this request are recorded as waived."""

    name: str
    method: str
    template: str
    where: re.Pattern[str]


# The document types the first ones as strings, its prose and all official clients say "ID or name" and send integers.
WAIVERS = (
    Waiver("server-references-by-id", "POST", "/servers", re.compile(r"/(image|server_type|location|ssh_keys/\d+)")),
    Waiver("rebuild-image-by-id", "POST", "/servers/{id}/actions/rebuild", re.compile(r"/image")),
    Waiver("change-type-by-id", "POST", "/servers/{id}/actions/change_type", re.compile(r"/server_type")),
    Waiver("volume-location-by-id", "POST", "/volumes", re.compile(r"/location")),
    # A service may be given in part, says the prose: the service fills in the rest. Terraform's provider does so.
    Waiver("service-in-part", "POST", "/load_balancers/{id}/actions/add_service", re.compile(r"/(health_check(/http)?|http)?")),
    Waiver("service-change-in-part", "POST", "/load_balancers/{id}/actions/update_service", re.compile(r"/health_check(/http)?")),
)


class Contract:
    """The document with one compiled validator per operation and direction."""

    def __init__(self, path: Path) -> None:
        self._document = json.loads(path.read_text())
        self._validator = cache(self._compile)

    def _operation(self, method: str, template: str) -> Any:
        return self._document["paths"].get(template, {}).get(method.lower())

    def _compile(self, method: str, template: str, status: int | None) -> Any:
        """A validator, or None when no body is described. Raises LookupError for what the document does not know."""
        operation = self._operation(method, template)
        if operation is None:
            raise LookupError(f"{method} {template} is not in the document")
        if status is None:
            part = operation.get("requestBody", {})
        else:
            # The document writes its ranges in lower case.
            keys = (str(status), f"{status // 100}xx", f"{status // 100}XX", "default")
            part = next((operation["responses"][key] for key in keys if key in operation["responses"]), None)
            if part is None:
                raise LookupError(f"{method} {template} does not answer {status}")
        schema = part.get("content", {}).get("application/json", {}).get("schema")
        if schema is None:
            return None
        return jsonschema_rs.Draft202012Validator({**schema, "components": self._document["components"]})

    def _errors(self, method: str, template: str, status: int | None, body: Any) -> list[tuple[str, str]]:
        try:
            validator = self._validator(method, template, status)
        except LookupError as error:
            return [("", str(error))]
        if validator is None:
            return [] if body is None else [("", "a body where the document has none")]
        found = validator.iter_errors(body)
        return [("/" + "/".join(str(part) for part in error.instance_path), error.message) for error in found]

    def _query(self, method: str, template: str, pairs: tuple[tuple[str, str], ...]) -> list[str]:
        found = []
        described = [item for item in (self._operation(method, template) or {}).get("parameters", []) if item["in"] == "query"]
        for parameter in described:
            values = [value for name, value in pairs if name == parameter["name"]]
            schema = parameter["schema"].get("items", parameter["schema"])
            if parameter.get("required") and not values:
                found.append(f"query {parameter['name']}: is required")
            for value in values:
                if "enum" in schema and value not in schema["enum"]:
                    found.append(f"query {parameter['name']}: '{value}' is not one of {schema['enum']}")
                if schema.get("type") == "integer" and not value.lstrip("-").isdigit():
                    found.append(f"query {parameter['name']}: '{value}' is not an integer")
        unknown = {name for name, _unused in pairs} - {item["name"] for item in described}
        # Every paged list takes these, though not every operation lists them.
        return found + [f"query {name}: unknown parameter" for name in sorted(unknown - {"page", "per_page", "sort"})]

    def judge(
        self, method: str, template: str, query: tuple[tuple[str, str], ...], request: Any, status: int, response: Any
    ) -> tuple[list[str], list[str]]:
        """(violations, waived) of one exchange. A request that was refused as invalid is not blamed again."""
        if status == 410 and self._operation(method, template) is None:
            return [], ["removed-endpoint: the document no longer has it, the service still answers 410"]
        violations, waived = [], []
        if status < 400:
            violations += self._query(method, template, query)
            for where, message in self._errors(method, template, None, request):
                waiver = next(
                    (item for item in WAIVERS if (item.method, item.template) == (method, template) and item.where.fullmatch(where)), None
                )
                if waiver:
                    waived.append(f"{waiver.name}: {where}: {message}")
                else:
                    violations.append(f"request{where}: {message}")
        violations += [f"response {status}{where}: {message}" for where, message in self._errors(method, template, status, response)]
        return violations, waived


@cache
def load(path: Path) -> Contract:
    """The contract of a document, read and compiled once per process."""
    return Contract(path)
