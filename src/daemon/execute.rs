//! Carries steps out. What `eastgate plan` prints is done here and nowhere else; what undoes it is in the record of changes before
//! it is done (`src/io/machine.rs`). What someone else takes away is put back by `src/daemon/upkeep.rs`, by the same steps where it is
//! gone altogether.

use std::{net::TcpListener, sync::Arc};

use anyhow::{Context, Result, anyhow};
use eastgate_dataplane::pipeline::shared::lock;
use eastgate_wire::{Attachment, AttachmentId};

use super::{Daemon, accelerate::device};
use crate::{
    control::{network::Network, server::Server, socket},
    http,
    io::{
        fastpath::KernelPath,
        guard::Role,
        machine::Machine,
        packet_socket::PacketSocket,
        worker::{Command, PuntSocket},
    },
    plan::{Frames, Place, Step, TUNNEL, UP},
};

impl Daemon {
    /// Does what a step says. Where programs are attached: the directions that lacked something.
    pub(super) async fn execute(&mut self, step: &Step) -> Result<Vec<&'static str>> {
        match step {
            Step::Serve { socket } => {
                let (listener, file) = socket::listen(socket)?;
                self.control = Some(Server::start(listener, self.view.clone())?);
                self.socket_file = file;
            }
            Step::ServeMetrics { address } => {
                let listener = TcpListener::bind(address)
                    .with_context(|| format!("cannot serve metrics at {address} (--metrics)"))?;
                self.watched = Some(http::Server::start(listener, self.view.clone())?);
            }
            Step::ServeApi { address } => {
                let health = self.view.api.clone();
                self.network = Some(Network::start(address, self.view.clone(), health)?);
            }
            Step::Set(change) => self.machine()?.set(change)?,
            Step::ClearAway { .. } => self.clear_away().await?,
            Step::Unpin { .. } => self.machine()?.remove_pins()?,
            Step::MakeVeth { device, peer, mtu } => {
                self.machine()?.will_make(device)?;
                self.netlink.add_veth(device, peer, *mtu).await?;
                self.know_devices(&UP).await?;
            }
            Step::MakeVxlan { device, ports } => self.make_tunnel(device, ports).await?,
            Step::MakeRouter { entry, router, mac, .. } => {
                self.machine()?.will_make(entry)?;
                self.netlink.add_veth_down(entry, router, *mac).await?;
            }
            Step::BringUp { devices, mtu } => {
                for device in devices {
                    self.netlink.bring_up(device, *mtu).await?;
                }
                self.links = self.netlink.links().await?;
            }
            Step::Route(entry) => {
                self.machine()?.will_route(std::iter::once(entry))?;
                self.netlink.add_entry(entry, &self.links).await?;
            }
            Step::SetOwn { file, to, .. } => {
                // A procfs that cannot be written is no reason to carry nothing.
                if let Err(error) = std::fs::write(format!("/proc/sys/{file}"), to.to_string()) {
                    tracing::debug!(file, %error, "not set");
                    return Ok(Vec::new());
                }
            }
            Step::Load { limits } => {
                let up = device(&self.links, UP[0])?.index;
                let port = self.tunnel_port.ok_or_else(|| anyhow!("device {TUNNEL} is gone"))?;
                let kernel = KernelPath::load(*limits, up, port)?;
                self.machine()?.remember_tables(kernel.table_ids()?)?;
                self.loading = Some(Arc::new(kernel));
            }
            Step::Pin { below } => {
                let kernel = self.programs()?;
                super::accelerate::pin(self.machine()?, &kernel, below)?;
            }
            Step::Attach { device: name, place, .. } => {
                let missing = self.attach(name, *place).await?;
                if !missing.is_empty() {
                    step.done();
                }
                return Ok(missing);
            }
            Step::OpenPort { frames, device: name, hears } => {
                let index = device(&self.links, name)?.index;
                let sockets = if *hears {
                    PacketSocket::open(index, self.workers.len())
                } else {
                    self.workers.iter().map(|_| PacketSocket::open_sender(index)).collect()
                };
                let sockets = sockets.context("cannot open a packet socket")?;
                let trunk = match frames {
                    Frames::Own(id) => {
                        self.tell_of_attachment(*id, index)?;
                        None
                    }
                    Frames::ByTag => Some(self.open_trunk(name, index)?),
                };
                for (worker, socket) in self.workers.iter().zip(sockets) {
                    worker.tell(Command::AddDevice(index, socket, trunk));
                }
            }
            Step::OpenVlan { id, device: name, .. } => {
                let index = device(&self.links, name)?.index;
                self.tell_of_attachment(*id, index)?;
            }
            Step::ServeStations { device: name } => {
                let index = device(&self.links, name)?.index;
                self.answer_stations(name, index)?;
            }
            Step::Listen { vtep, port, groups, .. } => self.listen(*vtep, *port, groups)?,
            Step::ListenForPunts { device } => {
                let kernel = self.programs()?;
                let up = nix::net::if_::if_nametoindex(*device)
                    .with_context(|| format!("device {device} is gone"))?;
                let sockets = PacketSocket::open_for_punts(up, self.workers.len())
                    .context("cannot listen for frames that are punted")?;
                for (worker, socket) in self.workers.iter().zip(sockets) {
                    worker.tell(Command::Up(PuntSocket { socket, session: kernel.session() }));
                }
            }
        }
        step.done();
        Ok(Vec::new())
    }

    /// Does these one after the other.
    pub(super) async fn execute_all(&mut self, steps: &[Step]) -> Result<()> {
        // In the record all at once: it is written in whole each time.
        let changes = steps.iter().filter_map(|step| match step {
            Step::Set(change) => Some(change),
            _ => None,
        });
        self.machine()?.will_set(changes)?;
        let entries = steps.iter().filter_map(|step| match step {
            Step::Route(entry) => Some(entry),
            _ => None,
        });
        self.machine()?.will_route(entries)?;
        for step in steps {
            self.execute(step).await?;
        }
        Ok(())
    }

    async fn attach(&mut self, name: &str, place: Place) -> Result<Vec<&'static str>> {
        let link = device(&self.links, name)?.clone();
        let kernel = self.programs();
        let role = match place {
            Place::Port { accelerated: false } => Role::Port(None),
            Place::Port { accelerated: true } => {
                Role::Port(Some(kernel.as_ref().map_err(gone)?.tenant_program()))
            }
            Place::Own => Role::Own(kernel.as_ref().map_err(gone)?.tunnel_program()),
            Place::Underlay => Role::Shared(kernel.as_ref().map_err(gone)?.underlay_program()),
        };
        let machine = self.machine.as_mut().ok_or_else(|| anyhow!("stopping"))?;
        Ok(machine.hold(&self.netlink, &link, role).await?)
    }

    fn tell_of_attachment(&self, id: AttachmentId, index: u32) -> Result<()> {
        let attachment = self.registry.get(id).context("the port is no attachment")?;
        for worker in &self.workers {
            worker.tell(Command::Attach(id, index, attachment.clone()));
        }
        Ok(())
    }

    /// The number for which frames are counted that are nobody's on a trunk: that of what is untagged there.
    fn open_trunk(&mut self, name: &str, index: u32) -> Result<AttachmentId> {
        let untagged = Attachment::trunk(name.into(), None);
        let id = self.registry.id(&untagged);
        lock(&self.view.state).names.insert(id, untagged.to_string().into());
        if let Some(kernel) = self.view.kernel.get() {
            kernel.open_trunk(index, id)?;
        }
        Ok(id)
    }

    /// What is changed on the machine is in its record.
    pub(super) fn machine(&mut self) -> Result<&mut Machine> {
        self.machine.as_mut().ok_or_else(|| anyhow!("stopping"))
    }

    /// The programs, in force or about to be.
    fn programs(&self) -> Result<Arc<KernelPath>> {
        self.view
            .kernel
            .get()
            .or(self.loading.as_ref())
            .cloned()
            .ok_or_else(|| anyhow!("there is no fast path"))
    }

    /// What attaches programs.
    pub(super) fn hook(&self) -> &'static str {
        self.machine.as_ref().map_or("", Machine::attaches_by)
    }

    /// The port of the kernel's vxlan device: the first that is free.
    async fn make_tunnel(&mut self, name: &'static str, ports: &[u16]) -> Result<()> {
        self.machine()?.will_make(name)?;
        let mut refused = anyhow!("no port for the kernel's vxlan device");
        for port in ports {
            match self.netlink.add_external_vxlan(name, *port).await {
                Ok(()) => {
                    self.tunnel_port = Some(*port);
                    return self.know_devices(&[name]).await;
                }
                Err(error) => refused = error.into(),
            }
            self.netlink.delete_link(name).await?;
        }
        Err(refused)
    }

    async fn know_devices(&mut self, names: &[&'static str]) -> Result<()> {
        self.links = self.netlink.links().await?;
        for name in names {
            self.made.insert(name, device(&self.links, name)?.index);
        }
        Ok(())
    }
}

fn gone(error: &anyhow::Error) -> anyhow::Error {
    anyhow!("{error:#}")
}
