// What a virtual switch does with machines in VLANs of their own: puts a machine's tag on and hands the frame to the trunk, or takes the
// tag off that a frame of the trunk has and hands it to the machine of that VLAN. The kernel of a bench machine may know neither VLAN
// devices nor bridges that filter by VLAN. Devices and VLANs are given when it is compiled.

struct __sk_buff {
	unsigned int len, pkt_type, mark, queue_mapping, protocol, vlan_present, vlan_tci;
};

static long (*const vlan_push)(struct __sk_buff *skb, unsigned short protocol_be, unsigned short tci) = (void *)18;
static long (*const vlan_pop)(struct __sk_buff *skb) = (void *)19;
static long (*const redirect)(unsigned int device, unsigned long flags) = (void *)23;

enum { SHOT = 2, TAG = 0x8100 };

#ifdef VLAN
__attribute__((section("classifier"), used)) int into_trunk(struct __sk_buff *skb)
{
	return vlan_push(skb, __builtin_bswap16(TAG), VLAN) ? SHOT : redirect(TRUNK, 0);
}
#else
__attribute__((section("classifier"), used)) int out_of_trunk(struct __sk_buff *skb)
{
	unsigned int vlan = skb->vlan_tci & 0xfff;

	if (!skb->vlan_present || vlan_pop(skb))
		return SHOT;
	return redirect(vlan == FIRST_VLAN ? FIRST : SECOND, 0);
}
#endif

__attribute__((section("license"), used)) char LICENSE[] = "Dual MIT/GPL";
