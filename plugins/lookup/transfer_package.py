# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The data engine of this collection as one archive, for a machine that runs it without Ansible."""

from __future__ import annotations

DOCUMENTATION = r"""
name: transfer_package
short_description: The data engine of this collection as one archive
version_added: 0.1.0
author: cutover.hetzner contributors (@cutover)
description:
  - Packs the Python package that copies, streams and verifies databases, as it lies in this collection on the controller, under another name.
  - The same files always make the same archive. Used by role P(cutover.hetzner.change_stream#role).
options:
  _terms:
    description: Name of the package in the archive, once. By default V(cutover_transfer).
    type: list
    elements: str
    required: false
"""

EXAMPLES = r"""
- name: Show which version of the data engine this collection brings
  ansible.builtin.debug:
    msg: "{{ lookup('cutover.hetzner.transfer_package').version }}"
"""

RETURN = r"""
_list:
  description: One dictionary with C(version), sixteen hexadecimal digits that name the contents, and C(archive), a zip file in Base64.
  type: list
  elements: dict
"""

import base64
import hashlib
import io
import pathlib
import typing as t
import zipfile

from ansible.plugins.lookup import LookupBase
from ansible_collections.cutover.hetzner.plugins.module_utils import transfer

EPOCH = (1980, 1, 1, 0, 0, 0)


def packed(folder: pathlib.Path, name: str) -> dict[str, str]:
    """The Python files below a folder as a package of this name: C(version) of their contents, C(archive) in Base64."""
    files = {f"{name}/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in sorted(folder.rglob("*.py"))}
    digest = hashlib.sha256()
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in files.items():
            digest.update(f"{path}\0{len(data)}\0".encode() + data)
            entry = zipfile.ZipInfo(path, EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    return {"version": digest.hexdigest()[:16], "archive": base64.b64encode(made.getvalue()).decode()}


class LookupModule(LookupBase):
    """Packs the folder that the package is imported from."""

    def run(self, terms: list[str], variables: dict[str, t.Any] | None = None, **kwargs: t.Any) -> list[dict[str, str]]:
        """One dictionary per name."""
        folder = pathlib.Path(str(transfer.__file__)).parent
        return [packed(folder, name) for name in terms or ["cutover_transfer"]]
