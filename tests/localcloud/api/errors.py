"""The error a call ends with, in the shape every client knows."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """HTTP status, machine-readable code, message and optional details of one refused call."""

    def __init__(self, status: int, code: str, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = details

    def body(self) -> dict[str, Any]:
        return {"error": {"code": self.code, "message": self.message, "details": self.details}}


def invalid(field: str, *messages: str) -> ApiError:
    """422 that names one field and what is wrong with it."""
    return ApiError(
        422,
        "invalid_input",
        f"invalid input in field '{field}': {', '.join(messages)}",
        {"fields": [{"name": field, "messages": list(messages)}]},
    )


def refused(message: str) -> ApiError:
    """422 invalid_input about the input as a whole."""
    return ApiError(422, "invalid_input", message, {"fields": []})


def unprocessable(code: str, message: str) -> ApiError:
    """422 with one of the operation's own codes."""
    return ApiError(422, code, message)


def not_found(kind: str, ident: object) -> ApiError:
    return ApiError(404, "not_found", f"{kind} with ID '{ident}' not found")


def not_unique(message: str, field: str = "name") -> ApiError:
    return ApiError(409, "uniqueness_error", message, {"fields": [{"name": field}]})


def locked(kind: str) -> ApiError:
    return ApiError(423, "locked", f"{kind} is locked")


def protected(what: str) -> ApiError:
    return ApiError(423, "protected", f"{what} is protected")


def limit_exceeded(message: str, limit: str) -> ApiError:
    return ApiError(403, "resource_limit_exceeded", message, {"limits": [{"name": limit}]})
