#!/bin/sh
# First process of an instance's mount, network and process namespaces: supervise.sh READY-FILE UPLINK-PEER-FILE
# When it dies, the kernel takes every machine, link and mount of the instance with it.
set -e
mount --make-rprivate /
umount -R /sys/fs/cgroup
mount -t sysfs sysfs /sys
mount -t cgroup2 none /sys/fs/cgroup
mkdir -p /run/systemd /run/netns
mount -t tmpfs tmpfs /run/systemd
mount -t tmpfs tmpfs /run/netns
ip link set lo up
cd /proc/sys/net
echo 1 >ipv4/ip_forward
echo 1 >ipv6/conf/all/forwarding
# The router answers for what lies behind it.
echo 1 >ipv4/conf/default/proxy_arp
for switch in bridge/bridge-nf-call-iptables bridge/bridge-nf-call-ip6tables bridge/bridge-nf-call-arptables; do
  [ ! -e "$switch" ] || echo 0 >"$switch"
done
cd /
touch "$1"
while :; do
  sleep 3600 &
  wait $!
done
