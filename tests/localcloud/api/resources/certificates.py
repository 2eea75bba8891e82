"""Certificates: uploaded ones are read, managed ones are signed by themselves."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID
from pydantic import Field

from ...backend import BackendError
from .. import errors
from ..engine import Commit, Job, command
from ..inputs import Body, Labels, Name
from ..kinds import Kind, action_reply, action_view, register, unlocked
from ..pems import self_signed
from ..routing import Call, Reply, op
from ..store import Document, Tx, now


class Create(Body):
    name: Name
    type: Literal["uploaded", "managed"] = "uploaded"
    labels: Labels = {}
    certificate: str | None = None
    private_key: str | None = None
    domain_names: Annotated[list[str], Field(max_length=100)] | None = None


def used_by(tx: Tx, ident: int) -> list[Document]:
    return [
        {"id": item["id"], "type": "load_balancer"}
        for item in tx.all("load_balancer")
        if any(ident in service.get("http", {}).get("certificates", []) for service in item["services"])
    ]


def present(call: Call, document: Document) -> Document:
    return {**document, "used_by": used_by(call.tx, document["id"])}


KIND = register(Kind("certificate", "certificates", present, filters={"type": lambda item, values: item["type"] in values}))


def facts(pem: str) -> Document:
    """What the API tells of a certificate in PEM: that of the first one. Raises ValueError."""
    first = x509.load_pem_x509_certificates(pem.encode())[0]
    try:
        alternative = first.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        domains = alternative.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        domains = [str(name.value) for name in first.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    return {
        "certificate": pem,
        "domain_names": domains,
        "fingerprint": first.fingerprint(hashes.SHA256()).hex(":"),
        "not_valid_before": first.not_valid_before_utc.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "not_valid_after": first.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _public(holder: Any) -> bytes:
    return bytes(holder.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))


def _uploaded(body: Create) -> Document:
    if body.domain_names is not None:
        raise errors.invalid("domain_names", "is for managed certificates only")
    if not body.certificate or not body.private_key:
        raise errors.invalid("private_key" if body.certificate else "certificate", "is required for uploaded certificates")
    try:
        found = facts(body.certificate)
        first = x509.load_pem_x509_certificates(body.certificate.encode())[0]
    except ValueError as error:
        raise errors.invalid("certificate", "is not a certificate in PEM format") from error
    try:
        key = serialization.load_pem_private_key(body.private_key.encode(), None)
    except (ValueError, TypeError) as error:
        raise errors.invalid("private_key", "is not an unencrypted private key in PEM format") from error
    if _public(key) != _public(first):
        raise errors.invalid("private_key", "does not belong to the certificate")
    return {**found, "status": None}


def _managed(body: Create) -> Document:
    if body.certificate is not None or body.private_key is not None:
        raise errors.invalid("certificate", "is for uploaded certificates only")
    if not body.domain_names or len(set(body.domain_names)) != len(body.domain_names):
        raise errors.invalid("domain_names", "must be at least one, each once, for managed certificates")
    none = dict.fromkeys(("certificate", "fingerprint", "not_valid_before", "not_valid_after"))
    return {**none, "domain_names": body.domain_names, "status": _status("pending")}


def _status(issuance: str, error: Document | None = None) -> Document:
    return {"issuance": issuance, "renewal": "scheduled" if issuance == "completed" else "unavailable", "error": error}


@op("POST", "/certificates")
def create(call: Call) -> Reply:
    body = call.body(Create)
    call.unique("certificate", body.name)
    document: Document = {
        "id": call.tx.next_id(),
        "name": body.name,
        "labels": body.labels,
        "type": body.type,
        "created": now(),
        **(_uploaded(body) if body.type == "uploaded" else _managed(body)),
    }
    call.tx.put("certificate", document)
    action = None
    if body.type == "managed":
        action = action_view(call, call.tx.start("create_certificate", [("certificate", document["id"])]))
    return Reply(201, {"certificate": present(call, document), "action": action})


@op("DELETE", "/certificates/{id}")
def delete(call: Call) -> Reply:
    document = call.get("certificate")
    unlocked(call, "certificate", document["id"])
    if used_by(call.tx, document["id"]):
        raise errors.unprocessable("resource_in_use", f"certificate with ID '{document['id']}' is still in use")
    call.tx.drop("certificate", document["id"])
    return Reply(204)


@op("POST", "/certificates/{id}/actions/retry")
def retry(call: Call) -> Reply:
    document = call.get("certificate")
    unlocked(call, "certificate", document["id"])
    if document["type"] != "managed" or document["status"]["issuance"] != "failed":
        raise errors.unprocessable("unsupported_error", "only a managed certificate whose issuance failed can be tried again")
    call.tx.put("certificate", {**document, "status": _status("pending")})
    return action_reply(call, call.tx.start("issue_certificate", [("certificate", document["id"])]))


def _missing_zone(tx: Tx, domains: list[str]) -> str | None:
    """The first domain that no zone of the project holds."""
    zones = [item["name"] for item in tx.all("zone") if item["mode"] == "primary"]
    names = [domain.removeprefix("*.") for domain in domains]
    return next((name for name in names if not any(name == zone or name.endswith(f".{zone}") for zone in zones)), None)


def _failed(job: Job, tx: Tx) -> None:
    document = tx.get("certificate", job.resource("certificate"))
    if document is None:
        return
    code, text = "ca_dns_validation_failed", "Certificate Authority: DNS validation failed"
    if _missing_zone(tx, document["domain_names"]):
        code, text = "dns_zone_not_found", "DNS zone not found"
    tx.put("certificate", {**document, "status": _status("failed", {"code": code, "message": text})})


@command("create_certificate", _failed)
@command("issue_certificate", _failed)
def _issue(job: Job) -> Commit:
    with job.cloud.store.read() as tx:
        document = tx.get("certificate", job.resource("certificate"))
        missing = _missing_zone(tx, document["domain_names"]) if document else None
    if missing:
        raise BackendError(f"DNS zone not found for {missing}")
    issued = facts(self_signed(*document["domain_names"])[0]) if document else {}

    def commit(tx: Tx) -> None:
        own = tx.get("certificate", job.resource("certificate"))
        if own is not None:
            tx.put("certificate", {**own, **issued, "domain_names": own["domain_names"], "status": _status("completed")})

    return commit
