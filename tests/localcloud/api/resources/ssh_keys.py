"""SSH keys."""

from __future__ import annotations

import base64
import binascii
import hashlib

from ..errors import invalid, not_unique
from ..inputs import Body, Labels, Name
from ..kinds import Kind, register
from ..routing import Call, Reply, op
from ..store import Document, now

KEY_TYPES = ("ssh-rsa", "ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "sk-ssh-ed25519@openssh.com")


class Create(Body):
    name: Name
    public_key: str
    labels: Labels = {}


def fingerprint(public_key: str) -> str:
    """MD5 of the key as colon-separated hex, as the API shows it. Raises 422 when it is not an OpenSSH public key."""
    parts = public_key.split()
    try:
        blob = base64.b64decode(parts[1], validate=True)
    except (IndexError, binascii.Error):
        blob = b""
    if len(blob) < 12 or parts[0] not in KEY_TYPES or blob[4 : 4 + len(parts[0])] != parts[0].encode():
        raise invalid("public_key", "is not a valid OpenSSH public key")
    digest = hashlib.md5(blob, usedforsecurity=False).hexdigest()
    return ":".join(digest[at : at + 2] for at in range(0, 32, 2))


KIND = register(
    Kind(
        "ssh_key",
        "ssh_keys",
        lambda _call, document: document,
        ("id", "name"),
        filters={"fingerprint": lambda item, values: item["fingerprint"] in values},
        actions=False,
    )
)


@op("POST", "/ssh_keys")
def create(call: Call) -> Reply:
    body = call.body(Create)
    call.unique("ssh_key", body.name)
    mark = fingerprint(body.public_key)
    if any(item["fingerprint"] == mark for item in call.tx.all("ssh_key")):
        raise not_unique("SSH key with the same fingerprint already exists", "public_key")
    document: Document = {
        "id": call.tx.next_id(),
        "name": body.name,
        "fingerprint": mark,
        "public_key": body.public_key.strip(),
        "labels": body.labels,
        "created": now(),
    }
    call.tx.put("ssh_key", document)
    return Reply(201, {"ssh_key": document})


@op("DELETE", "/ssh_keys/{id}")
def delete(call: Call) -> Reply:
    call.tx.drop("ssh_key", call.get("ssh_key")["id"])
    return Reply(204)
