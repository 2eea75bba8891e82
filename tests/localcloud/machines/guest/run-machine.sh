#!/bin/sh
# Runs one machine inside the instance's namespaces until it powers off: run-machine.sh DIR SLOT CGROUP
# A reboot inside the machine ends systemd-nspawn with 133; every boot gets a fresh network namespace, as a real boot would.
dir=$1 slot=$2 group=/sys/fs/cgroup/$3/m$2 net=m$2
mkdir -p "$group" && echo $$ >"$group/cgroup.procs" || exit 1

unplug() {
  for link in /sys/class/net/p"$slot" /sys/class/net/q"$slot"-*; do
    [ ! -e "$link" ] || ip link del "${link##*/}"
  done
  [ ! -e /run/netns/"$net" ] || ip netns del "$net"
}

# What runs in the machine's own mount namespace.
boot=$(
  cat <<'BOOT'
mount -t overlay overlay -o "$(cat "$MACHINE_DIR/overlay")" "$MACHINE_DIR/root" || exit 1
set --
while read -r option; do set -- "$@" "$option"; done <"$MACHINE_DIR/options"
exec nsenter --net=/run/netns/"$MACHINE_NET" systemd-nspawn -q -D "$MACHINE_DIR/root" -b --register=no --keep-unit --console=pipe --machine="$MACHINE_NET" \
  --capability=all --system-call-filter="@keyring bpf" \
  --link-journal=no --resolv-conf=off --timezone=off "$@"
BOOT
)

while :; do
  # The lock keeps a change of the declared interfaces from falling between the two halves of plugging in.
  exec 9>"$dir/lock"
  flock -w 20 9 || exit 1
  unplug
  while read -r bridge; do
    ip link add "$bridge" type bridge 2>/dev/null # another machine may have made it, also just now
    ip link set "$bridge" up || exit 1
  done <"$dir/bridges"
  ip netns add "$net" && ip -batch "$dir/links" && ip -n "$net" -batch "$dir/addresses" || exit 1
  exec 9>&-
  MACHINE_DIR=$dir MACHINE_NET=$net unshare -m --propagation slave sh -c "$boot"
  [ $? = 133 ] || break
done
unplug
rm -f "$dir/on"
