//! The bridge's side of edge virtual bridging (VDP, IEEE 802.1Qbg): stations say which machine has which profile, and an association that is
//! taken is an endpoint for as long as it lasts.
//!
//! Each device with stations has a thread that speaks with them ([`port`]). What they may is asked of the configuration ([`terms`]), what they have
//! stands in one book ([`book`]); what changes there the daemon's loop puts in force, as it does what is learned.

pub(super) mod book;
mod port;
pub(super) mod terms;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use anyhow::{Context, Result};
use eastgate_config::{AssociatedMachines, Config, Host};
use eastgate_dataplane::pipeline::shared::lock;
use eastgate_wire::MacAddr;

use self::{book::Book, port::StationPort, terms::Terms};
use super::{Daemon, PortState};
use crate::{
    io::{
        clock::now,
        stations::{Conversation, StationSocket, Wake},
    },
    plan::{Frames, Step, unfit},
};

/// What the threads of all devices, the daemon's loop and those who ask share.
pub(super) struct Desk {
    /// Taken before the book, where both are
    terms: Mutex<Arc<Terms>>,
    book: Mutex<Book>,
    heard: Mutex<BTreeMap<Arc<str>, Heard>>,
    wakes: Mutex<BTreeMap<Arc<str>, Wake>>,
}

/// What was heard at a device.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Heard {
    /// Stations that are known
    pub(super) stations: Vec<MacAddr>,
    /// Frames of others, by the configuration
    pub(super) not_heard: u64,
    /// Requests that were refused
    pub(super) refused: u64,
    /// The last of them, and why
    pub(super) last_refusal: Option<String>,
}

impl Desk {
    pub(super) fn new(terms: Terms) -> Self {
        Self {
            terms: Mutex::new(Arc::new(terms)),
            book: Mutex::default(),
            heard: Mutex::default(),
            wakes: Mutex::default(),
        }
    }

    /// Has the threads of these devices look.
    fn wake<'d>(&self, devices: impl Iterator<Item = &'d Arc<str>>) {
        let wakes = lock(&self.wakes);
        devices.filter_map(|device| wakes.get(device)).for_each(Wake::up);
    }

    /// Other terms: what may no longer be is ended, and its stations are told.
    pub(super) fn set_terms(&self, terms: Arc<Terms>) {
        *lock(&self.terms) = terms;
        lock(&self.wakes).values().for_each(Wake::up);
    }

    /// The machines that are associated, as these terms have them.
    pub(super) fn endpoints(&self, terms: &Terms) -> AssociatedMachines {
        lock(&self.book).endpoints(terms)
    }

    /// The same by the terms in force. What changes from now on is put in force afterwards.
    pub(super) fn take_endpoints(&self) -> AssociatedMachines {
        let terms = lock(&self.terms).clone();
        let mut book = lock(&self.book);
        book.take_changed();
        book.endpoints(&terms)
    }

    pub(super) fn has_changed(&self) -> bool {
        lock(&self.book).has_changed()
    }

    /// These are in force now.
    pub(super) fn are_in_force(&self, endpoints: &AssociatedMachines) {
        lock(&self.book).are_in_force(endpoints);
    }

    /// What cannot be put in force is not associated; the rest is tried again.
    pub(super) fn end_others(&self) {
        let mut book = lock(&self.book);
        book.end_others();
        let devices: Vec<Arc<str>> = book.ordered().cloned().collect();
        drop(book);
        self.wake(devices.iter());
    }

    /// What those who ask are told of.
    pub(super) fn read<T>(&self, read: impl FnOnce(&Terms, &Book) -> T) -> T {
        let terms = lock(&self.terms).clone();
        read(&terms, &lock(&self.book))
    }

    pub(super) fn heard(&self, device: &str) -> Heard {
        lock(&self.heard).get(device).cloned().unwrap_or_default()
    }

    fn forget(&self, device: &str) {
        lock(&self.wakes).remove(device);
        lock(&self.heard).remove(device);
        lock(&self.book).end_device(device);
    }
}

/// A device with stations, and the thread that answers them.
pub(super) struct Stations {
    device: Arc<str>,
    up: Arc<AtomicBool>,
    conversation: Conversation,
}

impl Stations {
    /// Whether they are answered.
    pub(super) fn is_alive(&self) -> bool {
        self.conversation.alive()
    }
}

impl Daemon {
    /// Whether there may be associations.
    pub(super) fn has_stations(&self) -> bool {
        !self.stations.is_empty() || self.view.desk.has_changed()
    }

    /// Serves the devices behind which stations are: open to them, and closed to machines until these are associated.
    pub(super) async fn serve_stations(
        &mut self,
        host: &Host,
        devices: &BTreeSet<Arc<str>>,
    ) -> BTreeMap<Arc<str>, PortState> {
        let is_at = |daemon: &Self, device: &str, ifindex: u32| {
            daemon.links.get(device).is_some_and(|link| link.index == ifindex)
                && host.vdp.contains_key(device)
        };
        let known = self.stations.iter();
        let gone = known.filter(|(index, it)| !is_at(self, &it.device, **index) || !it.is_alive());
        for index in gone.map(|(index, _)| *index).collect::<Vec<_>>() {
            self.leave_stations(index);
        }
        let mut states = BTreeMap::new();
        for device in host.vdp.keys() {
            let state = match self.serve_stations_at(device, host, devices).await {
                Ok(state) => state,
                Err(error) => PortState::Failed(format!("{error:#}")),
            };
            let before = lock(&self.view.state).segments.get(device).cloned();
            if let PortState::Failed(error) = &state
                && before.as_ref() != Some(&state)
            {
                tracing::error!(%device, error, "stations cannot be served");
            }
            states.insert(device.clone(), state);
        }
        states
    }

    async fn serve_stations_at(
        &mut self,
        device: &Arc<str>,
        host: &Host,
        devices: &BTreeSet<Arc<str>>,
    ) -> Result<PortState> {
        let Some(link) = self.links.get(&**device).cloned() else { return Ok(PortState::Absent) };
        if let Some(why) = unfit(&link, host, &self.links, devices) {
            self.leave_stations(link.index);
            self.close_unused(link.index);
            return Ok(PortState::Failed(why));
        }
        self.open_device(device, Frames::ByTag, &link).await?;
        if !self.stations.contains_key(&link.index) {
            self.execute(&Step::ServeStations { device: device.to_string() }).await?;
            tracing::info!(%device, "stations are served");
        }
        if let Some(stations) = self.stations.get(&link.index)
            && stations.up.swap(link.up, Relaxed) != link.up
        {
            stations.conversation.wake();
        }
        Ok(if link.up { PortState::Forwarding } else { PortState::Down })
    }

    /// Begins to answer stations at a device.
    pub(super) fn answer_stations(&mut self, device: &str, index: u32) -> Result<()> {
        let device: Arc<str> = device.into();
        let up = Arc::new(AtomicBool::new(true));
        let desk = self.view.desk.clone();
        let begin = || -> io::Result<Conversation> {
            let (socket, wake) = (StationSocket::open(index)?, Wake::new()?);
            let port = StationPort::new(device.clone(), socket.mac(), desk.clone(), up.clone(), now());
            lock(&desk.wakes).insert(device.clone(), wake.clone());
            Conversation::start(socket, wake, port)
        };
        let conversation = begin().context("cannot answer stations")?;
        self.stations.insert(index, Stations { device, up, conversation });
        Ok(())
    }

    /// Nobody answers stations at a device any more, and what they have associated there is over.
    pub(super) fn leave_stations(&mut self, index: u32) {
        let Some(Stations { device, conversation, .. }) = self.stations.remove(&index) else { return };
        drop(conversation);
        self.view.desk.forget(&device);
        tracing::info!(%device, "stations are served no more");
    }

    /// The terms of a configuration on this host.
    pub(super) fn terms_of(written: &Arc<Config>, host: &str) -> Arc<Terms> {
        Arc::new(Terms::new(written.clone(), host))
    }
}
