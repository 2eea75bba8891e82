# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The whole way: read, compare, price, check, write, read again. What the modules call."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypeVar

from . import (
    balancer_offer,
    balancing,
    catalogue,
    cost,
    dns,
    graph,
    ips,
    labels,
    observe,
    plan,
    progress,
    records,
    render,
    requirements,
    reverse,
    servers,
    writes,
)
from .actions import ActionFailedError
from .api import Api, UncertainError
from .errors import HetznerError
from .model import KINDS, Change, Json, Snapshot, Topology
from .result import Options, Result
from .topology import parse

# Reading, planning and writing again after a partial success; each pass only does what is still missing.
MOST_PASSES = 3
# The one list whose pages may be longer than others.
RRSETS_PER_PAGE = 100
K = TypeVar("K", str, int)
_APPLY = {"server": servers.apply, "primary_ip": ips.apply, "floating_ip": ips.apply, "zone": dns.apply, "rrset": dns.apply}
_APPLY |= {"load_balancer": balancing.apply, "certificate": balancing.apply_certificate}
DEFAULT_ENDPOINT = "https://api.hetzner.cloud/v1"


class Stack:
    """One stack and one connection. ``result`` is filled step by step, so that a failure can still be told in full.

    ``progress`` may be set before the work: it is called about once a second while resources are written.
    """

    def __init__(self, api: Api, name: str, options: Options | None = None, now: datetime | None = None) -> None:
        labels.check_stack_name(name)
        self.api = api
        self.name = name
        self.options = options or Options()
        self.now = now or datetime.now(UTC)
        self.result = Result(name)
        self.progress: Callable[[progress.Progress], None] | None = None

    def present(self, declared: Any, check: bool = False) -> Result:
        """Make the stack as declared; with ``check`` only say what that takes. Raises HetznerError; ``self.result`` stays readable."""
        topology = parse(self.name, declared)
        found, ordered = self._timed("read", functools.partial(self._read, topology, self._catalogue))
        if not check and self._timed("settle", functools.partial(writes.settle, self.api, found)):
            found = self._observe(topology)
        changes = self._plan(topology, found, ordered)
        if changes and not check:
            self._converge(topology, found, ordered, changes)
        return self.result

    def absent(self, check: bool = False) -> Result:
        """Delete everything that carries the stack's label."""
        topology = Topology(self.name, {})
        found, ordered = self._timed("read", functools.partial(self._read, topology, self._prices))
        self.result.found = found
        changes = plan.removals(found.resources.values(), "state: absent")
        self._tell(changes, found, ordered)
        self._check_switches(changes)
        if changes and not check:
            self._converge(topology, found, ordered, changes)
        return self.result

    def info(self, declared: Any | None) -> Json:
        """``resources``, ``drift``, ``cost``, ``hosts``; drift only against a declaration."""
        topology = parse(self.name, declared) if declared is not None else Topology(self.name, {})
        # What a server must have can only be compared with what there is to order.
        choosing = any("requirements" in server.extra for server in topology.of("server"))
        found, ordered = self._timed("read", functools.partial(self._read, topology, self._catalogue if choosing else self._prices))
        plan.check_duplicates(found)
        drift = [change.as_dict() for change in self._changes(topology, found, ordered, prune=True)] if declared is not None else []
        return {
            "resources": observe.resources(found),
            "drift": drift,
            "cost": cost.estimate([], found, ordered).as_dict(),
            "hosts": observe.hosts(found),
            "timings": self.result.timings,
        }

    def _plan(self, topology: Topology, found: Snapshot, ordered: catalogue.Catalogue) -> list[Change]:
        """Everything that can be refused is refused here, before the first write."""
        options = self.options
        self.result.found = found
        plan.check_duplicates(found)
        changes = self._changes(topology, found, ordered, options.prune)
        self.result.changes = changes
        catalogue.check_capacity(options.server_types, options.locations, ordered)
        catalogue.check(topology, changes, ordered, self.now)
        balancer_offer.check(topology, changes, ordered, self.now)
        reverse.check(topology, found, [change.key for change in changes if change.action in ("create", "replace")])
        left = [] if options.prune else plan.orphans(topology, found)
        self.result.left = sorted(item.key for item in left)
        self._tell(changes, found, ordered)
        self._check_switches(changes)
        if self.result.cost is not None:
            self.result.warnings += cost.check_budget(self.result.cost, options.budget)
        records.check(topology, found, changes)
        made = sorted({change.kind for change in changes if change.action == "create"} & KINDS.keys())
        if made:
            project = self._together({kind: functools.partial(self.api.pages, KINDS[kind].url, KINDS[kind].path) for kind in made})
            plan.check_foreign(observe.foreign(project, self.name, [change.key for change in changes if change.action == "create"]))
        return changes

    def _changes(self, topology: Topology, found: Snapshot, ordered: catalogue.Catalogue, prune: bool) -> list[Change]:
        return plan.plan(requirements.resolve(topology, found, ordered, self.options.locations), found, prune)

    def _tell(self, changes: list[Change], found: Snapshot, ordered: catalogue.Catalogue) -> None:
        self.result.changes = changes
        self.result.cost = cost.estimate(changes, found, ordered)
        left = [found.resources[key] for key in self.result.left]
        self.result.plan_text = render.plan_text(self.name, changes, self.result.cost, left)

    def _check_switches(self, changes: Sequence[Change]) -> None:
        plan.check_switches(
            changes,
            allow_replace=self.options.allow_replace,
            allow_power_off=self.options.allow_power_off,
            allow_destroy_protected=self.options.allow_destroy_protected,
        )

    def _converge(self, topology: Topology, found: Snapshot, ordered: catalogue.Catalogue, changes: list[Change]) -> None:
        refused: dict[tuple[str, str], str] = {}
        gone = not topology.resources
        for number in range(1, MOST_PASSES + 1):
            context = self._context(topology, found, ordered, refused)
            outcome = self._timed(f"write {number}", functools.partial(self._write, context, changes, found))
            found = self._timed(f"read {number + 1}", functools.partial(self._observe, topology))
            self.result.found = found
            changes = (
                plan.removals(found.resources.values(), "state: absent")
                if gone
                else self._changes(topology, found, ordered, self.options.prune)
            )
            self._record(outcome, changes)
            if not changes:
                break
            if outcome.failed and not any(isinstance(error, (UncertainError, ActionFailedError)) for error in outcome.failed.values()):
                break
            self._check_switches(changes)
        if self.result.cost is not None:
            final = cost.estimate([], found, ordered)
            planned = self.result.cost
            self.result.cost = cost.Cost(planned.currency, planned.before, final.after, planned.pairs)
        if changes:
            raise self._unfinished(changes)

    def _context(
        self, topology: Topology, found: Snapshot, ordered: catalogue.Catalogue, refused: dict[tuple[str, str], str]
    ) -> writes.Context:
        if self.result.cost is None:
            raise HetznerError("A plan without its cost cannot be carried out")
        return writes.Context(
            api=self.api,
            topology=topology,
            found=found,
            catalogue=ordered,
            now=self.now,
            cost=self.result.cost,
            budget=self.options.budget,
            server_types=self.options.server_types,
            locations=self.options.locations,
            refused=refused,
        )

    def _write(self, context: writes.Context, changes: list[Change], found: Snapshot) -> graph.Outcome:
        began = time.monotonic()

        def work(change: Change) -> None:
            _APPLY.get(change.kind, writes.apply)(context, change)

        def watch(outcome: graph.Outcome, running: Mapping[str, float]) -> None:
            if self.progress is not None:
                self.progress(progress.snapshot(changes, outcome, running, time.monotonic() - began))

        return graph.run(changes, graph.dependencies(changes, found), work, watch)

    def _record(self, outcome: graph.Outcome, missing: list[Change]) -> None:
        result = self.result
        result.timings += [{"name": key, "seconds": round(seconds, 3)} for key, seconds in outcome.done.items()]
        result.done = sorted({*result.done, *outcome.done} - {change.key for change in missing})
        open_keys = {change.key for change in missing}
        # A step whose answer was lost, but whose effect is there, has not failed.
        result.failures = [
            {
                "resource": key,
                "problem": getattr(error, "message", None) or f"{type(error).__name__}: {error}",
                "remedy": getattr(error, "remedy", ""),
            }
            for key, error in outcome.failed.items()
            if key in open_keys
        ]
        result.not_tried = [{"resource": key, "because": cause} for key, cause in outcome.skipped.items() if key in open_keys]

    def _unfinished(self, missing: list[Change]) -> HetznerError:
        failed = self.result.failures
        told = "; ".join(f"{item['resource']}: {item['problem']}" for item in failed[:4]) or ", ".join(
            f"{change.key} still differs in {', '.join(sorted(change.field_names())) or change.action}" for change in missing[:4]
        )
        remedies = sorted({str(item["remedy"]) for item in failed if item["remedy"]})
        return HetznerError(
            f"Stack {self.name}: {len(self.result.done)} steps done, {len(missing)} not: {told}",
            " ".join(remedies[:2]) or "Run it again: it goes on from what is there.",
            failures=failed,
            not_tried=self.result.not_tried,
            missing=[change.key for change in missing],
        )

    def _read(self, topology: Topology, ordered: Callable[[Topology], catalogue.Catalogue]) -> tuple[Snapshot, catalogue.Catalogue]:
        """What there is, and what can be ordered: read side by side."""
        with ThreadPoolExecutor(max_workers=2) as pool:
            offer = pool.submit(ordered, topology)
            return self._observe(topology), offer.result()

    def _observe(self, topology: Topology) -> Snapshot:
        # A public key exists once in a project, under whoever's name: where keys are declared, all have to be seen.
        every = any(True for _unused in topology.of("ssh_key"))
        selected: dict[str, Any] = {"label_selector": labels.selector(self.name)}
        lists = self._together(
            {
                kind.name: functools.partial(self.api.pages, kind.url, kind.path, **({} if every and kind.name == "ssh_key" else selected))
                for kind in KINDS.values()
            }
        )
        keys = lists["ssh_key"]
        lists["ssh_key"] = [item for item in keys if (item.get("labels") or {}).get(labels.STACK) == self.name]
        rrsets = self._together(
            {
                zone["id"]: functools.partial(self.api.pages, f"/zones/{zone['id']}/rrsets", "rrsets", per_page=RRSETS_PER_PAGE)
                for zone in lists["zone"]
                if zone["mode"] == "primary"
            }
        )
        return observe.snapshot(lists, self.name, keys, rrsets)

    @staticmethod
    def _together(reads: dict[K, Callable[[], Any]]) -> dict[K, Any]:
        with ThreadPoolExecutor(max_workers=max(1, len(reads))) as pool:
            futures = {name: pool.submit(read) for name, read in reads.items()}
            return {name: future.result() for name, future in futures.items()}

    def _prices(self, _topology: Topology) -> catalogue.Catalogue:
        return catalogue.build([], [], [], self.api.get("/pricing")["pricing"])

    def _catalogue(self, topology: Topology) -> catalogue.Catalogue:
        balanced = any(True for _unused in topology.of("load_balancer"))
        read = self._together(
            {
                "server_types": functools.partial(self.api.pages, "/server_types", "server_types"),
                "locations": functools.partial(self.api.pages, "/locations", "locations"),
                "pricing": functools.partial(self.api.get, "/pricing"),
                **(
                    {"load_balancer_types": functools.partial(self.api.pages, "/load_balancer_types", "load_balancer_types")}
                    if balanced
                    else {}
                ),
                **{
                    f"image {name}": functools.partial(self._images, name)
                    for name in {str(one.spec["image"]) for one in topology.of("server")}
                },
            }
        )
        images = [image for name, found in read.items() if name.startswith("image ") for image in found]
        built = catalogue.build(read["server_types"], read["locations"], images, read["pricing"]["pricing"])
        return dataclasses.replace(built, balancers={item["name"]: item for item in read.get("load_balancer_types", [])})

    def _images(self, name: str) -> list[Json]:
        if name.isdigit():
            return [self.api.get(f"/images/{name}")["image"]]
        # When there is none of that name, the others are named instead.
        return self.api.pages("/images", "images", name=name) or self.api.pages("/images", "images", type="system", status="available")

    def _timed(self, name: str, work: Callable[[], Any]) -> Any:
        started = time.monotonic()
        try:
            return work()
        finally:
            self.result.timings.append({"name": name, "seconds": round(time.monotonic() - started, 3)})


def connect(given: dict[str, Any]) -> Stack:
    """A stack from the modules' parameters; raises HetznerError for what is missing or out of range. Sends nothing yet."""
    if not given.get("api_token"):
        raise HetznerError("No token for the Hetzner Cloud API is given", "Set api_token, or HCLOUD_TOKEN in the environment.")
    endpoint = given.get("api_endpoint") or DEFAULT_ENDPOINT
    if not endpoint.startswith(("https://", "http://")):
        raise HetznerError(
            f"api_endpoint: {endpoint!r} is not an address", f"Write it like {DEFAULT_ENDPOINT}, in api_endpoint or HCLOUD_ENDPOINT."
        )
    for name, (least, most) in {"parallelism": (1, 16), "timeout": (1, 86400)}.items():
        if not least <= given.get(name, least) <= most:
            raise HetznerError(f"{name}: {given[name]} is outside {least} to {most}", "Choose a number in between.")
    capacity = given.get("capacity") or {}
    options = Options(
        prune=bool(given.get("prune")),
        allow_replace=bool(given.get("allow_replace")),
        allow_power_off=bool(given.get("allow_power_off")),
        allow_destroy_protected=bool(given.get("allow_destroy_protected")),
        budget=budget(given.get("budget")),
        server_types=tuple(capacity.get("server_types") or ()),
        locations=tuple(capacity.get("locations") or ()),
    )
    labels.check_stack_name(given["name"])
    api = Api(given["api_token"], endpoint, parallelism=given.get("parallelism", 8), timeout=float(given.get("timeout", 900)))
    return Stack(api, given["name"], options)


def budget(given: dict[str, Any] | None) -> cost.Budget | None:
    """The module's ``budget`` parameter; raises HetznerError for an amount that is none."""
    if not given:
        return None
    try:
        most = Decimal(str(given["monthly_max"]))
    except ArithmeticError as error:
        raise HetznerError(
            f"budget.monthly_max: {given['monthly_max']!r} is not an amount", "Write it as a number such as 120 or '120.50'."
        ) from error
    if not most.is_finite() or most < 0:
        raise HetznerError(f"budget.monthly_max: {most} is not an amount", "Write a number that is not negative.")
    return cost.Budget(most, given["currency"].upper(), given["on_exceed"], given["include_vat"])
