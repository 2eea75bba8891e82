# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""``install.py LIBRARY VERSION < archive``: one version of the data engine, complete in its folder or not there."""

from __future__ import annotations

import base64
import compileall
import io
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path


def install(library: Path, version: str, archive: bytes, entry: str) -> None:
    """Unpack a zip file into ``library/version`` and see that ``entry`` can be imported with this Python before anybody may find it there."""
    draft = library / f".{version}.new"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    with zipfile.ZipFile(io.BytesIO(archive)) as packed:
        packed.extractall(draft)
    environment = {**os.environ, "PYTHONPATH": str(draft), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", f"import {entry}"], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(draft)
        sys.exit(f"{sys.executable} (Python {sys.version.split()[0]}) cannot run the engine:\n{done.stderr}")
    compileall.compile_dir(draft, quiet=2, stripdir=str(draft), prependdir=str(library / version))
    for path in [draft, *draft.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    draft.rename(library / version)


if __name__ == "__main__":
    os.umask(0o022)
    install(Path(sys.argv[1]), sys.argv[2], base64.b64decode(sys.stdin.read()), sys.argv[3])
