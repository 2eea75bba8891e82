"""What all kinds of resources share: lists, single reads, renaming and relabelling, actions, protection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from . import errors
from .inputs import Body, DeleteProtection, Labels, Name
from .lists import Query, chosen, ordered, page
from .routing import Call, Reply, op
from .store import Document

ACTION_SORTS = ("id", "command", "status", "started", "finished")
Present = Callable[[Call, Document], Document]


class Rename(Body):
    name: Name | None = None
    labels: Labels | None = None


@dataclass(frozen=True)
class Kind:
    """One kind of resource.

    filters: query parameter -> whether a presented document fits the values given for it.
    after_update: called with the stored document after its name or labels changed.
    by_name: the path takes a name as well as an id.
    """

    singular: str
    plural: str
    present: Present
    sorts: Sequence[str] = ("id", "name", "created")
    filters: dict[str, Callable[[Document, list[str]], bool]] = field(default_factory=dict)
    stored: Callable[[Call], list[Document]] | None = None
    update: type[Body] = Rename
    after_update: Callable[[Call, Document], None] | None = None
    actions: bool = True
    by_name: bool = False
    writable: bool = True

    def documents(self, call: Call) -> list[Document]:
        return self.stored(call) if self.stored else call.tx.all(self.singular)

    @property
    def path(self) -> str:
        """Template of one resource."""
        return f"/{self.plural}/{{{'id_or_name' if self.by_name else 'id'}}}"

    def find(self, call: Call) -> Document:
        """The resource the path names. Raises ApiError 404."""
        text = call.params["id_or_name"] if self.by_name else str(call.id)
        if self.stored is None and not self.by_name:
            return call.get(self.singular)
        found = next((item for item in self.documents(call) if text == str(item["id"]) or (self.by_name and text == item["name"])), None)
        if found is None:
            raise errors.not_found(self.singular, text)
        return found


def action_view(call: Call, action: Document) -> Document:
    keys = ("id", "command", "status", "started", "finished", "resources", "error")
    return {**{key: action[key] for key in keys}, "progress": call.cloud.engine.progress(action)}


def action_reply(call: Call, action: Document, **more: Any) -> Reply:
    return Reply(201, {"action": action_view(call, action), **more})


def actions_reply(call: Call, actions: Sequence[Document]) -> Reply:
    return Reply(201, {"actions": [action_view(call, action) for action in actions]})


def unlocked(call: Call, kind: str, ident: int) -> None:
    """Raises 423 while another action of the resource runs."""
    if call.tx.is_locked(kind, ident):
        raise errors.locked(kind)


def list_reply(call: Call, kind: Kind) -> Reply:
    found = chosen(kind.documents(call), call.query)
    shown: Callable[[Document], Document] = partial(kind.present, call)
    wanted = {name: values for name in kind.filters if (values := call.query.many(name))}
    if wanted:
        found = [item for item in map(shown, found) if all(kind.filters[name](item, values) for name, values in wanted.items())]
        shown = dict
    return Reply(200, *page(ordered(found, call.query, kind.sorts), call.query, kind.plural, call.path, shown))


def _action_list(call: Call, actions: list[Document]) -> Reply:
    wanted, ids = call.query.many("status"), call.query.numbers("id")
    found = [item for item in actions if (not wanted or item["status"] in wanted) and (not ids or item["id"] in ids)]
    return Reply(
        200, *page(ordered(found, call.query, ACTION_SORTS), call.query, "actions", call.path, lambda item: action_view(call, item))
    )


def _single_action(call: Call, action: Document | None, ident: int) -> Reply:
    if action is None or action["hidden"]:
        raise errors.not_found("action", ident)
    return Reply(200, {"action": action_view(call, action)})


def register(kind: Kind) -> Kind:
    """Add the routes every kind has."""
    base = f"/{kind.plural}"

    @op("GET", base)
    def _list(call: Call) -> Reply:
        return list_reply(call, kind)

    @op("GET", kind.path)
    def _get(call: Call) -> Reply:
        return Reply(200, {kind.singular: kind.present(call, kind.find(call))})

    if kind.writable:

        @op("PUT", kind.path)
        def _put(call: Call) -> Reply:
            document = kind.find(call)
            changes = call.body(kind.update).model_dump(exclude_unset=True, exclude_none=True)
            if "name" in changes:
                call.unique(kind.singular, changes["name"], document["id"])
            document |= changes
            call.tx.put(kind.singular, document)
            if kind.after_update:
                kind.after_update(call, document)
            return Reply(200, {kind.singular: kind.present(call, document)})

    if kind.actions:
        _register_actions(kind, base)
    return kind


def _register_actions(kind: Kind, base: str) -> None:
    @op("GET", base + "/actions")
    def _all_actions(call: Call) -> Reply:
        return _action_list(call, call.tx.actions_of(kind.singular))

    @op("GET", base + "/actions/{id}")
    def _action(call: Call) -> Reply:
        action = call.tx.action(call.id)
        fits = action and any(item["type"] == kind.singular for item in action["resources"])
        return _single_action(call, action if fits else None, call.id)

    @op("GET", kind.path + "/actions")
    def _own_actions(call: Call) -> Reply:
        return _action_list(call, call.tx.actions_of(kind.singular, kind.find(call)["id"]))

    @op("GET", kind.path + "/actions/{action_id}")
    def _own_action(call: Call) -> Reply:
        ident = call.number("action_id")
        action = call.tx.action(ident)
        fits = action and {"id": kind.find(call)["id"], "type": kind.singular} in action["resources"]
        return _single_action(call, action if fits else None, ident)


def register_protection(kind: Kind) -> None:
    """``change_protection`` of kinds that have delete protection only."""

    @op("POST", kind.path + "/actions/change_protection")
    def _protect(call: Call) -> Reply:
        if kind.stored and all(item["id"] != call.id for item in call.tx.all(kind.singular)):
            raise errors.ApiError(403, "forbidden", f"this {kind.singular} does not belong to the project")
        document = kind.find(call)
        change = call.body(DeleteProtection)
        unlocked(call, kind.singular, document["id"])
        if change.delete is not None:
            document["protection"]["delete"] = change.delete
            call.tx.put(kind.singular, document)
        return action_reply(call, call.tx.start("change_protection", [(kind.singular, document["id"])]))


def check_deletable(call: Call, kind: Kind, document: Document) -> None:
    if document.get("protection", {}).get("delete"):
        raise errors.protected(f"{kind.singular.replace('_', ' ')} deletion")
    unlocked(call, kind.singular, document["id"])


@op("GET", "/actions")
def actions_by_id(call: Call) -> Reply:
    """Only by id: the list of everything was removed in January 2025."""
    ids = call.query.numbers("id")
    if not ids:
        raise errors.invalid("id", "is required")
    found = [item for ident in dict.fromkeys(ids) if (item := call.tx.action(ident)) and not item["hidden"]]
    sorts = Query(tuple(pair for pair in call.query.pairs if pair[0] == "sort"))
    return Reply(200, *page(ordered(found, sorts, ACTION_SORTS), call.query, "actions", call.path, lambda item: action_view(call, item)))


@op("GET", "/actions/{id}")
def action_by_id(call: Call) -> Reply:
    return _single_action(call, call.tx.action(call.id), call.id)
