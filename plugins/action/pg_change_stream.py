# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Shows how far a stream is that is waited for. Documented with the module of the same name."""

from __future__ import annotations

from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream import waiting
from ansible_collections.cutover.hetzner.plugins.plugin_utils.progress import ProgressAction


class ActionModule(ProgressAction):
    """Runs the module and prints lag, rates and time left."""

    parse = staticmethod(waiting.parse)
    lines = staticmethod(waiting.lines)
