#!/bin/busybox sh
# The first process of the machine with the switch: Linux's bridge with VLANs, three machines on it each in a VLAN of its own, and
# all of them on the trunk, the machine's only card. Then a shell at the second serial line, for whoever started it.

export PATH=/bin HOME=/
busybox mount -t devtmpfs devtmpfs /dev
busybox mount -t proc proc /proc
busybox mount -t sysfs sysfs /sys
busybox mount -t tmpfs tmpfs /run
busybox mount -t tmpfs tmpfs /tmp
while read -r module; do
    busybox insmod "$module" || echo "cannot load $module"
done </modules
# The shell has one of its own, which knows less.
ip() {
    /bin/ip "$@"
}
ip link set lo up

ip link add br0 type bridge vlan_filtering 1 vlan_default_pvid 0 stp_state 0
ip link set br0 up
ip link set eth0 master br0 up
for number in 1 2 3; do
    ip netns add "vm$number"
    ip link add "port$number" type veth peer name eth0 netns "vm$number"
    ip link set "port$number" master br0 up
    bridge vlan add dev "port$number" vid "10$number" pvid untagged
    bridge vlan add dev eth0 vid "10$number"
    ip -n "vm$number" link set eth0 address "02:00:00:00:01:0$number" up
    ip -n "vm$number" addr add "10.1.0.1$number/24" dev eth0
    ip -n "vm$number" addr add "fd00:1::1$number/64" dev eth0 nodad
    ip -n "vm$number" link set lo up
done
busybox mkdir /www
echo "the page of vm2" >/www/index.html
ip netns exec vm2 busybox httpd -p 80 -h /www
ip netns exec vm3 busybox httpd -p 80 -h /www

busybox stty -F /dev/ttyS1 raw -echo
exec >/dev/ttyS1 2>&1
echo "##### ready"
. /dev/ttyS1
