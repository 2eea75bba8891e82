# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Shows how far a copy of rows is. Documented with the module of the same name."""

from __future__ import annotations

from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import progress
from ansible_collections.cutover.hetzner.plugins.plugin_utils.progress import ProgressAction


class ActionModule(ProgressAction):
    """Runs the module and prints rows, bytes, rate and time left."""

    parse = staticmethod(progress.parse)
    lines = staticmethod(progress.lines)
