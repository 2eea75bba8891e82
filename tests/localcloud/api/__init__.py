"""The Hetzner Cloud API of the local cloud."""

from __future__ import annotations

from .app import create_app

__all__ = ["create_app"]
