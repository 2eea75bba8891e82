#!/bin/sh
# The marker comes last and also after a failure: whoever waits for it must not wait for ever.
mkdir -p /var/lib/cloud/instance
result=0
if [ -s /var/lib/cloud/instance/user-data.txt ]; then
  python3 /usr/lib/localcloud/firstboot.py final >>/var/log/cloud-init-output.log 2>&1 || result=$?
fi
date -u +%FT%TZ >/var/lib/cloud/instance/boot-finished
exit $result
