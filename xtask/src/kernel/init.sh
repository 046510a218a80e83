#!/bin/busybox sh
# The first process of the emulated machine: mounts what a Linux system has, loads the modules, runs every story, and
# turns the machine off. What begins with "#####" is read by verdict.rs.

export PATH=/bin HOME=/
busybox mount -t devtmpfs devtmpfs /dev
# The console belongs to the kernel, whose messages could break a line of ours in two.
exec >/dev/ttyS1 2>&1
busybox mount -t proc proc /proc
busybox mount -t sysfs sysfs /sys
busybox mount -t bpf bpf /sys/fs/bpf
busybox mount -t cgroup2 cgroup2 /sys/fs/cgroup
busybox mount -t tmpfs tmpfs /run
busybox mount -t tmpfs tmpfs /tmp
# An lldpad keeps memory there that it shares with others.
busybox mkdir /dev/shm
# What stories and the runner call by their own names
for applet in cat mount printf sh timeout tr; do
  busybox ln -s busybox "/bin/$applet"
done

while read -r module; do
  busybox insmod "$module" || echo "cannot load $module"
done </modules
busybox ip link set lo up
echo "##### kernel $(busybox uname -r)"

# Since the machine was turned on.
seconds() {
  read -r uptime _ </proc/uptime
  echo "${uptime%.*}"
}

cd /
for topology in labs/*/topology.toml; do
  folder=${topology%/*}
  story=${folder#labs/}
  began=$(seconds)
  # $story_seconds comes from the kernel's command line. Asked to stop, eastgate says so; one that hangs does not.
  # Not `auto`: what the kernel does not take is to be seen, not worked around.
  EASTGATE_DATAPLANE=ebpf busybox timeout -k 10 "$story_seconds" eastgate lab check "$folder"
  code=$?
  echo "##### story $story exit $code seconds $(($(seconds) - began))"
done
busybox poweroff -f
