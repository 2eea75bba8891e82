#!/usr/bin/env bash
# Everything that can be judged without running it, two checks at a time, cheapest first. Runs all, then says which failed.
#
# ansible-test's sanity tests all run, with no ignore file, except for what this machine or this collection has no part in:
#   pslint              has nothing to judge: the collection has no PowerShell, so that no pwsh is needed
#   compile, import     for this Python only: the others are not installed (all files say from which version on they run)
#   integration-aliases, the code-smell tests of ansible-core itself: not offered for collections
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
logs=.cache/lint
mkdir -p "$logs"
exec 9>"$logs/lock"
flock -w 900 9 || { echo "another lint of this checkout has been running for 15 minutes" >&2; exit 1; }
rm -f "$logs"/*.log "$logs"/*.failed
tests/tools/apt_ensure.sh shellcheck || exit 1

run() { # NAME COMMAND...
  local name=$1 begin word; shift
  begin=$(date +%s%N)
  if "$@" >"$logs/$name.log" 2>&1 9>&- </dev/null; then word=ok; else word=FAILED; touch "$logs/$name.failed"; fi
  printf '  %-18s %-6s %6d ms\n' "$name" "$word" $((($(date +%s%N) - begin) / 1000000))
}
check() {
  while [ "$(jobs -rp | wc -l)" -ge 2 ]; do wait -n; done
  run "$@" &
}
# Not tests/unit and tests/integration: they hand wrong types over on purpose and read what hcloud declares optional.
typed=(plugins roles/*/files/*.py tests/localcloud tests/mirror tests/tools tests/e2e tests/sanity tests/bench)
mapfile -t scripts < <(git ls-files -co --exclude-standard -- '*.sh' .ci/run)

check ruff ruff check .
check ruff-format ruff format --check .
check tree python tests/tools/check_tree.py
check argument-specs python tests/tools/check_argument_specs.py
check changelog antsibull-changelog lint
check shellcheck shellcheck "${scripts[@]}"
check yamllint yamllint --strict .
check mypy env MYPYPATH=.collections:tests mypy "${typed[@]}"
check ansible-doc python tests/tools/check_docs.py
check docs antsibull-docs lint-collection-docs --plugin-docs --disallow-unknown-collection-refs .
check sanity tests/tools/sanity.sh
check ansible-lint ansible-lint
wait

failed=()
for mark in "$logs"/*.failed; do
  [ -e "$mark" ] || continue
  name=$(basename "$mark" .failed)
  failed+=("$name")
  echo "== $name ($logs/$name.log)"
  tail -n 60 "$logs/$name.log"
done
if [ ${#failed[@]} -gt 0 ]; then echo "lint failed: ${failed[*]}"; exit 1; fi
