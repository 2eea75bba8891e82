#!/usr/bin/python
# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: dotenv
short_description: Declared keys in an environment file, the rest byte for byte as it was
version_added: 0.1.0
description:
  - Sets and removes keys of a C(.env) file as the Node.js package C(dotenv) reads it. Comments, order, blank lines, line ends, quotes,
    C(export) prefixes and bytes that are not UTF-8 stay as they are.
  - Of a key that stands there more than once the last one counts and is edited; removing a key removes all of them.
  - A value is written in the first spelling with which the whole file reads back as meant, the quotes of the line that was there first.
  - Values never show in the result or the diff.
author:
  - cutover.hetzner contributors (@cutover)
extends_documentation_fragment:
  - cutover.hetzner.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  path:
    description: The environment file. A link is followed.
    type: path
    required: true
  set:
    description: Keys and their values. Texts and numbers are taken as written, booleans become C(true) and C(false).
    type: dict
    default: {}
  unset:
    description: Keys that must not be there.
    type: list
    elements: str
    default: []
  required:
    description:
      - Keys that must be there with a value that is not empty, after V(set) and V(unset).
      - When one is missing the module fails before it writes anything, and names all of them in RV(missing).
    type: list
    elements: str
    default: []
  base:
    description: What the file starts from when it does not exist yet, such as the environment file of the old server.
    type: str
  create:
    description: Make the file when it does not exist. Otherwise that is a failure.
    type: bool
    default: true
  backup:
    description: Keep the former file beside the new one, with a time stamp in its name and mode C(0600).
    type: bool
    default: false
  mode:
    description: Mode of the file. Without it a new file gets C(0600) and an existing one keeps its own.
    type: raw
  owner:
    description: Owner of the file. Without it an existing file keeps its owner.
    type: str
  group:
    description: Group of the file. Without it an existing file keeps its group.
    type: str
"""

EXAMPLES = r"""
- name: Point the application at its new database
  cutover.hetzner.dotenv:
    path: /opt/booking/shared/.env
    set:
      DATABASE_URL: "{{ booking_database_url }}"
      REDIS_PASSWORD: "{{ vault_redis_password }}"
    unset: [SUPABASE_KEY]
    required: [DATABASE_URL, REDIS_PASSWORD, AI_API_KEY]
    backup: true
"""

RETURN = r"""
path:
  description: The file itself, links resolved.
  type: str
  returned: always
added:
  description: Keys that were not there.
  type: list
  elements: str
  returned: always
updated:
  description: Keys that had another value.
  type: list
  elements: str
  returned: always
removed:
  description: Keys that were removed.
  type: list
  elements: str
  returned: always
missing:
  description: Required keys that are absent or empty.
  type: list
  elements: str
  returned: always
backup_file:
  description: Where the former file is kept.
  type: str
  returned: when a backup was made
"""

import os
import tempfile
import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.cutover.hetzner.plugins.module_utils._ansible import fail
from ansible_collections.cutover.hetzner.plugins.module_utils.operations import dotenv
from ansible_collections.cutover.hetzner.plugins.module_utils.operations.errors import OperationsError


def read(path: Path, base: str | None, create: bool) -> tuple[str | None, str]:
    """The text of the file (None: it does not exist) and the text to start from."""
    try:
        found = path.read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        if not create:
            raise OperationsError(f"{path} does not exist", "Give the right path, or create: true.") from None
        return None, base or ""
    except OSError as error:
        raise OperationsError(f"{path} cannot be read: {error.strerror}", "Give the path of a regular file.") from error
    return found, found


def write(module: AnsibleModule, path: Path, text: str) -> None:
    """Replace the file in one step; it is never readable by others on the way."""
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise OperationsError(f"nothing can be written in {path.parent}: {error.strerror}", "Create the folder first.") from error
    with os.fdopen(handle, "wb") as file:
        file.write(text.encode("utf-8", "surrogateescape"))
        file.flush()
        os.fsync(file.fileno())
    module.atomic_move(temporary, str(path), keep_dest_attrs=True)


def keep_backup(module: AnsibleModule, path: Path) -> str:
    """A copy of the file as it is now, readable by its owner only."""
    kept = str(module.backup_local(str(path)))
    Path(kept).chmod(0o600)
    return kept


def run(module: AnsibleModule) -> dict[str, t.Any]:
    parameters = module.params
    path = Path(parameters["path"]).resolve()
    found, start = read(path, parameters["base"], parameters["create"])
    values = {key: dotenv.as_text(key, value) for key, value in parameters["set"].items()}
    change = dotenv.edit(start, values, parameters["unset"], parameters["required"])
    result: dict[str, t.Any] = {
        "path": str(path),
        "added": list(change.added),
        "updated": list(change.updated),
        "removed": list(change.removed),
        "missing": list(change.missing),
    }
    if change.missing:
        missing = ", ".join(change.missing)
        raise OperationsError(f"{path} lacks the required {missing}", "Set them; nothing was written.", **result)
    new = found is None
    result["changed"] = new or change.changed
    if module._diff:
        before, after = dotenv.masked(change, start)
        result["diff"] = [{"before_header": str(path), "after_header": str(path), "before": "" if new else before, "after": after}]
    if module.check_mode and new:
        return result
    if result["changed"] and not module.check_mode:
        if parameters["backup"] and not new:
            result["backup_file"] = keep_backup(module, path)
        write(module, path, change.text)
    wanted = dict(parameters, path=str(path), mode=parameters["mode"] or ("0600" if new else None))
    attributes = module.load_file_common_arguments(wanted)
    result["changed"] = module.set_fs_attributes_if_different(attributes, result["changed"])
    return result


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "set": {"type": "dict", "default": {}, "no_log": True},
            "unset": {"type": "list", "elements": "str", "default": [], "no_log": False},
            "required": {"type": "list", "elements": "str", "default": [], "no_log": False},
            "base": {"type": "str", "no_log": True},
            "create": {"type": "bool", "default": True},
            "backup": {"type": "bool", "default": False},
            "mode": {"type": "raw"},
            "owner": {"type": "str"},
            "group": {"type": "str"},
        },
        supports_check_mode=True,
    )
    # What is masked in the result is searched for as text: a value such as "1" or "true" would blot out paths and names.
    module.no_log_values = {value for value in module.no_log_values if len(value) >= 6}
    # The arguments would show the values too short for that.
    shown = dict.fromkeys(module.params["set"], "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER")
    try:
        result = run(module)
    except OperationsError as error:
        module.params = dict(module.params, set=shown)
        fail(module, error, missing=error.details.get("missing", []))
    module.params = dict(module.params, set=shown)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
