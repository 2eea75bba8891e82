"""PostgREST itself, the official static binary, before a test database; and a gateway in front of it that plays the hosted platform and its bad days."""

from .gateway import Asked, Fault, Gateway
from .program import SECRET_KEY, PostgREST, token

__all__ = ["SECRET_KEY", "Asked", "Fault", "Gateway", "PostgREST", "token"]
