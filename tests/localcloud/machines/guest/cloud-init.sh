#!/bin/sh
# Stand-in for cloud-init's command: `cloud-init status [--wait]`, with its words and exit codes.
[ "${1:-}" = status ] || { echo "cloud-init: this machine only knows: cloud-init status [--wait]" >&2; exit 2; }
[ "${2:-}" != --wait ] || for _ in $(seq 18000); do
  [ ! -e /var/lib/cloud/instance/boot-finished ] || break
  sleep 0.1
done
if [ -e /var/lib/cloud/instance/errors ]; then
  echo "status: error"
  cat /var/lib/cloud/instance/errors >&2
  exit 1
elif [ -e /var/lib/cloud/instance/boot-finished ]; then
  echo "status: done"
else
  echo "status: running"
fi
