"""Key material of a WhatsApp session as the library Baileys keeps it: one ``creds`` document and 335 keys."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from random import Random

from .copytext import Value

KEY_COUNTS = {"app-state-sync-key": 5, "app-state-sync-version": 4, "pre-key": 236, "sender-key": 31, "sender-key-memory": 6, "session": 53}


def _b64(rng: Random, size: int) -> str:
    return base64.b64encode(rng.randbytes(size)).decode()


def _buffer(rng: Random, size: int) -> dict[str, object]:
    return {"type": "Buffer", "data": _b64(rng, size)}


def _pair(rng: Random) -> dict[str, object]:
    return {"private": _buffer(rng, 32), "public": _buffer(rng, 32)}


def creds(rng: Random) -> dict[str, object]:
    """The account's credentials; losing them logs the business out."""
    return {
        "noiseKey": _pair(rng),
        "pairingEphemeralKeyPair": _pair(rng),
        "signedIdentityKey": _pair(rng),
        "signedPreKey": {"keyPair": _pair(rng), "signature": _buffer(rng, 64), "keyId": 1},
        "registrationId": rng.randrange(1, 16380),
        "advSecretKey": _b64(rng, 32),
        "processedHistoryMessages": [
            {"key": {"remoteJid": "79990000001@s.whatsapp.net", "fromMe": True, "id": "3EB0" + rng.randbytes(9).hex().upper()}}
        ],
        "nextPreKeyId": 237,
        "firstUnuploadedPreKeyId": 237,
        "accountSyncCounter": 1,
        "accountSettings": {"unarchiveChats": False},
        "registered": False,
        "account": {
            "details": _b64(rng, 16),
            "accountSignatureKey": _b64(rng, 32),
            "accountSignature": _b64(rng, 64),
            "deviceSignature": _b64(rng, 64),
        },
        "me": {"id": "79686484488:14@s.whatsapp.net", "lid": "262319137136668:14@lid", "name": "Салон «Кристалл» 💈"},
        "signalIdentities": [{"identifier": {"name": "79686484488:14@s.whatsapp.net", "deviceId": 0}, "identifierKey": _buffer(rng, 33)}],
        "platform": "smba",
        "routingInfo": _buffer(rng, 4),
        "lastAccountSyncTimestamp": 1793000000,
        "lastPropHash": "2P1Yhf",
        "myAppStateKeyId": "AAAAAB7L",
    }


def _session(rng: Random, moment: datetime) -> dict[str, object]:
    sessions: dict[str, object] = {}
    for index in range(rng.choice([1, 1, 1, 2, 3])):
        base_key = _b64(rng, 33)
        used = int(moment.timestamp() * 1000) + index
        chains = {
            _b64(rng, 33): {"chainKey": {"counter": rng.randrange(-1, 90), "key": _b64(rng, 32)}, "chainType": kind, "messageKeys": {}}
            for kind in (1, 2)
        }
        sessions[base_key] = {
            "registrationId": rng.randrange(1, 2**31),
            "currentRatchet": {
                "ephemeralKeyPair": {"pubKey": _b64(rng, 33), "privKey": _b64(rng, 32)},
                "lastRemoteEphemeralKey": _b64(rng, 33),
                "previousCounter": rng.randrange(0, 40),
                "rootKey": _b64(rng, 32),
            },
            "indexInfo": {
                "baseKey": base_key,
                "baseKeyType": 2,
                "closed": -1,
                "used": used,
                "created": used - 86400000,
                "remoteIdentityKey": _b64(rng, 33),
            },
            "_chains": chains,
        }
    return {"_sessions": sessions, "version": "v1"}


def _sender_key(rng: Random) -> dict[str, object]:
    state = [
        {
            "senderKeyId": rng.randrange(2**31),
            "senderChainKey": {"iteration": rng.randrange(300), "seed": _buffer(rng, 32)},
            "senderSigningKey": {"public": _buffer(rng, 33)},
            "senderMessageKeys": [],
        }
    ]
    return {"type": "Buffer", "data": base64.b64encode(json.dumps(state).encode()).decode()}


def _key(rng: Random, kind: str, index: int, moment: datetime) -> tuple[str, dict[str, object]]:
    person = f"7{9000000000 + index * 7919}"
    if kind == "pre-key":
        return str(index + 1), _pair(rng)
    if kind == "session":
        return f"{person}.{index % 3}", _session(rng, moment)
    if kind == "sender-key":
        return f"1203634{index:011d}@g.us::{person}::0", _sender_key(rng)
    if kind == "sender-key-memory":
        return f"1203634{index:011d}@g.us", {f"{person}:{device}@s.whatsapp.net": True for device in range(3)}
    if kind == "app-state-sync-version":
        patch = ("critical_block", "critical_unblock_low", "regular", "regular_high")[index]
        return patch, {
            "version": rng.randrange(400),
            "hash": _buffer(rng, 128),
            "indexValueMap": {_b64(rng, 32): {"valueMac": _buffer(rng, 32)}},
        }
    identity = base64.b64encode(b"\x00\x00\x00\x00" + rng.randbytes(2)).decode()
    fingerprint = {"rawId": rng.randrange(2**31), "currentIndex": index, "deviceIndexes": [0, index]}
    return identity, {"keyData": _b64(rng, 32), "fingerprint": fingerprint, "timestamp": str(int(moment.timestamp() * 1000))}


def auth_rows(rng: Random, company: int, moment: datetime) -> Iterator[tuple[Value, ...]]:
    """whatsapp_auth (company_id, creds, created_at, updated_at): one row."""
    yield str(company), creds(rng), moment - timedelta(days=400), moment


def key_rows(rng: Random, company: int, moment: datetime) -> Iterator[tuple[Value, ...]]:
    """whatsapp_keys (company_id, key_type, key_id, value, created_at, updated_at, expires_at): 335 rows."""
    for kind, count in KEY_COUNTS.items():
        for index in range(count):
            made = moment - timedelta(seconds=rng.randrange(90 * 86400), microseconds=rng.randrange(10**6))
            key_id, value = _key(rng, kind, index, made)
            yield (
                str(company),
                kind,
                key_id,
                value,
                made,
                made + timedelta(seconds=rng.randrange(86400)),
                None if index % 7 else made + timedelta(days=30),
            )
