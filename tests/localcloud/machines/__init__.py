"""Servers that are real systemd machines: ``NspawnBackend``."""

from localcloud.machines.nspawn import NspawnBackend

__all__ = ["NspawnBackend"]
