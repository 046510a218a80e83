//! The programs at a device of a namespace, and how another agent takes them away.

use eastgate_fastpath::tcx::{self, Way};

use super::Space;

/// A program in a tcx list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Program {
    pub id: u32,
    pub name: String,
}

/// Those that are attached, in the order in which they run; none where the kernel has no tcx.
pub fn programs(space: &Space, device: &str, way: Way) -> Vec<Program> {
    let device = device.to_owned();
    space.enter(move || {
        let found = tcx::query(index_of(&device), way).unwrap_or_default().programs;
        found.into_iter().map(|id| Program { id, name: tcx::name_of(id).unwrap_or_default() }).collect()
    })
}

/// Their names.
pub fn names(space: &Space, device: &str, way: Way) -> Vec<String> {
    programs(space, device, way).into_iter().map(|program| program.name).collect()
}

/// Takes one away.
pub fn take_away(space: &Space, device: &str, way: Way, program: &Program) {
    let (device, id) = (device.to_owned(), program.id);
    space.enter(move || tcx::detach(index_of(&device), way, |other| other == id).unwrap());
}

pub fn index_of(device: &str) -> u32 {
    nix::net::if_::if_nametoindex(device).unwrap()
}
