#!/bin/sh
# Private, writable copies of the host-wide kernel settings: what a machine writes sticks until its next boot and reaches no other.
set -e
copies=/run/localcloud-sysctl
mount --make-private /proc/sys
# The machine has a network of its own, so these are its own already; they only have to be writable.
mount --bind /proc/sys/net /proc/sys/net
mount -o remount,bind,rw,nosuid,nodev,noexec /proc/sys/net
mkdir -p $copies
mount -t tmpfs -o mode=755 localcloud-sysctl $copies
mount --make-private $copies
mkdir $copies/real
mount --rbind /proc/sys $copies/real # with what is mounted in it: every boot has its own boot_id
mount --make-rprivate $copies/real
cp -r /usr/lib/localcloud/sysctl/. $copies/
for tree in kernel vm fs dev; do mount --bind $copies/$tree /proc/sys/$tree; done
for live in kernel/random kernel/hostname kernel/domainname fs/file-nr; do mount --rbind $copies/real/$live /proc/sys/$live; done
