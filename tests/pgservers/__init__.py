"""PostgreSQL servers for tests and benchmarks: programs of majors 14 to 18, and servers that live no longer than their process."""

from .bouncer import Bouncer, bouncer
from .cluster import Cluster
from .programs import MAJORS, ProgramsError, client_programs, debian_programs, server_programs
from .server import PASSWORD, SETTINGS, Fleet, Server

__all__ = [
    "MAJORS",
    "PASSWORD",
    "SETTINGS",
    "Bouncer",
    "Cluster",
    "Fleet",
    "ProgramsError",
    "Server",
    "bouncer",
    "client_programs",
    "debian_programs",
    "server_programs",
]
