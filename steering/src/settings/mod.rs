//! Which interface settings (sysctls) are wanted, what has to be written to get them, and how to undo it. All
//! of it is data: reading and writing `/proc/sys` is done elsewhere.
//!
//! What this promises:
//! - A setting counts as it takes effect, not as it is written: the kernel combines the interface's value
//!   with that of `all`, each key in its own way, see [`Key::effective`].
//! - Only what has to change is written. `all` is touched only where it stands in the way, and then every
//!   other interface is given a value of its own that keeps it as it was; where none can, it is reported.
//! - What was there before the first write is remembered ([`Restore`]), and so is what was written, which is
//!   how a change by someone else is told from ours.

mod plan;
mod restore;
mod roles;
#[cfg(test)]
mod tests;

pub use plan::{Affected, Change, Observed, Plan, Why, diff, to_read};
pub use restore::{Foreign, Restore, Saved, Undo};
pub use roles::{PortRole, port_settings};

use std::{fmt, str::FromStr};

use eastgate_wire::Family;

/// How the kernel combines the value of `all` with the interface's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Combine {
    /// The larger one
    Max,
    /// On when either is
    Or,
    /// On when both are
    And,
    /// Only the interface's
    Own,
    /// [`Combine::And`] on an interface that forwards, [`Combine::Or`] on one that does not
    AndIfForwarding,
}

macro_rules! keys {
    ($($variant:ident, $family:ident, $table:literal, $name:literal, $combine:ident;)*) => {
        /// A setting that every interface has.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Key {
            $(
                #[doc = concat!("`", $table, "/*/", $name, "` of ", stringify!($family))]
                $variant,
            )*
        }

        impl Key {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Whose protocol's setting it is.
            #[must_use]
            pub const fn family(self) -> Family {
                match self { $(Self::$variant => Family::$family),* }
            }

            /// The directory it is in: `conf` or `neigh`.
            #[must_use]
            pub const fn table(self) -> &'static str {
                match self { $(Self::$variant => $table),* }
            }

            /// The file's name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// How `all` counts.
            #[must_use]
            pub const fn combine(self) -> Combine {
                match self { $(Self::$variant => Combine::$combine),* }
            }
        }
    };
}

keys! {
    ArpIgnore, V4, "conf", "arp_ignore", Max;
    ArpAnnounce, V4, "conf", "arp_announce", Max;
    ArpAccept, V4, "conf", "arp_accept", Max;
    ArpNotify, V4, "conf", "arp_notify", Max;
    ArpFilter, V4, "conf", "arp_filter", Or;
    ProxyArp, V4, "conf", "proxy_arp", Or;
    ProxyArpPvlan, V4, "conf", "proxy_arp_pvlan", Own;
    ProxyDelay, V4, "neigh", "proxy_delay", Own;
    RpFilter, V4, "conf", "rp_filter", Max;
    Forwarding, V4, "conf", "forwarding", Own;
    SendRedirects, V4, "conf", "send_redirects", Or;
    AcceptRedirects, V4, "conf", "accept_redirects", AndIfForwarding;
    AcceptSourceRoute, V4, "conf", "accept_source_route", And;
    AcceptLocal, V4, "conf", "accept_local", Or;
    RouteLocalnet, V4, "conf", "route_localnet", Or;
    AddrGenMode, V6, "conf", "addr_gen_mode", Own;
    DisableIpv6, V6, "conf", "disable_ipv6", Own;
    Forwarding6, V6, "conf", "forwarding", Own;
    AcceptRa, V6, "conf", "accept_ra", Own;
    Autoconf, V6, "conf", "autoconf", Own;
    AcceptRedirects6, V6, "conf", "accept_redirects", Own;
    ProxyNdp, V6, "conf", "proxy_ndp", Or;
    ProxyDelay6, V6, "neigh", "proxy_delay", Own;
    ForceForwarding6, V6, "conf", "force_forwarding", Own;
    OwnAddressesOnly6, V6, "conf", "use_oif_addrs_only", Own;
    AcceptDad, V6, "conf", "accept_dad", Max;
}

impl Key {
    /// The value that takes effect on an interface, from that of `all`, its own, and whether it forwards
    /// IPv4. On-off keys give 0 or 1.
    #[must_use]
    pub const fn effective(self, all: i32, own: i32, forwards: bool) -> i32 {
        match self.combine() {
            Combine::Own => own,
            Combine::Max if all > own => all,
            Combine::Max => own,
            Combine::Or => (all != 0 || own != 0) as i32,
            Combine::And => (all != 0 && own != 0) as i32,
            Combine::AndIfForwarding if forwards => (all != 0 && own != 0) as i32,
            Combine::AndIfForwarding => (all != 0 || own != 0) as i32,
        }
    }

    /// Whether the value of `all` counts at all.
    #[must_use]
    pub const fn uses_all(self) -> bool {
        !matches!(self.combine(), Combine::Own)
    }
}

/// Which interfaces a value is for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Scope {
    /// `all`: combined with every interface's own
    All,
    /// `default`: what new interfaces start with
    Default,
    /// One interface
    Interface(String),
}

impl Scope {
    fn name(&self) -> &str {
        match self {
            Self::All => "all",
            Self::Default => "default",
            Self::Interface(name) => name,
        }
    }
}

/// One file of the kernel's settings. Shown, and read back, as its path below `/proc/sys`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SettingId {
    /// The setting
    pub key: Key,
    /// Whose
    pub scope: Scope,
}

/// Text that names no setting known here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no interface setting that eastgate writes; one looks like net/ipv4/conf/eth0/arp_ignore")]
pub struct BadSetting(pub String);

impl SettingId {
    /// The setting of one interface.
    #[must_use]
    pub fn of(key: Key, interface: &str) -> Self {
        Self { key, scope: Scope::Interface(interface.to_owned()) }
    }

    /// The setting that is combined with every interface's own.
    #[must_use]
    pub const fn of_all(key: Key) -> Self {
        Self { key, scope: Scope::All }
    }
}

impl fmt::Display for SettingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.key.family() {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        };
        write!(f, "net/{family}/{}/{}/{}", self.key.table(), self.scope.name(), self.key.name())
    }
}

impl FromStr for SettingId {
    type Err = BadSetting;
    fn from_str(text: &str) -> Result<Self, BadSetting> {
        let bad = || BadSetting(text.to_owned());
        let parts: Vec<&str> = text.split('/').collect();
        let ["net", family, table, scope, name] = parts[..] else { return Err(bad()) };
        let family = match family {
            "ipv4" => Family::V4,
            "ipv6" => Family::V6,
            _ => return Err(bad()),
        };
        let is = |key: &Key| key.family() == family && key.table() == table && key.name() == name;
        let key = Key::ALL.iter().copied().find(is).ok_or_else(bad)?;
        let scope = match scope {
            "all" => Scope::All,
            "default" => Scope::Default,
            // The kernel has neither as the name of an interface, and written to they would leave the table.
            "" | "." | ".." => return Err(bad()),
            name => Scope::Interface(name.to_owned()),
        };
        Ok(Self { key, scope })
    }
}

/// A setting of an interface that is wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Setting {
    /// Which
    pub key: Key,
    /// Of which interface
    pub interface: String,
    /// The value that is written where it has to be
    pub wanted: i32,
    /// Values that do as well and are left
    pub also: &'static [i32],
    /// What it is for, for a person
    pub why: &'static str,
}

impl Setting {
    /// Whether this value will do.
    #[must_use]
    pub fn accepts(&self, value: i32) -> bool {
        value == self.wanted || self.also.contains(&value)
    }

    /// The file.
    #[must_use]
    pub fn id(&self) -> SettingId {
        SettingId::of(self.key, &self.interface)
    }
}
