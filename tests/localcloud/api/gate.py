"""The way of a request: route, rate limit, token, faults, JSON, handler; and its line in the journal."""

from __future__ import annotations

import hmac
import json
import logging
import secrets
import time
from collections import deque
from typing import Any
from urllib.parse import parse_qsl

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from .cloud import Cloud
from .contract import Contract
from .errors import ApiError
from .faults import Faults, Rule
from .limits import Bucket
from .lists import Query
from .routing import Call, Operation, Reply, find
from .store import Document

LOG = logging.getLogger("localcloud.api")
JOURNAL_LENGTH = 50_000
MOST_BODY = 1024 * 1024


class Gate:
    """ASGI application of everything below /v1."""

    def __init__(self, cloud: Cloud, token: str, faults: Faults, contract: Contract | None) -> None:
        self._cloud = cloud
        self._token = token.encode()
        self._faults = faults
        self._contract = contract
        self.bucket = Bucket()
        self._strangers = Bucket()
        self.journal: deque[Document] = deque(maxlen=JOURNAL_LENGTH)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = time.monotonic()
        request = Request(scope, receive)
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        query = tuple(parse_qsl(scope["query_string"].decode(), keep_blank_values=True))
        entry: Document = {"time": time.time(), "method": scope["method"], "path": path, "operation": None}
        bucket = self.bucket if self._known(request) else self._strangers
        body, rule = await self._read(request), None
        try:
            operation, params = self._route(scope["method"], path, request, bucket)
            entry["operation"] = operation.template
            rule = self._faults.call(scope["method"], path)
            if rule and rule.effect == "error":
                raise ApiError(rule.status, rule.code, rule.message)
            if rule and rule.effect == "drop":
                reply = Reply(503)
            else:
                data = self._decode(body)
                reply = await run_in_threadpool(self._handle, operation, params, path, query, data)
                self._judge(entry, operation, query, data, reply)
            if rule and rule.effect == "error_after_commit":
                raise ApiError(rule.status, rule.code, rule.message)
        except ApiError as error:
            reply = Reply(error.status, error.body(), dict(rule.headers) if rule else {})
        entry |= {"status": reply.status, "seconds": round(time.monotonic() - begun, 6), "fault": rule.effect if rule else None}
        self.journal.append({"violations": [], "waived": [], **entry})
        await _send(reply, bucket, send, rule)

    def _known(self, request: Request) -> bool:
        scheme, _unused, token = request.headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), self._token)

    def _route(self, method: str, path: str, request: Request, bucket: Bucket) -> tuple[Operation, dict[str, str]]:
        """The operation, when it exists and the caller may use it. The real API routes before it asks for the token."""
        found = find(path)
        if not found:
            raise ApiError(404, "not_found", "api route not found")
        if not bucket.take():
            raise ApiError(429, "rate_limit_exceeded", f"Limit of '{bucket.limit}' requests per hour for token '...' reached.")
        if not self._known(request):
            given = "authorization" in request.headers
            raise ApiError(401, "unauthorized", "the token you have provided is invalid" if given else "token is required")
        fitting = [item for item in found if item[0].method == method]
        if not fitting:
            raise ApiError(405, "method_not_allowed", f"method {method} is not allowed for {path}")
        return fitting[0]

    @staticmethod
    async def _read(request: Request) -> bytes:
        body = b""
        async for part in request.stream():
            body += part[: MOST_BODY + 1 - len(body)]
        return body

    @staticmethod
    def _decode(body: bytes) -> Any:
        if len(body) > MOST_BODY:
            raise ApiError(413, "invalid_input", f"the body is larger than {MOST_BODY} bytes")
        if not body.strip():
            return None
        try:
            data = json.loads(body)
        except ValueError as error:
            raise ApiError(400, "json_error", f"invalid JSON: {error}") from error
        if not isinstance(data, dict):
            raise ApiError(400, "json_error", "the body must be a JSON object")
        return data

    def _handle(self, operation: Operation, params: dict[str, str], path: str, query: tuple[tuple[str, str], ...], data: Any) -> Reply:
        store = self._cloud.store
        try:
            with store.read() if operation.method == "GET" else store.write() as tx:
                return operation.handler(Call(self._cloud, tx, f"/v1{path}", params, Query(query), data))
        except ApiError as error:
            return Reply(error.status, error.body())
        except Exception:
            LOG.exception("%s %s broke", operation.method, path)
            return Reply(500, ApiError(500, "server_error", "internal error of the local cloud").body())

    def _judge(self, entry: Document, operation: Operation, query: tuple[tuple[str, str], ...], data: Any, reply: Reply) -> None:
        if self._contract is not None:
            entry["violations"], entry["waived"] = self._contract.judge(
                operation.method, operation.template, query, data, reply.status, reply.body
            )


async def _send(reply: Reply, bucket: Bucket, send: Send, rule: Rule | None) -> None:
    payload = b"" if reply.body is None else json.dumps(reply.body).encode()
    headers = {"X-Correlation-Id": secrets.token_hex(8), **bucket.headers(), **reply.headers}
    if payload:
        headers["Content-Type"] = "application/json"
    broken = rule is not None and rule.effect.startswith("drop")
    if reply.status != 204:
        # A body that never comes makes the server close the connection: the caller cannot know what became of its call.
        headers["Content-Length"] = str(len(payload) + broken)
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": 502 if broken else reply.status, "headers": raw})
    if not broken:
        await send({"type": "http.response.body", "body": payload})
