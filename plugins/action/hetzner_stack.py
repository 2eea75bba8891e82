# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Shows how far a stack is. Documented with the module of the same name."""

from __future__ import annotations

from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner import progress
from ansible_collections.cutover.hetzner.plugins.plugin_utils.progress import ProgressAction


class ActionModule(ProgressAction):
    """Runs the module and prints how many resources are done and which are waited for."""

    parse = staticmethod(progress.parse)
    lines = staticmethod(progress.lines)
