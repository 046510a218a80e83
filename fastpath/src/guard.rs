//! The guard of a tenant port as programs (`bpf/guard.bpf.c`): what comes in is for nobody, what goes out is eastgate's.

use std::os::fd::{AsFd, OwnedFd};

use libbpf_rs::ObjectBuilder;

use crate::{Aligned, Error};

static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/guard.bpf.o")));

/// The guard's programs. Those that are attached stay when this is dropped.
#[derive(Debug)]
pub struct Guard {
    /// Drops everything
    pub refuse_all: OwnedFd,
    /// Drops what does not carry eastgate's mark
    pub only_marked: OwnedFd,
}

impl Guard {
    /// Loads the programs. A program is attached to one place once: whoever wants it there twice loads it twice.
    ///
    /// # Errors
    /// What the kernel says; without the privilege to load programs above all.
    pub fn load() -> Result<Self, Error> {
        libbpf_rs::set_print(None);
        let open = ObjectBuilder::default().open_memory(&OBJECT.0).map_err(Error::Load)?;
        let object = open.load().map_err(Error::Load)?;
        let program = |name: &'static str| {
            let found = object.progs().find(|program| program.name() == name).ok_or(Error::Missing(name))?;
            Ok::<_, Error>(found.as_fd().try_clone_to_owned()?)
        };
        Ok(Self { refuse_all: program("refuse_all")?, only_marked: program("only_marked")? })
    }
}
