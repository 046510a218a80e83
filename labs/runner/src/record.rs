//! What is written down about a running lab, so that another process can use it and take it down: one JSON file
//! a lab, written before anything is created, and a folder for its logs and sockets.

use std::{
    collections::BTreeMap,
    fs,
    hash::{BuildHasher, RandomState},
    io,
    path::{Path, PathBuf},
};

use eastgate_testkit::{Netns, Process};
use serde::{Deserialize, Serialize};

use super::{error::LabError, model::Model, overlay::Runs, plan};

/// Where running labs are recorded.
const RUN_DIR: &str = "/run/eastgate/labs";

/// A lab that runs, or whose start or end was cut short.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Four characters, part of every name that the lab uses
    pub id: String,
    /// The story's folder
    pub folder: PathBuf,
    /// The story in a line
    pub title: String,
    /// Everything that has a namespace
    pub nodes: Vec<Node>,
    /// Who builds it, or keeps it only while it is checked
    pub(super) owner: Option<Process>,
    /// The daemons that were started, by host
    #[serde(default)]
    pub(super) daemons: BTreeMap<String, Process>,
    /// The stations that were started, by hypervisor
    #[serde(default)]
    pub(super) stations: BTreeMap<String, Process>,
}

/// A node of a running lab.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Node {
    /// Its name in the story
    pub name: String,
    /// What it is
    pub kind: NodeKind,
    /// The name of its network namespace
    pub namespace: String,
}

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    /// An underlay segment
    Switch,
    /// A host that runs eastgate
    Host,
    /// A switch between a trunk of a host and the machines on it
    Trunk,
    /// A plain kernel VTEP
    Vtep,
    /// Where machines are that a station speaks for
    Hypervisor,
    /// A tenant's machine
    Machine,
}

impl Node {
    /// Its network namespace.
    pub(super) fn netns(&self) -> Netns {
        Netns::named(&self.namespace)
    }
}

impl Record {
    /// Takes an id that nobody has and writes down what will be created under it.
    pub(super) fn create(model: &Model) -> Result<Self, LabError> {
        loop {
            fs::create_dir_all(RUN_DIR).map_err(LabError::file(RUN_DIR))?;
            let record = Self::new(model, &random_id());
            match fs::File::create_new(record.file()) {
                Ok(_) => {}
                // Taken, or the last lab of another process ended and took the folder with it.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound) =>
                {
                    continue;
                }
                Err(error) => return Err(LabError::file(record.file())(error)),
            }
            record.save()?;
            fs::create_dir_all(record.dir()).map_err(LabError::file(record.dir()))?;
            return Ok(record);
        }
    }

    fn new(model: &Model, id: &str) -> Self {
        let kind = |name: &str| match model.hosts.get(name) {
            Some(host) if host.runs == Runs::Eastgate => NodeKind::Host,
            Some(_) => NodeKind::Vtep,
            None if model.machines.contains_key(name) => NodeKind::Machine,
            None if model.trunks.contains_key(name) => NodeKind::Trunk,
            None if model.topology.hypervisor.contains_key(name) => NodeKind::Hypervisor,
            None => NodeKind::Switch,
        };
        let node =
            |name: &str| Node { name: name.into(), kind: kind(name), namespace: plan::namespace(id, name) };
        Self {
            id: id.into(),
            folder: model.folder.clone(),
            title: model.topology.title.clone(),
            nodes: model.nodes().map(node).collect(),
            owner: Process::new(std::process::id() as i32),
            daemons: BTreeMap::new(),
            stations: BTreeMap::new(),
        }
    }

    /// Every lab that is recorded, by id.
    pub(super) fn all() -> Result<Vec<Self>, LabError> {
        let entries = match fs::read_dir(RUN_DIR) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
            Err(error) => return Err(LabError::file(RUN_DIR)(error)),
        };
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let files = paths.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
        // A file that vanishes meanwhile, or is still being written, is no lab that could be used.
        let mut records: Vec<Self> = files.filter_map(|path| Self::read(&path)).collect();
        records.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(records)
    }

    fn read(path: &Path) -> Option<Self> {
        serde_json::from_str(&fs::read_to_string(path).ok()?).ok()
    }

    /// The lab with this id, or the only one that was started from this story.
    pub(super) fn find(lab: &str) -> Result<Self, LabError> {
        let folder = super::story::folder(lab).ok();
        let named = |record: &Self| {
            record.id == lab || folder.as_ref().is_some_and(|folder| *folder == record.folder)
        };
        let mut found: Vec<Self> = Self::all()?.into_iter().filter(named).collect();
        if let Some(exact) = found.iter().position(|record| record.id == lab) {
            return Ok(found.swap_remove(exact));
        }
        match found.len() {
            0 => Err(LabError::NotRunning(lab.into())),
            1 => Ok(found.swap_remove(0)),
            _ => Err(LabError::Ambiguous {
                story: lab.into(),
                ids: found.into_iter().map(|record| record.id).collect(),
            }),
        }
    }

    /// Writes the record whole or not at all.
    pub(super) fn save(&self) -> Result<(), LabError> {
        let path = self.file();
        let text = serde_json::to_string_pretty(self).map_err(|error| LabError::file(&path)(error.into()))?;
        let next = path.with_extension("new");
        fs::write(&next, text).map_err(LabError::file(&next))?;
        fs::rename(&next, &path).map_err(LabError::file(&path))
    }

    /// Forgets the lab: its files, and the folders of all labs when it was the last.
    pub(super) fn remove(&self) -> Result<(), LabError> {
        for result in [fs::remove_dir_all(self.dir()), fs::remove_file(self.file())] {
            match result {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(LabError::file(self.dir())(error));
                }
                _ => {}
            }
        }
        // Both fail where another lab or a daemon still has files there, which is what should happen.
        let _ = fs::remove_dir(RUN_DIR).and_then(|()| match Path::new(RUN_DIR).parent() {
            Some(parent) => fs::remove_dir(parent),
            None => Ok(()),
        });
        Ok(())
    }

    /// The namespace of `node`.
    pub(super) fn namespace(&self, node: &str) -> Result<Netns, LabError> {
        let found = self.nodes.iter().find(|known| known.name == node);
        found.map(Node::netns).ok_or_else(|| LabError::NoNode {
            node: node.into(),
            nodes: self.nodes.iter().map(|node| node.name.clone()).collect(),
        })
    }

    /// The hosts that run eastgate.
    pub(super) fn hosts(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().filter(|node| node.kind == NodeKind::Host).map(|node| node.name.as_str())
    }

    /// The file with this record.
    pub(super) fn file(&self) -> PathBuf {
        PathBuf::from(RUN_DIR).join(format!("{}.json", self.id))
    }

    /// The folder with logs and sockets.
    pub(super) fn dir(&self) -> PathBuf {
        PathBuf::from(RUN_DIR).join(&self.id)
    }

    /// The control socket of the daemon on `host`.
    #[must_use]
    pub fn socket(&self, host: &str) -> PathBuf {
        self.dir().join(format!("{host}.sock"))
    }

    /// The log of the daemon on `host`.
    #[must_use]
    pub fn log(&self, host: &str) -> PathBuf {
        self.dir().join(format!("{host}.log"))
    }

    /// The configuration that the daemons were given last.
    pub(super) fn config(&self) -> PathBuf {
        self.dir().join("eastgate.toml")
    }
}

/// Four characters that can be typed: enough that labs started at once seldom try the same.
fn random_id() -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut bits = RandomState::new().hash_one(std::process::id());
    let mut id = String::new();
    for _ in 0..4 {
        id.push(LETTERS.get((bits & 31) as usize).copied().map_or('a', char::from));
        bits >>= 5;
    }
    id
}
