# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The one place where engine errors become module failures, and where shared argument shapes live."""

from __future__ import annotations

import pathlib
import typing as t

if t.TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


def endpoint_options(required: bool = True) -> dict[str, t.Any]:
    """Argument shape of ``source`` and ``target``, the same in every pg_ module."""
    return {
        "type": "dict",
        "required": required,
        "options": {
            "dsn": {"type": "str", "no_log": True},
            "host": {"type": "str"},
            "port": {"type": "int", "default": 5432},
            "dbname": {"type": "str"},
            "user": {"type": "str"},
            "password": {"type": "str", "no_log": True},
            "sslmode": {
                "type": "str",
                "choices": ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"],
                "default": "prefer",
            },
            "sslrootcert": {"type": "path"},
            "flavour": {"type": "str", "choices": ["postgresql", "supabase"], "default": "postgresql"},
            "rest": {
                "type": "dict",
                "options": {
                    "url": {"type": "str", "required": True},
                    "key": {"type": "str", "required": True, "no_log": True},
                    "unique": {"type": "dict", "default": {}},
                    "page_rows": {"type": "int", "default": 5000},
                },
            },
        },
        "mutually_exclusive": [("dsn", "host"), ("dsn", "rest"), ("host", "rest")],
        "required_one_of": [("dsn", "host", "rest")],
    }


def selection_options() -> dict[str, t.Any]:
    """Argument shape of ``include``, ``exclude`` and ``rename``."""
    return {
        "include": {"type": "list", "elements": "str", "default": []},
        "exclude": {"type": "list", "elements": "str", "default": []},
        "rename": {
            "type": "dict",
            "default": {},
            "options": {
                "schemas": {"type": "dict", "default": {}},
                "tables": {"type": "dict", "default": {}},
                "columns": {"type": "dict", "default": {}},
            },
        },
    }


def progress_writer(module: AnsibleModule) -> t.Callable[[str], None] | None:
    """What keeps the latest text in the module's ``progress_path``, replaced as a whole; None without a path and in check mode.

    A file that cannot be written ends in a warning: what is shown must not stop what is done.
    """
    path = module.params["progress_path"]
    if not path or module.check_mode:
        return None
    final = pathlib.Path(path)
    draft = final.with_name(f".{final.name}.new")
    lost = False

    def write(text: str) -> None:
        nonlocal lost
        try:
            draft.write_text(text, encoding="utf-8")
            draft.replace(final)
        except OSError as error:
            if not lost:
                module.warn(f"Progress cannot be written to {path}: {error}. The work goes on without.")
            lost = True

    return write


def fail(module: AnsibleModule, error: Exception, **result: t.Any) -> t.NoReturn:
    """End the module with an engine's error: message, remedy and details under fixed names.

    error: an engine error (``message``, ``remedy``, ``details``) or any other exception
    result: what the module already knows, returned beside the failure
    """
    message = getattr(error, "message", None) or f"{type(error).__name__}: {error}"
    remedy = getattr(error, "remedy", "")
    details = getattr(error, "details", {})
    module.fail_json(
        msg=f"{message.rstrip('.')}. {remedy}".strip() if remedy else message,
        problem=message,
        remedy=remedy,
        details=details,
        **result,
    )
    raise AssertionError("fail_json returned")
