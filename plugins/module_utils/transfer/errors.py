# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The one error of the data engine."""

from __future__ import annotations

from typing import Any, TypeVar

T = TypeVar("T")


class TransferError(Exception):
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


def certain(value: T | None, what: str) -> T:
    """The value, which by construction is there: the one row of a query that always gives one, for example.

    what: what the value is, for the message. Raises TransferError when it is missing all the same.
    """
    if value is None:
        raise TransferError(
            f"{what} is missing, which cannot be", "Report this as a fault of cutover.hetzner, with the version of the server."
        )
    return value
