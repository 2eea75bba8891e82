# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The module that takes a topology: private keys in it are kept out of the system's log and of what is returned."""

from __future__ import annotations

import typing as t

from ansible.module_utils.basic import AnsibleModule

from .hetzner import certificates


class StackModule(AnsibleModule):
    """A topology is one parameter of any shape, so its keys cannot be marked in the argument specification."""

    params: dict[str, t.Any]

    def _log_invocation(self) -> None:
        """Called before anything else is done with the parameters. In the log's one line a key could not be found again, so it gets none."""
        secret = certificates.secrets(self.params.get("topology"))
        self.no_log_values |= secret
        given: dict[str, t.Any] = self.params
        try:
            if secret:
                self.params = {**given, "topology": "NOT_LOGGING_PARAMETER"}
            super()._log_invocation()
        finally:
            self.params = given
