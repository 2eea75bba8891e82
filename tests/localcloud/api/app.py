"""The application: the API below /v1, and what only the local cloud has below /_local."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from ..backend import Backend
from . import contract, resources
from .cloud import Cloud
from .engine import Engine
from .errors import ApiError
from .faults import Faults
from .gate import Gate
from .routing import OPERATIONS
from .store import Store


def create_app(*, state_dir: Path, token: str, backend: Backend, public_range: str, speed: float = 1.0) -> FastAPI:
    """One cloud with its state in ``state_dir/cloud.sqlite``.

    token: the bearer token of the only project. public_range: IPv4 range of public addresses, given out from host .10 up.
    speed: factor on the real cloud's durations, 0 for as fast as the backend.
    CUTOVER_HCLOUD_SPEC: path of the official OpenAPI document; when set, every exchange is held against it (see /_local/journal).
    """
    if not token or speed < 0:
        raise ValueError("the local cloud needs a token and a speed of 0 or more")
    document = os.environ.get("CUTOVER_HCLOUD_SPEC")
    if document and not Path(document).is_file():
        raise ValueError(f"CUTOVER_HCLOUD_SPEC is {document}, which is no file: unset it, or set it to the official OpenAPI document")
    faults = Faults()
    store = Store(Path(state_dir) / "cloud.sqlite")
    engine = Engine(store, speed, faults.action)
    cloud = Cloud(store, backend, engine, ipaddress.IPv4Network(public_range))
    gate = Gate(cloud, token, faults, contract.load(Path(document)) if document else None)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        engine.resume(cloud)
        try:
            yield
        finally:
            engine.close()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    _add_local_routes(app, gate, faults, store)
    app.mount("/v1", gate)
    return app


def _add_local_routes(app: FastAPI, gate: Gate, faults: Faults, store: Store) -> None:
    @app.exception_handler(ApiError)
    def _error(_request: Request, error: ApiError) -> JSONResponse:
        return JSONResponse(error.body(), error.status)

    @app.get("/_local/health")
    def _health() -> dict[str, Any]:
        with store.read() as tx:
            running = tx.running()
            servers = tx.all("server")
        return {
            "status": "ok",
            "servers": len(servers),
            "running_actions": len(running),
            "operations": len(OPERATIONS),
            "kinds": list(resources.__all__),
        }

    @app.get("/_local/journal")
    def _journal(since: int = 0) -> dict[str, Any]:
        """Exchanges after the first ``since`` ones, and how many there are."""
        entries = list(gate.journal)
        return {"count": len(entries), "exchanges": entries[since:]}

    @app.delete("/_local/journal")
    def _clear() -> dict[str, Any]:
        gate.journal.clear()
        return {"count": 0}

    @app.get("/_local/faults")
    def _faults() -> dict[str, Any]:
        return {"rules": faults.state()}

    @app.post("/_local/faults")
    async def _set_faults(request: Request) -> dict[str, Any]:
        return {"rules": faults.replace(await request.json())}

    @app.post("/_local/rate_limit")
    async def _rate_limit(request: Request) -> dict[str, Any]:
        """``{"remaining": n}``: leave that many requests in the project's bucket."""
        gate.bucket.set(int((await request.json())["remaining"]))
        return gate.bucket.headers()
