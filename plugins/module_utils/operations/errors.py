# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The one error of the operations clients."""

from __future__ import annotations

from typing import Any


class OperationsError(Exception):
    """What was found, what to do next, and facts for a machine.

    message: what was found and what was expected, naming the object (never a secret)
    remedy: the next thing to do, a sentence or a statement to run
    details: plain data (str, int, list, dict) for the module's result
    """

    def __init__(self, message: str, remedy: str = "", **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.details = details
