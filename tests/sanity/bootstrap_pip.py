"""Puts pip into an empty virtual environment of ansible-test, from the wheel that Python brings.

ansible-test would download a script for this from a server of its own and takes a file with the script's name
in its cache instead: tests/tools/sanity.sh puts this one there. Arguments are those of that script: packages
and options for ``pip install``, and two switches that have no meaning here.
"""

from __future__ import annotations

import ensurepip
import os
import subprocess
import sys

environment = dict(os.environ)  # before ensurepip turns pip's configuration off for this process
ensurepip.bootstrap(default_pip=True)
arguments = [argument for argument in sys.argv[1:] if argument not in ("--no-setuptools", "--no-wheel")]
raise SystemExit(subprocess.call([sys.executable, "-m", "pip", "install", "--quiet", *arguments], env=environment))
