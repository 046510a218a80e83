//! A short number for what a configuration means, by which two hosts can be seen to run the same; and what is the same in two
//! readings of it.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use super::{Config, Endpoint, Network};

/// Of everything that a configuration says, and nothing of how its files are called, divided, laid out and commented. The
/// same text has another digest in a version that knows more keys.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Digest(u64);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Config {
    /// Its digest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(self)
    }
}

impl Network {
    /// Whether its endpoints are as those of another reading of it.
    #[must_use]
    pub fn has_endpoints_of(&self, other: &Self) -> bool {
        // Nearly all are the very ones, which is seen at once.
        let is_same = |(now, was): (&Arc<Endpoint>, &Arc<Endpoint>)| Arc::ptr_eq(now, was) || now == was;
        Arc::ptr_eq(&self.endpoints, &other.endpoints)
            || self.endpoints.len() == other.endpoints.len()
                && self.endpoints.iter().zip(&*other.endpoints).all(is_same)
    }
}

impl Digest {
    /// Of a part of a configuration. All of it is sorted by name, and where things are written ([`super::Place`]) does not
    /// count.
    #[must_use]
    pub fn of(part: &impl Hash) -> Self {
        let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
        part.hash(&mut hash);
        Self(hash.0)
    }
}

/// FNV-1a: nobody gains anything by two configurations of one digest.
struct Fnv(u64);

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use crate::load_str;

    const HEAD: &str = "[host.a]\nvtep = \"192.0.2.1\"\ndevice = \"e\"\n";

    fn tenant(name: &str, vni: u32) -> String {
        format!("[tenant.{name}.network.n]\nvni = {vni}\nsubnets = [\"10.1.0.0/24\"]\nhosts = [\"a\"]\n")
    }

    fn digest(text: &str) -> String {
        load_str("any", text).unwrap().digest().to_string()
    }

    #[test]
    fn it_is_of_the_meaning_alone() {
        let one = digest(&format!("{HEAD}{}{}", tenant("x", 1), tenant("y", 2)));
        assert_eq!(one.len(), 16);
        let other = format!("# the same\n{}\n\n{}{HEAD}", tenant("y", 2), tenant("x", 1));
        assert_eq!(one, digest(&other));
        for different in [tenant("y", 3), tenant("z", 2), tenant("y", 2).replace(".1.0", ".2.0")] {
            assert_ne!(one, digest(&format!("{HEAD}{}{different}", tenant("x", 1))));
        }
    }
}
