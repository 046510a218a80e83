//! Loads the programs. The verifier's work is most of a daemon's start, so that the two large programs are given to it at the same
//! time, each in an object of its own: all objects are of the same file and have the same tables.

use std::{ffi::OsStr, os::fd::AsFd, thread};

use libbpf_rs::{MapCore, Object, ObjectBuilder, OpenObject, ProgramMut};

use crate::{Error, Limits, OBJECT, cost};

/// Lines of the verifier's log that say why it refused a program.
const SAID_LINES: usize = 6;

/// One of the two that cost the verifier most; the other goes with those that cost it little.
const ALONE: &str = "underlay";

/// Objects of one file that have the same tables.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// The one that the tables were made by; it has no programs
    pub(crate) tables: Object,
    programs: [Object; 2],
}

impl Loaded {
    /// A program by its name. (Running one takes a `ProgramMut`, which nothing is changed by.)
    pub(crate) fn program(&self, name: &str) -> Option<ProgramMut<'_>> {
        // Programs that were not loaded are in their objects too.
        let [alone, others] = &self.programs;
        let object = if name == ALONE { alone } else { others };
        object.progs_mut().find(|program| program.name() == name)
    }
}

/// The file, with tables as large as `limits` say.
pub(crate) fn open(limits: &Limits) -> Result<OpenObject, Error> {
    libbpf_rs::set_print(None);
    let mut open = ObjectBuilder::default().open_memory(&OBJECT.0).map_err(Error::Load)?;
    for mut map in open.maps_mut() {
        if let Some(entries) = map.name().to_str().and_then(|name| limits.of(name)) {
            map.set_max_entries(entries).map_err(Error::Load)?;
        }
    }
    Ok(open)
}

/// Makes the tables that `open` says, and loads the programs with them.
pub(crate) fn load(mut open: OpenObject) -> Result<Loaded, Error> {
    choose(&mut open, |_| false);
    let loaded = cost::listening(|| {
        let tables = open.load()?;
        let (alone, others) =
            (with_tables(&tables, |name| name == ALONE)?, with_tables(&tables, |name| name != ALONE)?);
        let (alone, others) = thread::scope(|scope| {
            let alone = scope.spawn(|| alone.load());
            let others = others.load();
            (alone.join(), others)
        });
        let alone = alone.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked));
        Ok(Loaded { tables, programs: [alone?, others?] })
    });
    loaded.map_err(|(source, said)| {
        let said: Vec<&str> = said.lines().filter(|line| !line.is_empty()).collect();
        let end = said.iter().rposition(|line| line.starts_with("processed ")).unwrap_or(said.len());
        Error::Refused { source, said: said[end.saturating_sub(SAID_LINES)..end].join("; ") }
    })
}

fn choose(open: &mut OpenObject, chosen: impl Fn(&OsStr) -> bool) {
    for mut program in open.progs_mut() {
        let wanted = chosen(program.name());
        program.set_autoload(wanted);
    }
}

/// The file again, with tables that are there and some of its programs.
fn with_tables(tables: &Object, chosen: impl Fn(&OsStr) -> bool) -> Result<OpenObject, libbpf_rs::Error> {
    let mut open = ObjectBuilder::default().open_memory(&OBJECT.0)?;
    choose(&mut open, chosen);
    for mut map in open.maps_mut() {
        if let Some(there) = tables.maps().find(|there| there.name() == map.name()) {
            map.reuse_fd(there.as_fd())?;
        }
    }
    Ok(open)
}
