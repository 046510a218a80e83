//! Devices, as the kernel knows them: the one file that speaks rtnetlink.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use eastgate_wire::MacAddr;
use futures_util::stream::{StreamExt, TryStreamExt};
use rtnetlink::{
    Handle, LinkUnspec, LinkVeth, LinkVxlan, MulticastGroup,
    packet_core::{
        NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
        NetlinkPayload,
    },
    packet_route::{
        RouteNetlinkMessage,
        link::{
            InfoData, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp,
        },
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourState},
        tc::{TcAttribute, TcHandle, TcMessage},
    },
};
use tokio::sync::mpsc;

/// A network device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// Interface index
    pub index: u32,
    /// Name
    pub name: String,
    /// Largest network-layer packet, in bytes
    pub mtu: u32,
    /// Administratively up
    pub up: bool,
    /// One end of a veth pair whose other end is in another network namespace
    pub is_veth: bool,
    /// It carries Ethernet frames
    pub is_ethernet: bool,
    /// What made it, as `ip -d link` names it: `veth`, `bridge`, `vlan`; nothing for a network card
    pub kind: Option<String>,
    /// Index of the bridge, bond or other device that it belongs to
    pub controller: Option<u32>,
    /// Index of the device of this namespace that it stands on, as a VLAN's does
    pub lower: Option<u32>,
}

/// The kinds of qdiscs that a device has.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Qdiscs {
    /// Where frames go out; nothing where that is none that does anything
    pub(super) root: Option<String>,
    /// In the one place for `clsact` and `ingress`
    pub(super) ingress: Option<String>,
}

/// A program that a driver calls for each frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Xdp {
    /// Its number
    pub(super) program: u32,
}

/// What of a device no part of eastgate works with, and an operator may want to know.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Details {
    /// A program that is called before there is a packet
    pub(super) xdp: Option<Xdp>,
    /// The UDP port of a vxlan device
    pub(super) vxlan_port: Option<u16>,
}

/// What went wrong between eastgate and the kernel.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket could not be opened.
    #[error("cannot open a netlink socket: {0}")]
    Open(#[source] std::io::Error),
    /// The kernel refused a request.
    #[error("the kernel refused to {what}: {source}")]
    Refused {
        /// What was asked for
        what: String,
        /// Its answer
        #[source]
        source: rtnetlink::Error,
    },
    /// What it is about is gone.
    #[error("the device of `{0}` is gone")]
    Gone(String),
}

/// A device appeared, changed or went away.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LinkEvent {
    /// It is there, like this.
    Is(Link),
    /// It is gone.
    Gone {
        /// Interface index
        index: u32,
    },
    /// Some device has an address more or less.
    Addresses,
    /// A qdisc or filter of a device has changed.
    Qdiscs {
        /// Interface index
        index: u32,
    },
    /// Messages were lost: everything has to be read again.
    Lost,
}

const WATCHED: [MulticastGroup; 4] =
    [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr, MulticastGroup::Tc];

/// A connection to the kernel, driven by a task of the current tokio runtime.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: Handle,
}

impl Netlink {
    /// Connects, to list what is of one table or device alone. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When no netlink socket is to be had, or the kernel does not know that (Linux 4.20).
    pub fn connect_strict() -> Result<Self, NetlinkError> {
        let (connection, handle, _) =
            rtnetlink::new_connection_with_strict_check().map_err(NetlinkError::Open)?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Connects. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When no netlink socket is to be had.
    pub fn connect() -> Result<Self, NetlinkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetlinkError::Open)?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// All devices of this network namespace, by name.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn links(&self) -> Result<BTreeMap<String, Link>, NetlinkError> {
        let refused = |source| NetlinkError::Refused { what: "list devices".into(), source };
        let messages: Vec<LinkMessage> =
            self.handle.link().get().execute().try_collect().await.map_err(refused)?;
        Ok(messages.iter().filter_map(link).map(|link| (link.name.clone(), link)).collect())
    }

    /// What else there is to know of all devices, by name.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) async fn details(&self) -> Result<BTreeMap<String, Details>, NetlinkError> {
        let refused = |source| NetlinkError::Refused { what: "list devices".into(), source };
        let messages: Vec<LinkMessage> =
            self.handle.link().get().execute().try_collect().await.map_err(refused)?;
        Ok(messages.iter().filter_map(|message| Some((link(message)?.name, details(message)))).collect())
    }

    /// Neighbours that were asked for their MAC and do not answer.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) async fn silent_neighbours(&self) -> Result<BTreeSet<IpAddr>, NetlinkError> {
        let refused = |source| NetlinkError::Refused { what: "list neighbours".into(), source };
        let all: Vec<_> = self.handle.neighbours().get().execute().try_collect().await.map_err(refused)?;
        let silent = all.into_iter().filter(|message| message.header.state == NeighbourState::Failed);
        let addresses =
            silent.flat_map(|message| message.attributes).filter_map(|attribute| match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some(IpAddr::V4(ip)),
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some(IpAddr::V6(ip)),
                _ => None,
            });
        Ok(addresses.collect())
    }

    /// Devices as they come and go, from now on. The channel closes when the socket does.
    ///
    /// # Errors
    /// When no netlink socket is to be had.
    pub fn watch_links() -> Result<mpsc::UnboundedReceiver<LinkEvent>, NetlinkError> {
        let (connection, _, mut messages) =
            rtnetlink::new_multicast_connection(&WATCHED).map_err(NetlinkError::Open)?;
        tokio::spawn(connection);
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some((message, _)) = messages.next().await {
                let event = match message.payload {
                    NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(message)) => {
                        link(&message).map(LinkEvent::Is)
                    }
                    NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(message)) => {
                        Some(LinkEvent::Gone { index: message.header.index })
                    }
                    NetlinkPayload::InnerMessage(
                        RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_),
                    ) => Some(LinkEvent::Addresses),
                    NetlinkPayload::InnerMessage(
                        RouteNetlinkMessage::NewQueueDiscipline(message)
                        | RouteNetlinkMessage::DelQueueDiscipline(message)
                        | RouteNetlinkMessage::NewTrafficFilter(message)
                        | RouteNetlinkMessage::DelTrafficFilter(message),
                    ) => Some(LinkEvent::Qdiscs { index: message.header.index.cast_unsigned() }),
                    NetlinkPayload::Overrun(_) => Some(LinkEvent::Lost),
                    _ => None,
                };
                if let Some(event) = event
                    && sender.send(event).is_err()
                {
                    return;
                }
            }
        });
        Ok(receiver)
    }

    /// Makes a veth pair, both ends up and with room for GSO packets.
    ///
    /// # Errors
    /// When the kernel refuses: a device of that name is there already, for one.
    pub async fn add_veth(&self, name: &str, peer: &str, mtu: u32) -> Result<(), NetlinkError> {
        let refused = |source| NetlinkError::Refused { what: format!("make veth {name} and {peer}"), source };
        let add = self.handle.link().add(LinkVeth::new(name, peer).build());
        add.execute().await.map_err(refused)?;
        self.bring_up(name, mtu).await?;
        self.bring_up(peer, mtu).await
    }

    /// Sets a device up, with this MTU.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn bring_up(&self, name: &str, mtu: u32) -> Result<(), NetlinkError> {
        let set = LinkUnspec::new_with_name(name).mtu(mtu).up().build();
        self.handle.link().set(set).execute().await.map_err(|source| NetlinkError::Refused {
            what: format!("set {name} up with an MTU of {mtu}"),
            source,
        })
    }

    /// Makes a veth pair whose second end has this MAC, both still down.
    ///
    /// # Errors
    /// When the kernel refuses: a device of that name is there already, for one.
    pub async fn add_veth_down(&self, name: &str, peer: &str, mac: MacAddr) -> Result<(), NetlinkError> {
        let refused = |source| NetlinkError::Refused { what: format!("make veth {name} and {peer}"), source };
        self.handle.link().add(LinkVeth::new(name, peer).build()).execute().await.map_err(refused)?;
        let set = LinkUnspec::new_with_name(peer).address(mac.0.to_vec()).build();
        self.handle.link().set(set).execute().await.map_err(refused)
    }

    /// Makes a vxlan device that unwraps whatever comes to a UDP port, with what was around it as metadata.
    ///
    /// # Errors
    /// When the kernel refuses: the port is taken, for one.
    pub async fn add_external_vxlan(&self, name: &str, port: u16) -> Result<(), NetlinkError> {
        let refused = |source| NetlinkError::Refused { what: format!("make vxlan {name}"), source };
        let message = LinkVxlan::new(name, 0)
            .collect_metadata(true)
            .learning(false)
            .port(port)
            .udp_zero_csum6_rx(true)
            .build();
        self.handle.link().add(message).execute().await.map_err(refused)?;
        let set = LinkUnspec::new_with_name(name).up().build();
        self.handle.link().set(set).execute().await.map_err(refused)
    }

    /// Takes a device away. One that is gone is fine.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn delete_link(&self, name: &str) -> Result<(), NetlinkError> {
        match self.links().await?.get(name) {
            Some(link) => self.delete_device(link).await,
            None => Ok(()),
        }
    }

    /// Takes a device away, whatever its name is by now. One that is gone is fine.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn delete_device(&self, link: &Link) -> Result<(), NetlinkError> {
        match self.handle.link().del(link.index).execute().await {
            Err(error) if errno(&error) != Some(libc::ENODEV) => {
                Err(NetlinkError::Refused { what: format!("delete device {}", link.name), source: error })
            }
            _ => Ok(()),
        }
    }

    /// The qdiscs of all devices, by interface index. There is no way to ask for one that does not also tell everyone else.
    pub(super) async fn qdiscs(&self) -> BTreeMap<u32, Qdiscs> {
        let mut all = BTreeMap::<u32, Qdiscs>::new();
        for message in self.list(RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default())).await {
            let RouteNetlinkMessage::NewQueueDiscipline(message) = message else { continue };
            let of_device = all.entry(message.header.index.cast_unsigned()).or_default();
            match message.header.parent {
                TcHandle::ROOT => of_device.root = kind(&message),
                TcHandle::CLSACT => of_device.ingress = kind(&message),
                _ => {}
            }
        }
        all
    }

    /// The filters in one direction of a device that has a qdisc for them.
    pub(super) async fn filters(&self, index: u32, direction: u16) -> Vec<TcMessage> {
        let mut message = TcMessage::with_index(index.cast_signed());
        message.header.parent = TcHandle { major: u16::MAX, minor: direction };
        let found = self.list(RouteNetlinkMessage::GetTrafficFilter(message)).await;
        let filters = found.into_iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewTrafficFilter(message) => Some(message),
            _ => None,
        });
        filters.collect()
    }

    /// What the kernel lists; nothing where what is asked for is not there.
    pub(super) async fn list(&self, message: RouteNetlinkMessage) -> Vec<RouteNetlinkMessage> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let Ok(mut answers) = self.handle.clone().request(request) else { return Vec::new() };
        let mut found = Vec::new();
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::InnerMessage(message) = answer.payload {
                found.push(message);
            }
        }
        found
    }

    /// Adds a queueing discipline; one that is there already is an error of kind `EEXIST`.
    pub(super) async fn add_qdisc(&self, message: TcMessage) -> Result<(), rtnetlink::Error> {
        self.change(RouteNetlinkMessage::NewQueueDiscipline(message), NLM_F_CREATE | NLM_F_EXCL).await
    }

    pub(super) async fn delete_qdisc(&self, message: TcMessage) -> Result<(), rtnetlink::Error> {
        self.change(RouteNetlinkMessage::DelQueueDiscipline(message), 0).await
    }

    /// Adds a filter, or puts it in the place of the one with the same handle.
    pub(super) async fn replace_filter(&self, message: TcMessage) -> Result<(), rtnetlink::Error> {
        self.change(RouteNetlinkMessage::NewTrafficFilter(message), NLM_F_CREATE | NLM_F_REPLACE).await
    }

    pub(super) async fn delete_filter(&self, message: TcMessage) -> Result<(), rtnetlink::Error> {
        self.change(RouteNetlinkMessage::DelTrafficFilter(message), 0).await
    }

    pub(super) async fn change(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), rtnetlink::Error> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let mut answers = self.handle.clone().request(request)?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload
                && error.code.is_some()
            {
                return Err(rtnetlink::Error::NetlinkError(error));
            }
        }
        Ok(())
    }
}

fn kind(message: &TcMessage) -> Option<String> {
    message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Kind(kind) => Some(kind.clone()),
        _ => None,
    })
}

fn link(message: &LinkMessage) -> Option<Link> {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        is_veth: false,
        is_ethernet: message.header.link_layer_type == LinkLayerType::Ether,
        kind: None,
        controller: None,
        lower: None,
    };
    let mut peer_elsewhere = false;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::LinkNetNsId(_) => peer_elsewhere = true,
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Controller(index) => link.controller = Some(*index).filter(|index| *index != 0),
            LinkAttribute::Link(index) => link.lower = Some(*index).filter(|index| *index != link.index),
            LinkAttribute::LinkInfo(info) => {
                link.kind = info.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    if peer_elsewhere {
        // The number is one of another namespace.
        link.lower = None;
    }
    link.is_veth = link.kind.as_deref() == Some("veth") && peer_elsewhere;
    (!link.name.is_empty()).then_some(link)
}

fn details(message: &LinkMessage) -> Details {
    let mut details = Details::default();
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Xdp(xdp) => {
                let program = xdp.iter().find_map(|xdp| match xdp {
                    LinkXdp::ProgId(id)
                    | LinkXdp::DrvProgId(id)
                    | LinkXdp::SkbProgId(id)
                    | LinkXdp::HwProgId(id) => Some(*id).filter(|id| *id != 0),
                    _ => None,
                });
                details.xdp = program.map(|program| Xdp { program });
            }
            LinkAttribute::LinkInfo(info) => {
                let mut ports = info.iter().filter_map(|info| match info {
                    LinkInfo::Data(InfoData::Vxlan(data)) => data.iter().find_map(|data| match data {
                        InfoVxlan::Port(port) => Some(*port),
                        _ => None,
                    }),
                    _ => None,
                });
                details.vxlan_port = ports.next();
            }
            _ => {}
        }
    }
    details
}

/// The kernel's error number in a refusal, when it gave one.
#[must_use]
pub fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.code.map(|code| -code.get()),
        _ => None,
    }
}
