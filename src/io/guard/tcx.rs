//! The guard by tcx: a list of programs at each device and direction, beside all qdiscs.

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd, BorrowedFd},
};

use eastgate_fastpath::{
    Guard,
    tcx::{self, Place, Way},
};

use super::{GuardError, Role};

/// The guard's programs, twice, and their numbers.
#[derive(Debug)]
pub(in crate::io) struct Programs {
    first: Guard,
    /// Behind all others: it holds while someone has taken the first one off.
    last: Guard,
    ids: BTreeSet<u32>,
}

/// A program and its number.
#[derive(Clone, Copy)]
struct Program<'p>(BorrowedFd<'p>, u32);

impl<'p> Program<'p> {
    fn of(program: &'p impl AsFd) -> io::Result<Self> {
        Ok(Self(program.as_fd(), tcx::id_of(program)?))
    }
}

/// What stands at one device and direction.
struct Wanted<'p> {
    way: Way,
    first: Program<'p>,
    last: Option<Program<'p>>,
}

impl Programs {
    pub(super) fn of(first: Guard, last: Guard) -> io::Result<Self> {
        let all = [&first.refuse_all, &first.only_marked, &last.refuse_all, &last.only_marked];
        let ids = all.into_iter().map(tcx::id_of).collect::<Result<_, _>>()?;
        Ok(Self { first, last, ids })
    }

    /// The numbers of all programs that a device in this role has.
    ///
    /// # Errors
    /// What the kernel says.
    pub(in crate::io) fn ids(&self, role: Role<'_>) -> io::Result<BTreeSet<u32>> {
        let mut ids = self.ids.clone();
        if let Some(program) = role.program() {
            ids.insert(tcx::id_of(program)?);
        }
        Ok(ids)
    }

    fn wanted<'p>(&'p self, role: Role<'p>) -> io::Result<Vec<Wanted<'p>>> {
        let refuse = Program::of(&self.first.refuse_all)?;
        let first = match role.program() {
            Some(program) => Program(program, tcx::id_of(program)?),
            None => refuse,
        };
        let ingress = |last| Wanted { way: Way::Ingress, first, last };
        Ok(match role {
            Role::Shared(_) => vec![ingress(None)],
            Role::Own(_) => vec![ingress(Some(Program::of(&self.last.refuse_all)?))],
            Role::Port(_) => vec![
                ingress(Some(Program::of(&self.last.refuse_all)?)),
                Wanted {
                    way: Way::Egress,
                    first: Program::of(&self.first.only_marked)?,
                    last: Some(Program::of(&self.last.only_marked)?),
                },
            ],
        })
    }

    /// Attaches what is not attached, takes off what a daemon before has left (`ours`), and says what was missing.
    /// There is no moment in which neither the old programs nor the new ones stand there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(in crate::io) fn hold(
        &self,
        index: u32,
        role: Role<'_>,
        ours: &BTreeSet<u32>,
    ) -> Result<Vec<&'static str>, GuardError> {
        let refused = |source| GuardError::Tcx { index, source };
        let mut missing = Vec::new();
        for wanted in self.wanted(role).map_err(refused)? {
            if hold_at(index, &wanted, ours).map_err(refused)? {
                missing.push(wanted.way.name());
            }
        }
        Ok(missing)
    }
}

/// Whether something was missing.
fn hold_at(index: u32, wanted: &Wanted<'_>, ours: &BTreeSet<u32>) -> io::Result<bool> {
    let Wanted { way, first: Program(first, first_id), last } = *wanted;
    let chain = tcx::query(index, way)?.programs;
    let mut missing = false;
    if let Some(Program(last, last_id)) = last
        && !chain.contains(&last_id)
    {
        missing = true;
        present(tcx::attach(index, way, last, Place::Last))?;
    }
    if chain.first() != Some(&first_id) {
        missing = true;
        // Others have come before it. It is nowhere for a moment, in which the last one holds.
        if chain.contains(&first_id) {
            tcx::detach(index, way, |id| id == first_id)?;
        }
        present(tcx::attach(index, way, first, Place::First))?;
    }
    let keep = [Some(first_id), last.map(|Program(_, id)| id)];
    let is_old = |id: u32| ours.contains(&id) && !keep.contains(&Some(id));
    if chain.iter().any(|id| is_old(*id)) {
        tcx::detach(index, way, is_old)?;
    }
    Ok(missing)
}

/// Attached by whoever came first.
fn present(attached: io::Result<()>) -> io::Result<()> {
    match attached {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other,
    }
}

/// Takes `ours` off a device. One that is gone is fine, and so is a kernel without tcx.
///
/// # Errors
/// When the kernel refuses.
pub(in crate::io) fn open(index: u32, ours: &BTreeSet<u32>) -> Result<(), GuardError> {
    for way in Way::ALL {
        match tcx::detach(index, way, |id| ours.contains(&id)) {
            Err(source) if !matches!(source.raw_os_error(), Some(libc::ENODEV | libc::EINVAL)) => {
                return Err(GuardError::Tcx { index, source });
            }
            _ => {}
        }
    }
    Ok(())
}

/// The numbers of `ours` that stand at a device.
pub(in crate::io) fn standing(index: u32, ours: &BTreeSet<u32>) -> BTreeSet<u32> {
    let chains = Way::ALL.into_iter().filter_map(|way| tcx::query(index, way).ok());
    chains.flat_map(|chain| chain.programs).filter(|id| ours.contains(id)).collect()
}

/// How many programs of others there are at a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::io) struct Others {
    /// Where frames come in
    pub(super) ingress: usize,
    /// Where frames go out
    pub(super) egress: usize,
}

/// Counts the programs at a device that are none of `ours`.
pub(super) fn others(index: u32, ours: &BTreeSet<u32>) -> Others {
    let count = |way| {
        let programs = tcx::query(index, way).unwrap_or_default().programs;
        programs.iter().filter(|id| !ours.contains(id)).count()
    };
    Others { ingress: count(Way::Ingress), egress: count(Way::Egress) }
}
