/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Datagrams in fragments, of flows that pass here: the first fragment leaves a note by which the later ones, which have
 * no ports, are packets of its flow. What the note promises is what conntrack's `fragment` promises; a fragment that does
 * not fit it is punted, and the pipeline takes the note over and says why.
 *
 * Notes are in places of their network, as many as the network may have, and each datagram may be in two of them: so a
 * network's flood takes no other's place, and nothing has to be cleared away. A fragment that is punted without its first
 * leaves a note as well, so that the first one follows it.
 */
#pragma once

#include "maps.h"
#include "packet.h"
#include "track.h"

#include <stddef.h>

/* As conntrack's `FragmentSettings`: for so long a datagram is remembered, and for so long its fragments wait for the first. */
#define DATAGRAM_LASTS (30ULL * 1000000000)
#define DATAGRAM_WAITS (5ULL * 1000000000)

struct fragment_header {
	__u8 next;
	__u8 spare;
	/* Offset in eights, in the upper 13 bits; FRAGMENT_MORE */
	__u16 offset_be;
	__u32 id_be;
};

#define V4_MORE 0x2000
#define V4_OFFSET 0x1fff
#define V6_MORE 0x0001
#define V6_OFFSET 0xfff8

static __always_inline __u32 datagram_hash(const struct datagram_id *id)
{
	const __u32 *word = (const void *)id;
	__u32 hash = 0;

#pragma unroll
	for (int i = 0; i < (int)(sizeof(*id) / sizeof(*word)); i++) {
		hash = (hash ^ word[i]) * 0x9e3779b1u;
		hash ^= hash >> 15;
	}
	return hash;
}

static __always_inline bool same_datagram(const struct datagram_id *a, const struct datagram_id *b)
{
	return a->id == b->id && a->proto == b->proto && same_addr(&a->src, &b->src) && same_addr(&a->dst, &b->dst);
}

static __always_inline bool is_free(const struct datagram *datagram, __u64 now)
{
	return datagram->state == DATAGRAM_FREE || datagram->until <= now;
}

/* One of the places that the datagram in hand may be in */
static __always_inline struct datagram *datagram_at(struct fragment *f, __u32 which)
{
	f->place.slot = (f->hash + which) % f->places;
	return bpf_map_lookup_elem(&datagrams, &f->place);
}

/* The note of the datagram in hand, and whether there is room for one. */
static __always_inline struct datagram *find_datagram(struct fragment *f, __u64 now, bool *room)
{
	*room = false;
	for (__u32 which = 0; which < DATAGRAM_PLACES; which++) {
		struct datagram *found = datagram_at(f, which);

		if (!found || is_free(found, now))
			*room = true;
		else if (same_datagram(&found->id, &f->id))
			return found;
	}
	return 0;
}

/* A fragment's piece, in the room that it may take of its datagram; `false` for what is no fragment or may be none. */
static __always_inline bool read_piece(struct fragment *f, __u32 offset, __u32 len, bool more, __u32 limit)
{
	if ((!more && !offset) || !len || offset + len > limit || (more && len % 8))
		return false;
	f->piece.start = offset;
	f->piece.end = offset + len;
	f->more = more;
	return true;
}

/* Reads the IPv4 header at `at`; where the piece begins, or 0. */
static __always_inline __u32 read_fragment_v4(struct __sk_buff *skb, __u32 at, struct scratch *scratch)
{
	struct iphdr *ip = (struct iphdr *)scratch->request;
	struct fragment *f = &scratch->fragment;
	struct packet *p = &scratch->packet;
	__u32 field;

	if (bpf_skb_load_bytes(skb, at, ip, sizeof(*ip)) || ip->version != 4 || ip->ihl < 5)
		return 0;
	field = bpf_ntohs(ip->frag_off);
	p->len = bpf_ntohs(ip->tot_len);
	if (p->len < ip->ihl * 4 || p->len + at > skb->len)
		return 0;
	f->plain = ip->ihl == 5 && p->len + at == skb->len;
	if (f->plain && header_sum(ip) != 0xffff)
		return 0;
	p->v6 = false;
	p->proto = ip->protocol;
	p->tos = ip->tos;
	p->ttl = ip->ttl;
	p->src = (struct addr){ { 0, 0, bpf_htonl(0xffff), ip->saddr } };
	p->dst = (struct addr){ { 0, 0, bpf_htonl(0xffff), ip->daddr } };
	f->id.id = bpf_ntohs(ip->id);
	f->id.proto = p->proto;
	/* The reserved bit is left to the pipeline, as all is that is not as usual. */
	f->plain = f->plain && !(field & 0x8000);
	if (!read_piece(f, (field & V4_OFFSET) << 3, p->len - ip->ihl * 4, field & V4_MORE, 65535 - sizeof(*ip)))
		return 0;
	return at + sizeof(*ip);
}

static __always_inline __u32 read_fragment_v6(struct __sk_buff *skb, __u32 at, struct scratch *scratch)
{
	struct ipv6hdr *ip = (struct ipv6hdr *)scratch->request;
	struct fragment_header *header = (struct fragment_header *)(scratch->request + sizeof(*ip));
	struct fragment *f = &scratch->fragment;
	struct packet *p = &scratch->packet;
	__u32 field;

	if (bpf_skb_load_bytes(skb, at, ip, sizeof(*ip) + sizeof(*header)) || ip->version != 6 ||
	    ip->nexthdr != IPPROTO_FRAGMENT)
		return 0;
	field = bpf_ntohs(header->offset_be);
	p->len = bpf_ntohs(ip->payload_len) + sizeof(*ip);
	if (p->len < sizeof(*ip) + sizeof(*header) || p->len + at > skb->len)
		return 0;
	f->plain = p->len + at == skb->len;
	p->v6 = true;
	p->proto = header->next;
	p->tos = ip->priority << 4 | ip->flow_lbl[0] >> 4;
	p->ttl = ip->hop_limit;
	__builtin_memcpy(&p->src, &ip->saddr, sizeof(p->src));
	__builtin_memcpy(&p->dst, &ip->daddr, sizeof(p->dst));
	if (is_mapped(p->src.be) || is_mapped(p->dst.be))
		return 0;
	f->id.id = bpf_ntohl(header->id_be);
	f->id.proto = 0;
	if (!read_piece(f, field & V6_OFFSET, p->len - sizeof(*ip) - sizeof(*header), field & V6_MORE, 65535))
		return 0;
	return at + sizeof(*ip) + sizeof(*header);
}

/* The transport header of a first fragment, all of it (RFC 1858) */
static __always_inline bool read_ports(struct __sk_buff *skb, __u32 at, struct scratch *scratch)
{
	struct packet *p = &scratch->packet;

	if (scratch->fragment.piece.end < sizeof(struct udphdr))
		return false;
	if (p->proto == IPPROTO_UDP) {
		struct udphdr *udp = (struct udphdr *)scratch->request;

		if (bpf_skb_load_bytes(skb, at, udp, sizeof(*udp)) || bpf_ntohs(udp->len) < sizeof(*udp))
			return false;
		p->sport = bpf_ntohs(udp->source);
		p->dport = bpf_ntohs(udp->dest);
	} else {
		struct echo_header *echo = (struct echo_header *)scratch->request;

		if (bpf_skb_load_bytes(skb, at, echo, sizeof(*echo)) || echo->code)
			return false;
		if (echo->type == (p->v6 ? ECHO_V6_REQUEST : ECHO_V4_REQUEST))
			p->echo = ECHO_REQUEST;
		else if (echo->type == (p->v6 ? ECHO_V6_REPLY : ECHO_V4_REPLY))
			p->echo = ECHO_REPLY;
		else
			return false;
		p->sport = bpf_ntohs(echo->id_be);
		p->dport = p->sport;
	}
	return true;
}

/* Does the piece fit beside those that have passed? */
static __always_inline bool piece_fits(const struct datagram *datagram, const struct fragment *f)
{
	__u32 count = datagram->count;

	if (count >= DATAGRAM_PIECES)
		return false;
	for (__u32 i = 0; i < DATAGRAM_PIECES; i++) {
		const struct piece *other = &datagram->pieces[i];

		if (i >= count)
			break;
		if (other->start < f->piece.end && f->piece.start < other->end)
			return false;
	}
	if (datagram->end)
		return f->more && f->piece.end <= datagram->end;
	return f->more || f->piece.end >= datagram->furthest;
}

/*
 * Reads the packet whose Ethernet header is at `at`, when it is a fragment of a datagram that may pass here: afterwards
 * it is in the scratch area as any packet is, with the ports of its datagram. Gives what it is, as `packet.fragment` says then.
 * Not static, so that the verifier looks at it once and by itself.
 */
__noinline int read_fragment(struct __sk_buff *skb, __u32 at, __u32 vni)
{
	struct scratch *scratch = the_scratch();
	const struct bucket *bucket = bpf_map_lookup_elem(&buckets, &vni);
	struct datagram *datagram;
	struct fragment *f;
	struct packet *p;
	__u16 ethertype;
	__u64 now = the_time();
	bool room, carried, readable;
	enum punt why;
	__u32 l4;

	if (!scratch || !bucket || !bucket->datagrams || skb->gso_size)
		return FRAGMENT_NONE;
	f = &scratch->fragment;
	p = &scratch->packet;
	/* Whatever is no fragment is punted for the reason that it had before. */
	why = p->punt;
	*p = (struct packet){ .punt = why };
	if (bpf_skb_load_bytes(skb, at + offsetof(struct ethhdr, h_proto), &ethertype, sizeof(ethertype)))
		return FRAGMENT_NONE;
	if (ethertype == bpf_htons(ETH_P_IP))
		l4 = read_fragment_v4(skb, at + ETH_HLEN, scratch);
	else if (ethertype == bpf_htons(ETH_P_IPV6))
		l4 = read_fragment_v6(skb, at + ETH_HLEN, scratch);
	else
		return FRAGMENT_NONE;
	if (!l4)
		return FRAGMENT_NONE;
	carried = p->proto == IPPROTO_UDP || p->proto == (p->v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
	/* The first fragment of another protocol is punted, and with it all others; in IPv6 those need not say so. */
	if (!carried && (!f->piece.start || !p->v6))
		return FRAGMENT_NONE;
	p->punt = PUNT_FRAGMENT;
	f->id.src = p->src;
	f->id.dst = p->dst;
	f->hash = datagram_hash(&f->id);
	f->places = bucket->datagrams;
	f->place.vni = vni;
	datagram = find_datagram(f, now, &room);
	if (!f->piece.start) {
		readable = f->plain && read_ports(skb, l4, scratch);
		p->fragment = datagram || !room || !readable ? FRAGMENT_PUNT : FRAGMENT_FIRST;
		return p->fragment;
	}
	p->fragment = FRAGMENT_PUNT;
	if (!datagram || !f->plain)
		return FRAGMENT_PUNT;
	/* Read before the pieces: who changes them counts. */
	f->count = *(volatile __u16 *)&datagram->count;
	f->until = *(volatile __u64 *)&datagram->until;
	if (datagram->state != DATAGRAM_PASSES || datagram->proto != p->proto || !piece_fits(datagram, f))
		return FRAGMENT_PUNT;
	p->sport = datagram->sport;
	p->dport = datagram->dport;
	p->echo = datagram->echo;
	p->fragment = FRAGMENT_LATER;
	return FRAGMENT_LATER;
}

/* Leaves a note of the datagram in hand in a place that is free. */
static __always_inline bool note_datagram(struct scratch *scratch, __u32 state, __u64 now, __u64 lasts)
{
	struct datagram *made = (struct datagram *)scratch->datagram;
	const struct packet *p = &scratch->packet;
	struct fragment *f = &scratch->fragment;

	made->state = state;
	made->until = now + lasts;
	made->id = f->id;
	made->sport = p->sport;
	made->dport = p->dport;
	made->proto = p->proto;
	made->echo = p->echo;
	made->count = state == DATAGRAM_PASSES;
	made->end = 0;
	made->furthest = f->piece.end;
	made->covered = f->piece.end;
	made->pieces[0] = f->piece;
	for (__u32 which = 0; which < DATAGRAM_PLACES; which++) {
		struct datagram *place = datagram_at(f, which);
		bool is_ours;

		if (!place) {
			if (bpf_map_update_elem(&datagrams, &f->place, made, BPF_NOEXIST) == 0)
				return true;
			continue;
		}
		bpf_spin_lock(&place->lock);
		is_ours = is_free(place, now);
		if (is_ours) {
			place->state = made->state;
			place->until = made->until;
			place->id = made->id;
			place->sport = made->sport;
			place->dport = made->dport;
			place->proto = made->proto;
			place->echo = made->echo;
			place->count = made->count;
			place->end = made->end;
			place->furthest = made->furthest;
			place->covered = made->covered;
			place->pieces[0] = made->pieces[0];
		}
		bpf_spin_unlock(&place->lock);
		if (is_ours)
			return true;
	}
	return false;
}

/* The fragment in the scratch area passes: notes it. 0 when something has come in between, and it has to be punted. */
__noinline int fragment_passes(void)
{
	struct scratch *scratch = the_scratch();
	struct datagram *datagram;
	struct fragment *f;
	__u64 now = the_time();
	bool room, fits;
	__u32 count;

	if (!scratch)
		return 0;
	f = &scratch->fragment;
	if (scratch->packet.fragment == FRAGMENT_FIRST)
		return note_datagram(scratch, DATAGRAM_PASSES, now, DATAGRAM_LASTS);
	datagram = find_datagram(f, now, &room);
	if (!datagram)
		return 0;
	bpf_spin_lock(&datagram->lock);
	count = datagram->count;
	fits = datagram->state == DATAGRAM_PASSES && datagram->until == f->until && count == f->count &&
	       count < DATAGRAM_PIECES;
	if (fits) {
		datagram->pieces[count & (DATAGRAM_PIECES - 1)] = f->piece;
		datagram->count = count + 1;
		datagram->covered += f->piece.end - f->piece.start;
		if (f->piece.end > datagram->furthest)
			datagram->furthest = f->piece.end;
		if (!f->more)
			datagram->end = f->piece.end;
		if (datagram->end && datagram->covered == datagram->end)
			datagram->state = DATAGRAM_FREE;
	}
	bpf_spin_unlock(&datagram->lock);
	return fits;
}

/*
 * The fragment in the scratch area is punted: those that follow, and a first one that comes late or again, go after it. The daemon
 * takes the note away when the datagram is complete.
 */
__noinline int punt_fragment(void)
{
	struct scratch *scratch = the_scratch();
	struct datagram *datagram;
	struct fragment *f;
	__u64 now = the_time();
	bool room;

	if (!scratch)
		return 0;
	f = &scratch->fragment;
	datagram = find_datagram(f, now, &room);
	if (datagram) {
		bpf_spin_lock(&datagram->lock);
		if (same_datagram(&datagram->id, &f->id) && !is_free(datagram, now)) {
			datagram->state = DATAGRAM_PUNTED;
			if (!f->piece.start && !datagram->count)
				datagram->until = now + DATAGRAM_LASTS;
		}
		bpf_spin_unlock(&datagram->lock);
	} else {
		note_datagram(scratch, DATAGRAM_PUNTED, now, f->piece.start ? DATAGRAM_WAITS : DATAGRAM_LASTS);
	}
	return 1;
}
