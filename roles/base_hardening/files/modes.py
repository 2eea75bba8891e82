"""Sets the modes of files that exist, or (argument ``check``) only compares.

Standard input: {path: octal mode} as JSON. Standard output: {"changes": [words]}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> None:
    changes = []
    for name, mode in json.load(sys.stdin).items():
        path, wanted = Path(name), int(mode, 8)
        # Never wider than it is: somebody may have closed it further.
        found = path.stat().st_mode & 0o7777 if path.exists() else 0
        if found & ~wanted:
            changes.append(f"{name}: {found:04o} -> {found & wanted:04o}")
            if sys.argv[1] == "set":
                path.chmod(found & wanted)
    sys.stdout.write(json.dumps({"changes": changes}) + "\n")


if __name__ == "__main__":
    main()
