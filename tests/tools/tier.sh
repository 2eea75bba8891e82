#!/usr/bin/env bash
# tier.sh NAME COMMAND...: run one tier of the tests, say how long it took and remember that for the summary
set -uo pipefail
name=$1; shift
mkdir -p .cache
begin=$(date +%s.%N)
echo "== $name"
"$@"; code=$?
seconds=$(echo "$(date +%s.%N) - $begin" | bc 2>/dev/null || awk "BEGIN{print $(date +%s.%N)-$begin}")
printf '%8.1f s  %s%s\n' "$seconds" "$name" "$([ $code -eq 0 ] || echo "  FAILED ($code)")" | tee -a .cache/tiers.txt
exit $code
