# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The connection: hcloud clients, one per request in flight, with our own retries, pacing and counting.

hcloud's own retries are switched off: it would send a timed-out POST again without looking whether the first one worked.
"""

from __future__ import annotations

import queue
import random
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from .actions import ActionWaiter
from .errors import HetznerError
from .model import Json

try:
    import requests
    from hcloud import APIException, Client
except ImportError as error:
    MISSING: ImportError | None = error
else:
    MISSING = None

PER_PAGE = 50
# The API says that nothing was done: safe to send again, whatever it was.
_NOT_DONE = frozenset({"conflict", "locked", "rate_limit_exceeded", 429})
# Nobody knows whether it was done.
_UNKNOWN = frozenset({"timeout", "bad_gateway", "server_error", "service_error", "unavailable", "maintenance", 500, 502, 503, 504})
_SECONDS = {"locked": 300.0, "conflict": 300.0, "rate_limit_exceeded": 600.0, 429: 600.0}


class ApiError(HetznerError):
    """The API refused. code: its error code ("uniqueness_error") or HTTP status where there was none."""

    def __init__(self, code: str | int, message: str, call: str, remedy: str = "", **details: Any) -> None:
        super().__init__(f"{call}: {message} ({code})", remedy, code=code, call=call, **details)
        self.code = code
        self.text = message


class UncertainError(ApiError):
    """The answer to a write was lost: it may or may not have been done."""


class Api:
    """Blocking calls from any thread. Counts every request sent, follows the rate limit, waits for actions in batches."""

    def __init__(self, token: str, endpoint: str, *, parallelism: int = 8, timeout: float = 900.0, version: str = "0.1.0") -> None:
        if MISSING is not None:
            raise HetznerError(f"The Python package hcloud is missing for {sys.executable} ({MISSING})", "Install hcloud>=2.27,<3 there.")
        self.endpoint = endpoint.rstrip("/")
        self.timeout = timeout
        self._clients: queue.LifoQueue[Client] = queue.LifoQueue()
        for _unused in range(max(1, parallelism)):
            self._clients.put(self._client(token, version))
        self._lock = threading.Lock()
        self._remaining: int | None = None
        self._limit = 0
        self.answered = False
        self.requests = 0
        self.retries = 0
        self._waiter = ActionWaiter(self._fetch_actions)

    def _client(self, token: str, version: str) -> Client:
        client = Client(
            token=token, api_endpoint=self.endpoint, application_name="cutover.hetzner", application_version=version, timeout=(10.0, 90.0)
        )
        base: Any = getattr(client, "_client", None)
        session = getattr(base, "_session", None)
        if session is None or not hasattr(base, "_retry_max_retries"):
            raise HetznerError(
                "This version of the Python package hcloud is not supported", "Install hcloud>=2.27,<3 for the module's interpreter."
            )
        base._retry_max_retries = 0
        session.hooks["response"].append(self._seen)
        return client

    def _seen(self, response: requests.Response, *_args: Any, **_kwargs: Any) -> None:
        with self._lock:
            remaining, limit = response.headers.get("RateLimit-Remaining"), response.headers.get("RateLimit-Limit")
            if remaining and remaining.isdigit() and limit and limit.isdigit():
                self._remaining, self._limit = int(remaining), int(limit)

    def close(self) -> None:
        self._waiter.close()

    def get(self, path: str, **params: Any) -> Json:
        return self.call("GET", path, params=params)

    def pages(self, path: str, key: str, per_page: int = PER_PAGE, **params: Any) -> list[Json]:
        """All pages of a list; ``key`` is where the answer holds it."""
        items: list[Json] = []
        page: int | None = 1
        while page is not None:
            answer = self.get(path, **params, page=page, per_page=per_page)
            items += answer[key]
            page = ((answer.get("meta") or {}).get("pagination") or {}).get("next_page")
        return items

    def call(self, method: str, path: str, *, body: Json | None = None, params: Json | None = None) -> Json:
        """One exchange, repeated within bounds where that is safe. Raises ApiError, or UncertainError for a POST without an answer."""
        told = f"{method} {path}"
        started = time.monotonic()
        attempt = 0
        while True:
            error = self._once(method, path, told, body, params)
            if isinstance(error, dict):
                return error
            repeatable = error.code in _NOT_DONE or (isinstance(error, UncertainError) and method != "POST")
            limit = _SECONDS.get(error.code, 60.0) if self.answered else 8.0
            pause = self._pause(error, attempt)
            if not repeatable or time.monotonic() - started + pause > limit:
                raise self._explained(error)
            time.sleep(pause)
            attempt += 1
            with self._lock:
                self.retries += 1

    def _once(self, method: str, path: str, told: str, body: Json | None, params: Json | None) -> Json | ApiError:
        self._pace()
        client = self._clients.get()
        options: dict[str, Any] = {}
        if body is not None:
            options["json"] = body
        if params:
            options["params"] = params
        try:
            with self._lock:
                self.requests += 1
            answer = client.request(method, path, **options)
            self.answered = True
            return answer
        except APIException as error:
            self.answered = True
            kind = UncertainError if error.code in _UNKNOWN else ApiError
            return kind(error.code, str(error.message or "no message"), told, fields=_fields(error.details))
        except requests.exceptions.Timeout:
            return UncertainError("no_answer", "no answer within 90 s", told)
        except requests.exceptions.RequestException as error:
            return UncertainError("no_connection", type(error).__name__, told)
        finally:
            self._clients.put(client)

    def _pace(self) -> None:
        """Near the end of the hourly allowance, go no faster than it refills (one a second), so that others get some too."""
        with self._lock:
            scarce = self._remaining is not None and self._remaining < max(10, self._limit // 20)
        if scarce:
            time.sleep(random.uniform(0.8, 1.6))

    @staticmethod
    def _pause(error: ApiError, attempt: int) -> float:
        if error.code in ("rate_limit_exceeded", 429):
            return random.uniform(1.0, min(30.0, 2.0 ** (attempt + 1)))
        ceiling = min(10.0, 0.25 * 2.0**attempt)
        return random.uniform(ceiling / 2, ceiling)

    def _explained(self, error: ApiError) -> ApiError:
        if error.code in ("unauthorized", 401):
            error.remedy = "The token is missing or wrong: set api_token, or HCLOUD_TOKEN in the environment."
        elif error.code == "token_readonly":
            error.remedy = "The token may only read: set api_token or HCLOUD_TOKEN to one with the permission 'Read & Write'."
        elif error.code == "resource_limit_exceeded":
            error.remedy = (
                "The project's limit for this kind of resource is reached: delete some, or ask for a higher limit in the console."
            )
        elif error.code in ("no_connection", "no_answer") and not self.answered:
            error.message = f"{self.endpoint} cannot be reached ({error.text})"
            error.remedy = "Check api_endpoint, or HCLOUD_ENDPOINT in the environment, and that the network lets this machine through."
        return error

    def act(self, path: str, body: Json | None = None, *, done: tuple[str, ...] = ()) -> None:
        """POST an action and wait for it. ``done``: error codes that say it has already been done."""
        self.wait(self.post_again(lambda: self.call("POST", path, body=body), done))

    def post_again(self, post: Callable[[], Json], done: tuple[str, ...] = ()) -> list[Json]:
        """The actions of a POST that may be sent twice without harm; up to 4 times when the answer is lost."""
        for attempt in range(4):
            try:
                return actions_of(post())
            except UncertainError:
                if attempt == 3:
                    raise
                time.sleep(random.uniform(0.3, 0.6) * 2**attempt)
            except ApiError as error:
                if error.code in done:
                    return []
                raise
        raise AssertionError("unreachable")

    def wait(self, actions: list[Json]) -> None:
        """Until all of them succeeded; raises ActionFailedError, or HetznerError when the time is over."""
        self._waiter.wait(actions, self.timeout)

    def _fetch_actions(self, ids: list[int]) -> list[Json]:
        answer: list[Json] = self.get("/actions", id=ids, per_page=PER_PAGE)["actions"]
        return answer


def actions_of(answer: Json) -> list[Json]:
    """Every action in an answer, whichever of the API's places it is in."""
    single = [answer["action"]] if answer.get("action") else []
    return single + list(answer.get("actions") or []) + list(answer.get("next_actions") or [])


def _fields(details: Any) -> list[Any]:
    fields = details.get("fields") if isinstance(details, dict) else None
    return fields if isinstance(fields, list) else []
