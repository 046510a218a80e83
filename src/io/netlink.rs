//! Devices, as the kernel knows them: the one file that speaks rtnetlink.

use std::collections::BTreeMap;

use futures_util::stream::{StreamExt, TryStreamExt};
use rtnetlink::{
    Handle, LinkUnspec, LinkVeth, LinkVxlan, MulticastGroup,
    packet_core::{
        NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
    },
    packet_route::{
        RouteNetlinkMessage,
        link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
        tc::TcMessage,
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
    /// Messages were lost: everything has to be read again.
    Lost,
}

const WATCHED: [MulticastGroup; 3] =
    [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];

/// A connection to the kernel, driven by a task of the current tokio runtime.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: Handle,
}

impl Netlink {
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

    /// Makes a veth pair, both ends up and with room for superframes.
    ///
    /// # Errors
    /// When the kernel refuses: a device of that name is there already, for one.
    pub async fn add_veth(&self, name: &str, peer: &str, mtu: u32) -> Result<(), NetlinkError> {
        let refused = |source| NetlinkError::Refused { what: format!("make veth {name} and {peer}"), source };
        let add = self.handle.link().add(LinkVeth::new(name, peer).build());
        add.execute().await.map_err(refused)?;
        for name in [name, peer] {
            let set = LinkUnspec::new_with_name(name).mtu(mtu).up().build();
            self.handle.link().set(set).execute().await.map_err(refused)?;
        }
        Ok(())
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
        let links = self.links().await?;
        let Some(link) = links.get(name) else { return Ok(()) };
        match self.handle.link().del(link.index).execute().await {
            Err(error) if errno(&error) != Some(libc::ENODEV) => {
                Err(NetlinkError::Refused { what: format!("delete device {name}"), source: error })
            }
            _ => Ok(()),
        }
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

    async fn change(&self, message: RouteNetlinkMessage, flags: u16) -> Result<(), rtnetlink::Error> {
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

fn link(message: &LinkMessage) -> Option<Link> {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        is_veth: false,
    };
    let (mut is_veth, mut peer_elsewhere) = (false, false);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::LinkNetNsId(_) => peer_elsewhere = true,
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::LinkInfo(info) => {
                is_veth = info.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Veth)));
            }
            _ => {}
        }
    }
    link.is_veth = is_veth && peer_elsewhere;
    (!link.name.is_empty()).then_some(link)
}

/// The kernel's error number in a refusal, when it gave one.
#[must_use]
pub fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.code.map(|code| -code.get()),
        _ => None,
    }
}
