#!/usr/bin/env bash
# sanity.sh [TEST...]: ansible-test sanity over a copy of the files that belong to the tree, as a collection must be placed for it
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$PWD/.cache/sanity
copy=$work/ansible_collections/cutover/hetzner
home=$work/home
rm -rf "$work/ansible_collections"
mkdir -p "$copy" "$home/.ansible/test/cache"
# Without the committed link below .collections: the copy would contain itself.
git ls-files -zco --exclude-standard -- . ':!:.collections' | while IFS= read -r -d '' name; do [ ! -e "$name" ] || printf '%s\0' "$name"; done |
  xargs -0 cp --parents -t "$copy"
# ansible-test keeps its virtual environments in the home folder: this one belongs to the checkout. It also empties
# the environment, so what pip is told there or in the real home must be a file in this one.
mkdir -p "$home/.config/pip"
settings='cert|default-timeout|extra-index-url|find-links|index-url|proxy|timeout|trusted-host'
(umask 077; { echo '[global]'; python -m pip config list | sed -nE "s/^(:env:|global)\.($settings)='(.*)'$/\2 = \3/p" | awk '!seen[$1]++'; } \
  >"$home/.config/pip/pip.conf")
# The name under which ansible-core 2.19 looks for it; see there.
cp tests/sanity/bootstrap_pip.py "$home/.ansible/test/cache/get_pip_24_2.py"
unset PYTHONPATH ANSIBLE_CONFIG ANSIBLE_HOME ANSIBLE_COLLECTIONS_PATH
cd "$copy"
git init -q
git add -A
wanted=()
for name in "$@"; do wanted+=(--test "$name"); done
HOME=$home ansible-test sanity --color no --truncate 0 --python "$(python -c 'import sys; print("%d.%d" % sys.version_info[:2])')" "${wanted[@]}"
