#!/bin/bash
# Boots the systemd of this machine as a container on a throw-away overlay of this machine's own root, runs one program
# (or of ROOT) in it as a unit, prints what that wrote, and returns its exit status.
# usage: [ROOT=DIR] [SHOW=DIR] booted-systemd.sh EXCHANGE COMMAND...   as root; packages systemd-container and dbus; no network
# SHOW is a folder that the guest sees, read-only, where this machine has it: a guest has a /tmp of its own.
# EXCHANGE is a folder that both see as /exchange; the guest's console is in EXCHANGE/console.
set -euo pipefail
exchange=$(realpath "$1")
shift
within_s=300
lower=${ROOT:-/}
show=${SHOW:-$exchange}

work=$(mktemp -d /tmp/booted-systemd.XXXXXX)
cgroup=/sys/fs/cgroup/unified # with both versions mounted; the guest is to see only the second
[ -d $cgroup ] || cgroup=/sys/fs/cgroup
cgroup=$cgroup/$(basename "$work")
mkdir -p "$cgroup" "$work/units/multi-user.target.wants" "$work/overlay"
clean() {
  { echo 1 >"$cgroup/cgroup.kill"; } 2>/dev/null || true
  for _ in $(seq 50); do # a killed process is in its group a little longer
    find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null && break
    sleep 0.1
  done
  rm -rf --one-file-system "$work"
}
trap clean EXIT

cat >"$work/units/guest.service" <<UNIT
[Unit]
After=dbus.service sockets.target
[Service]
Type=oneshot
ExecStart=/usr/local/lib/systemd/system/guest.sh
StandardOutput=append:/exchange/output
StandardError=inherit
TimeoutStartSec=$within_s
ExecStopPost=/bin/sh -c 'echo "\$EXIT_STATUS" >/exchange/status; systemctl poweroff --no-block'
UNIT
ln -s ../guest.service "$work/units/multi-user.target.wants/"
{
  echo '#!/bin/sh'
  printf 'exec'
  printf ' %q' "$@"
  echo
} >"$work/units/guest.sh"
chmod +x "$work/units/guest.sh"
rm -f "$exchange/status"
: >"$exchange/output"

# In a mount namespace of its own, and ended with this script: a kill of it leaves nothing behind.
(
  echo $BASHPID >"$cgroup/cgroup.procs"
  export work exchange within_s lower show
  exec unshare --mount --propagation private bash -c '
    mount -t tmpfs tmpfs "$work/overlay"
    cd "$work/overlay" && mkdir upper scratch root
    mount -t overlay overlay -o lowerdir="$lower",upperdir=upper,workdir=scratch root
    : >root/etc/machine-id
    rm -rf root/etc/systemd/system/*.wants/* root/var/log/journal
    rm -f root/usr/sbin/policy-rc.d # images of containers forbid packages to start their services
    # SYSTEMD_SECCOMP=0: the filters are refused where this machine is a container itself.
    SYSTEMD_SECCOMP=0 SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 \
      exec setpriv --pdeathsig TERM timeout "$within_s" systemd-nspawn \
      --register=no --keep-unit --private-network --quiet -D root \
      --bind="$exchange:/exchange" --bind-ro="$show" --bind-ro="$work/units:/usr/local/lib/systemd/system" \
      --boot systemd.unit=multi-user.target </dev/null'
) >"$exchange/console" 2>&1 || true # its status says nothing of the guest's program

cat "$exchange/output"
if [ ! -s "$exchange/status" ]; then
  echo "error: the guest did not come to its end; its console:" >&2
  tail -n 20 "$exchange/console" >&2
  exit 99
fi
exit "$(cat "$exchange/status")"
