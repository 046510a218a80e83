//! The kernel's own routing between the endpoints of a network on one host (`neighbors = "kernel"`): by which devices packets
//! get there, in which table its routes are, and what of what it says is for a tenant.
//!
//! What was admitted and decided is handed to it by a pair of devices of the network's own. Nothing else comes in there, so that
//! nobody who turns a setting of a port, or a route of the host's, gets a packet past the policy; and the host's own
//! routes know nothing of tenants, nor tenants of the host's.

use eastgate_wire::{
    KERNEL_DEVICES, MacAddr, View, Vni,
    view::{Icmp, Net, Transport},
};

/// In front of the number of a network's routing table
const TABLES: u32 = 0x6500_0000;

/// Where rules stand by which the tables are asked: the first says which, the second that there is no other.
pub const RULES: [u32; 2] = [4_789, 4_790];

const ENTRY: &str = KERNEL_DEVICES[0];
const ROUTER: &str = KERNEL_DEVICES[1];

/// The device by which packets of a network are handed to the kernel's routing.
#[must_use]
pub fn entry(vni: Vni) -> String {
    format!("{ENTRY}{}", vni.get())
}

/// The other end of [`entry`], where they come in to be routed.
#[must_use]
pub fn router(vni: Vni) -> String {
    format!("{ROUTER}{}", vni.get())
}

/// Is it the name of a device of this kind?
#[must_use]
pub fn is_entry(device: &str) -> bool {
    device.starts_with(ENTRY)
}

/// Is it the name of either?
#[must_use]
pub fn is_own_device(device: &str) -> bool {
    is_entry(device) || device.starts_with(ROUTER)
}

/// The table that has a network's routes, and nothing else.
#[must_use]
pub const fn table(vni: Vni) -> u32 {
    TABLES | vni.get()
}

/// Does this table have the routes of a network?
#[must_use]
pub const fn is_own_table(table: u32) -> bool {
    table & 0xff00_0000 == TABLES
}

/// Operation of an ARP reply (RFC 826), and where it is in the frame
const ARP_REPLY: [u8; 2] = [0, 2];
const ARP_OPERATION: usize = 14 + 6;
/// Type of a neighbour advertisement (RFC 4861 section 4.4)
const ADVERTISEMENT: u8 = 136;

/// Does the kernel answer a request for an address by this frame, with the MAC `own`? Requests of its own, and whatever else it
/// says on the device, are for nobody.
#[must_use]
pub fn is_answer(frame: &[u8], view: &View, own: MacAddr) -> bool {
    view.tags == 0
        && view.src == own
        && match &view.net {
            Net::Arp => frame.get(ARP_OPERATION..ARP_OPERATION + 2) == Some(&ARP_REPLY),
            Net::Ip(ip) => {
                !ip.src.is_v4() && matches!(ip.transport, Transport::Icmp(Icmp { kind: ADVERTISEMENT, .. }))
            }
            Net::Other => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: MacAddr = MacAddr([0xe2, 0x67, 0x77, 0, 0x13, 0x89]);

    #[test]
    fn devices_have_names_that_linux_takes_and_tables_are_told_apart() {
        let last = Vni::new_checked(16_777_215).unwrap();
        for name in [entry(last), router(last)] {
            assert!(name.len() < 16 && is_own_device(&name), "{name}");
        }
        assert!(is_entry(&entry(last)) && !is_entry(&router(last)) && !is_own_device("eth0"));
        assert!(is_own_table(table(last)) && !is_own_table(254) && table(last) == 0x65ff_ffff);
    }

    fn arp(operation: u8, from: MacAddr) -> Vec<u8> {
        let header = [0, 1, 8, 0, 6, 4, 0, operation];
        let (sender, target) = ([10, 1, 0, 12], [10, 1, 0, 11]);
        let to = [2, 0, 0, 0, 1, 11];
        [&to[..], &from.0, &[8, 6], &header, &from.0, &sender, &to, &target].concat()
    }

    #[test]
    fn answers_are_for_tenants_and_what_else_the_kernel_says_is_not() {
        let says = |frame: &[u8]| is_answer(frame, &View::parse(frame).unwrap(), OWN);
        assert!(says(&arp(2, OWN)));
        assert!(!says(&arp(1, OWN)), "a request of the kernel's own");
        assert!(!says(&arp(2, MacAddr([2, 0, 0, 0, 1, 12]))), "in somebody else's name");
        let mut tagged = arp(2, OWN);
        tagged.splice(12..12, [0x81, 0, 0, 7]);
        assert!(!says(&tagged));
    }
}
