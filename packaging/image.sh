#!/bin/sh
# Makes an appliance of a bare Debian: `cargo xtask image` has mmdebstrap call it, with the package beside it.
#   $1  the root        $2  eastgate's package        $3  packaging/image
set -eu

root=$1 package=$2 files=$3

cp "$package" "$root/eastgate.deb"
chroot "$root" apt-get install -y -qq --no-install-recommends /eastgate.deb
rm "$root/eastgate.deb"

# Modes and owners are those of an installed system, whatever they are in a checkout.
cp -R --no-preserve=mode,ownership "$files/." "$root/"
chmod 0755 "$root"/usr/lib/eastgate/* "$root"/etc/systemd/system-generators/* "$root/etc/initramfs-tools/hooks/eastgate" \
    "$root"/etc/initramfs-tools/scripts/*/eastgate
chmod 0440 "$root/etc/sudoers.d/admin"

chroot "$root" useradd --create-home --shell /bin/bash --groups sudo admin
install -d -m 0700 "$root/home/admin/.ssh"
chroot "$root" chown admin:admin /home/admin/.ssh
chroot "$root" systemctl --quiet enable eastgate-seed eastgate-cards eastgate-devices eastgate-serving eastgate-host-key \
    nftables systemd-networkd systemd-timesyncd serial-getty@ttyS0
# By eastgate-devices.
chroot "$root" systemctl --quiet disable systemd-resolved
chroot "$root" systemctl --quiet disable ssh.service ssh.socket
wants=$root/etc/systemd/system/sys-subsystem-net-devices-mgmt0.device.wants
mkdir -p "$wants"
ln -s /lib/systemd/system/ssh.socket "$wants/ssh.socket"
# An appliance is upgraded when somebody does it.
chroot "$root" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service \
    dpkg-db-backup.timer
# Nor does it need, at each start, what is for other machines: file systems that nobody mounts, encrypted disks, init scripts.
chroot "$root" systemctl --quiet mask dev-hugepages.mount dev-mqueue.mount sys-fs-fuse-connections.mount \
    sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount proc-sys-fs-binfmt_misc.automount \
    systemd-binfmt.service systemd-repart.service systemd-pstore.service systemd-network-generator.service \
    kmod-static-nodes.service systemd-tmpfiles-setup-dev.service modprobe@drm.service
for generator in cryptsetup getty gpt-auto hibernate-resume integritysetup rc-local run system-update sysv veritysetup; do
    ln -s /dev/null "$root/etc/systemd/system-generators/systemd-$generator-generator"
done
rm -f "$root/etc/modules-load.d/modules.conf"
ln -sf /run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"

# Loaders: Debian's signed ones for UEFI, and one for BIOS that finds the menu by itself. Their packages have done their part.
efi=$root/boot/efi/EFI
mkdir -p "$efi/BOOT" "$efi/debian" "$root/boot/grub/i386-pc"
cp "$root/usr/lib/shim/shimx64.efi.signed" "$efi/BOOT/BOOTX64.EFI"
cp "$root/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed" "$efi/BOOT/grubx64.efi"
cat >"$efi/debian/grub.cfg" <<'EOF'
search --no-floppy --set=root --label eastgate-root
set prefix=($root)/boot/grub
configfile $prefix/grub.cfg
EOF
cp "$root/usr/lib/grub/i386-pc/boot.img" "$root/boot/grub/i386-pc/"
chroot "$root" grub-mkimage -O i386-pc -c /boot/efi/EFI/debian/grub.cfg -p /boot/grub -o /boot/grub/i386-pc/core.img \
    biosdisk part_gpt ext2 search search_label normal configfile linux serial terminal echo test gzio all_video
# What is left of GRUB's packages would write its menu anew with each kernel.
# shellcheck disable=SC2016,SC2046 -- dpkg-query's own words, and a list of names
chroot "$root" apt-get purge -y -qq --allow-remove-essential \
    $(chroot "$root" dpkg-query -W -f '${db:Status-Abbrev}${binary:Package}\n' 'grub*' 'shim*' mokutil | sed -n 's/^ii *//p')
[ ! -e "$root/etc/kernel/postinst.d/zz-update-grub" ]
chroot "$root" update-initramfs -u -k all

# No two appliances have these in common.
rm -f "$root"/etc/ssh/ssh_host_*
: >"$root/etc/machine-id"
rm -f "$root/var/lib/dbus/machine-id" "$root/var/lib/systemd/random-seed"
# What systemd does once after an upgrade is done, and is not to be done at the first start.
touch -d "1 minute" "$root/etc/.updated" "$root/var/.updated"
