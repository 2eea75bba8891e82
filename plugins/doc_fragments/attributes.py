# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Attribute documentation shared by all modules."""

from __future__ import annotations


class ModuleDocFragment:
    """check_mode, diff_mode and idempotent, as this collection means them."""

    DOCUMENTATION = r"""
attributes:
  check_mode:
    description: Says what would be done and changes nothing.
  diff_mode:
    description: Returns what changes, or would change, as before and after.
  idempotent:
    description: A second run with the same arguments changes nothing.
"""
