/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* How endpoints of this host are attached; a part of layout.h. */
#pragma once

/*
 * How an endpoint of this host is attached: by a device, and on it by the VLAN tag of its frames. Tag 0 is none: it is a
 * priority, and no VLAN (IEEE 802.1Q section 9.6). On a segment that endpoints share, by their source as well, which is 0 everywhere else.
 */
struct attachment_key {
	__u32 ifindex;
	__u16 vlan;
	__u8 station[6];
};

enum attachment_flags {
	/* An access attachment: frames of its device with any tag are its own, whose network says what they mean. */
	ATTACHMENT_ANY_VLAN = 1 << 0,
	/* Its device is a veth: frames go straight into its peer. */
	ATTACHMENT_PEER = 1 << 1,
};

/* What a frame that comes in by an attachment is resolved to, once. An attachment that is closed is not in the table. */
struct attachment {
	/* By which `ends.at` and `egress` know it */
	__u32 number;
	/* The daemon's own number for it, which no other one has while that daemon lives */
	__u32 id;
	/* Its network */
	__u32 vni;
	/* `attachment_flags` */
	__u32 flags;
};

enum device_name { DEVICE_NAME = 16 };

/*
 * Where frames to an attachment leave, by its number. A number is not given to another attachment while a flow can name it:
 * of one that is closed the device is 0, and nothing leaves.
 */
struct egress {
	__u32 ifindex;
	__u16 vlan;
	/* `attachment_flags` */
	__u16 flags;
	/* Of the device. An index alone is no name: when a device is gone, another one may get it. Never empty where a number was given */
	__u8 device[DEVICE_NAME];
	/* As in its key */
	__u8 station[6];
	__u16 spare;
	/* The device by which packets to it are handed to the kernel's routing; 0 where they leave by its own */
	__u32 entry;
};

/* A trunk, by the VLAN that no frame has (`STRAY_ANY_VLAN`), or a segment of it that endpoints share */
struct stray_key {
	__u32 ifindex;
	__u16 vlan;
	__u16 spare;
};

/* What is of the trunk's link itself has a place of its own, by what is no VLAN. */
enum stray_vlan { STRAY_ANY_VLAN = 0xfff, STRAY_LINK = 0x1000 };

/*
 * Frames that are nobody's: on a trunk those whose VLAN no endpoint has, on a shared segment those from no endpoint of it; apart from
 * both, those of the link itself. How many, and what the last one was. The daemon has two entries for each trunk that it serves, and one for
 * each shared segment there.
 */
struct stray {
	__u64 frames;
	__u64 bytes;
	/* The first and the last of them, in nanoseconds of the monotonic clock */
	__u64 first_at;
	__u64 last_at;
	/* Destination and source */
	__u8 macs[12];
	/* The outermost tag: its type, 0 where there is none, and the two bytes behind that */
	__u16 tag_type;
	__u16 tci;
};
