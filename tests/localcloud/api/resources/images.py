"""Images: the system images of the catalogue, and snapshots and backups of servers."""

from __future__ import annotations

from typing import Literal

from .. import errors
from ..engine import Job, command
from ..inputs import Body, Labels, Ref
from ..kinds import Kind, check_deletable, register, register_protection
from ..routing import Call, Reply, op
from ..store import Document, Tx, now


class Update(Body):
    description: str | None = None
    type: Literal["snapshot"] | None = None
    labels: Labels | None = None


def stored(call: Call) -> list[Document]:
    """All images; system images that the backend cannot boot are unavailable."""
    bootable = call.cloud.backend.images()
    system = [{**item, "status": "available" if item["name"] in bootable else "unavailable"} for item in call.cloud.catalogue.images]
    return system + call.tx.all("image")


def present(_call: Call, document: Document) -> Document:
    return document


def find(call: Call, ref: Ref, architecture: str) -> Document:
    """The image to boot, by id or name, for an architecture. Raises 422."""
    images = stored(call)
    found = [item for item in images if ref in (item["id"], str(item["id"]), item["name"])]
    if not found:
        raise errors.invalid("image", f"image '{ref}' not found")
    fitting = [item for item in found if item["architecture"] == architecture]
    if not fitting:
        raise errors.invalid("image", f"architecture of image '{ref}' does not fit the server type's ({architecture})")
    if fitting[0]["status"] != "available":
        raise errors.ApiError(412, "resource_unavailable", f"image '{ref}' cannot be booted here now")
    return fitting[0]


def make(tx: Tx, server: Document, architecture: str, kind: str, description: str, labels: dict[str, str]) -> Document:
    """Record an image that is being made of a server."""
    ident = tx.next_id()
    document: Document = {
        "id": ident,
        "type": kind,
        "status": "creating",
        "name": None,
        "description": description or f"{kind} {ident} of {server['name']}",
        "image_size": None,
        "disk_size": server["primary_disk_size"],
        "created": now(),
        "created_from": {"id": server["id"], "name": server["name"]},
        "bound_to": server["id"] if kind == "backup" else None,
        "os_flavor": server["os"][0],
        "os_version": server["os"][1],
        "rapid_deploy": False,
        "protection": {"delete": False},
        "deprecated": None,
        "deprecation": None,
        "deleted": None,
        "labels": labels,
        "architecture": architecture,
    }
    tx.put("image", document)
    return document


KIND = register(
    Kind(
        "image",
        "images",
        present,
        stored=stored,
        update=Update,
        filters={
            "type": lambda item, values: item["type"] in values,
            "status": lambda item, values: item["status"] in values,
            "architecture": lambda item, values: item["architecture"] in values,
            "bound_to": lambda item, values: str(item["bound_to"]) in values,
        },
    )
)
register_protection(KIND)


@op("DELETE", "/images/{id}")
def delete(call: Call) -> Reply:
    """Snapshots and backups only: system images belong to nobody."""
    if any(item["id"] == call.id for item in call.cloud.catalogue.images):
        raise errors.ApiError(403, "forbidden", "system images cannot be deleted")
    document = call.get("image")
    check_deletable(call, KIND, document)
    call.tx.drop("image", document["id"])
    call.tx.start("delete_image", [("image", document["id"])], hidden=True)
    return Reply(204)


@command("delete_image")
def _delete(job: Job) -> None:
    job.cloud.backend.delete_image(job.resource("image"))
