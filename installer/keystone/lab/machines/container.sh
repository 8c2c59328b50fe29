#!/bin/sh
# Set up a container machine in its new namespaces, then become its process 1. lab/machines/container.py
# starts this script:
#
#   unshare --mount --uts --ipc --net --pid --fork --kill-child sh container.sh FOLDER cgroup1|cgroup2 INIT-WORD...
#
# FOLDER has all other inputs as files, so that no name is ever a shell word:
#   groups         folders of control groups, one per line; this process enters each
#   controllers    cgroup v1: options of the hierarchies, one per line ("cpu,cpuacct", "name=systemd")
#   lower/N        the lower layers, 0 is the uppermost; upper, work: of this machine
#   containerd     a plain folder, since containerd mounts overlays in it, which an overlay does not support
#   media          files of the stick, mounted read-only at /media/keystone
#   credentials/   identity of the machine (systemd.system-credentials(7)); boot_id, uuid
# Requirements of systemd: https://systemd.io/CONTAINER_INTERFACE.
set -eu
folder=$1 version=$2
shift 2

if [ "${KEYSTONE_INSIDE:-}" != yes ]; then
    # Enter the groups before making the cgroup namespace: they become its root.
    while read -r group; do
        echo 0 >"$group/cgroup.procs"
    done <"$folder/groups"
    KEYSTONE_INSIDE=yes exec unshare --cgroup -- sh "$0" "$folder" "$version" "$@"
fi

console=$(readlink /proc/self/fd/0)
mount --make-rprivate /
cd "$folder"
layers=""
number=0
while [ -e "lower/$number" ]; do
    layers="$layers${layers:+:}lower/$number"
    number=$((number + 1))
done
mount -t overlay machine -o "lowerdir=$layers,upperdir=upper,workdir=work" root
mkdir -p root/var/lib/containerd root/media/keystone
mount --bind containerd root/var/lib/containerd
mount --bind media root/media/keystone
mount -o remount,bind,ro root/media/keystone

mount -t tmpfs -o mode=755,nosuid,nodev run root/run
mkdir -p root/run/host/credentials root/run/host/old
cp credentials/* root/run/host/credentials/
chmod -R go= root/run/host/credentials
cp boot_id root/run/host/boot_id

mount -t proc -o nosuid,nodev,noexec proc root/proc
# Sysctls that are not of a namespace belong to the host: read-only.
mount --bind root/proc/sys root/proc/sys
mount -o remount,bind,ro root/proc/sys
mount --bind root/proc/sys/net root/proc/sys/net
mount -o remount,bind,rw root/proc/sys/net
mount --bind root/run/host/boot_id root/proc/sys/kernel/random/boot_id
if [ -e root/proc/sysrq-trigger ]; then
    mount --bind root/proc/sysrq-trigger root/proc/sysrq-trigger
    mount -o remount,bind,ro root/proc/sysrq-trigger
fi

mount -t sysfs -o nosuid,nodev,noexec sysfs root/sys
if [ "$version" = cgroup2 ]; then
    mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 root/sys/fs/cgroup
else
    mount -t tmpfs -o mode=755,nosuid,nodev,noexec cgroup root/sys/fs/cgroup
    while read -r options; do
        place=root/sys/fs/cgroup/${options#name=}
        mkdir "$place"
        case $options in
        name=*) mount -t cgroup -o "nosuid,nodev,noexec,none,$options" cgroup "$place" ;;
        *,*)
            mount -t cgroup -o "nosuid,nodev,noexec,$options" cgroup "$place"
            for one in $(echo "$options" | tr , ' '); do
                ln -s "$options" "root/sys/fs/cgroup/$one"
            done
            ;;
        *) mount -t cgroup -o "nosuid,nodev,noexec,$options" cgroup "$place" ;;
        esac
    done <controllers
fi
# Read-only /sys also tells systemd that there is no udev (systemd.io/CONTAINER_INTERFACE).
mount -o remount,bind,ro root/sys

mount -t tmpfs -o mode=755,nosuid,size=4m dev root/dev
mkdir -p root/dev/pts root/dev/shm root/dev/net
for node in null zero full random urandom tty fuse net/tun; do
    if [ -e "/dev/$node" ]; then
        : >"root/dev/$node"
        mount --bind "/dev/$node" "root/dev/$node"
    fi
done
: >root/dev/console
mount --bind "$console" root/dev/console
mount -t devpts -o newinstance,nosuid,noexec,ptmxmode=0666,mode=620,gid=5 devpts root/dev/pts
mount -t tmpfs -o mode=1777,nosuid,nodev shm root/dev/shm
ln -s pts/ptmx root/dev/ptmx
ln -s /proc/self/fd root/dev/fd
ln -s fd/0 root/dev/stdin
ln -s fd/1 root/dev/stdout
ln -s fd/2 root/dev/stderr

uuid=$(cat uuid)
cd root
pivot_root . run/host/old
umount -l /run/host/old
rmdir /run/host/old
mount --make-rshared /
# The clock, modules, raw devices and the host's log belong to the host.
exec setpriv --bounding-set=-sys_time,-sys_module,-sys_rawio,-syslog,-mac_admin,-mac_override,-wake_alarm,-block_suspend \
    env -i container=keystone "container_uuid=$uuid" CREDENTIALS_DIRECTORY=/run/host/credentials \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb /sbin/init "$@"
