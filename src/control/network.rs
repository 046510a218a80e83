//! The API over the network: TLS, and a token from whoever asks. There is no way to be asked there without TLS.

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use eastgate_wire::Rate;
use rustls::ServerConfig;
use tokio::{net::TcpStream, sync::mpsc, time::timeout};
use tokio_rustls::TlsAcceptor;

use super::{
    answer::MAX_ANSWER,
    certificate::Certificate,
    door::{ApiHealth, Door, Refusal},
    limits::{Rates, source_of},
    places::{Bounds, Place, Table},
    server::{Handler, converse},
    service::{Gate, Peer, Service},
    tokens::Tokens,
};
use crate::io::{clock::now, serving::Serving, sysopt::make_way};

/// Connections at one time. Whoever has shown no token makes room first.
const CONNECTIONS: usize = 256;

/// Connections of one source.
const OF_ONE: usize = 64;

/// Connections that have shown no token yet, and are not the first to go.
const NEWCOMERS: usize = 64;

const BOUNDS: Bounds =
    Bounds { all: CONNECTIONS, of_a_source: OF_ONE, newcomers: NEWCOMERS, unread: 2 * MAX_ANSWER };

/// New connections of one source, each of which costs a handshake.
const OF_A_SOURCE: Rate = Rate { per_second: 20, burst: 100 };

/// New connections of all sources that have shown no good token lately.
const OF_ALL: Rate = Rate { per_second: 100, burst: 400 };

/// Those beyond that which are the first of their source.
const FIRST: Rate = Rate { per_second: 20, burst: 100 };

/// Sources that are remembered.
const REMEMBERED: usize = 4096;

/// Connections that are read as streams.
const STREAMS: usize = 32;

/// How long a client may take for the handshake, for its request, and to read a part of an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the API is served over the network, and by which files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address {
    /// Where
    pub address: SocketAddr,
    /// The certificate and those that lead to its authority, in PEM
    pub certificate: PathBuf,
    /// Its key, in PEM
    pub key: PathBuf,
    /// Who may ask
    pub tokens: PathBuf,
}

/// Whoever serves it, on a thread of its own. Dropped, it serves nobody any more.
#[derive(Debug)]
pub struct Network {
    refresh: mpsc::Sender<()>,
    _thread: Serving,
}

impl Network {
    /// Answers whoever connects and may ask.
    ///
    /// # Errors
    /// When nobody can listen there, or one of the files is not as it is to be.
    pub fn start<H: Handler>(options: &Address, handler: Arc<H>, health: Arc<ApiHealth>) -> Result<Self> {
        let Address { address, certificate, key, tokens } = options;
        let certificate =
            Arc::new(Certificate::open(certificate, key).context("--api-certificate, --api-key")?);
        let tokens = Tokens::open(tokens).context("--api-tokens")?;
        let tls = certificate.tls()?;
        let listener = TcpListener::bind(address)
            .with_context(|| format!("cannot serve the API at {address} (--api)"))?;
        listener.set_nonblocking(true)?;
        let door = Door::new(tokens, certificate, health);
        let service = Arc::new(Service::new("api-", handler, Gate::Door(Box::new(door)), STREAMS)?);
        let (refresh, told) = mpsc::channel(1);
        let begin = move || {
            make_way();
            let listener = tokio::net::TcpListener::from_std(listener)?;
            Ok(serve(listener, tls, service, told))
        };
        Ok(Self { refresh, _thread: Serving::start("api", begin)? })
    }

    /// The files may be others: they are looked at without waiting for somebody to connect.
    pub fn refresh(&self) {
        // One that is on its way is as good as another.
        let _ = self.refresh.try_send(());
    }
}

/// Answers until nobody is left who could say that it is over.
async fn serve<H: Handler>(
    listener: tokio::net::TcpListener,
    tls: Arc<ServerConfig>,
    service: Arc<Service<H>>,
    mut refresh: mpsc::Receiver<()>,
) {
    let table = Table::new(BOUNDS);
    let (of_a_source, of_all) = (Rates::new(OF_A_SOURCE, REMEMBERED), Rates::new(OF_ALL, 1));
    let first = Rates::new(FIRST, 1);
    let acceptor = TlsAcceptor::from(tls);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(()) = refresh.recv() => {
                service.refresh();
                continue;
            }
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "no connection to the API was taken");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (source, at) = (source_of(from.ip()), now());
        let (is_first, is_good) = (!of_a_source.has(&source), table.is_good(source));
        // What many others do is no reason to turn away whoever has shown a token, or has not had a chance to.
        let may_come = of_a_source.take(&source, at)
            && (is_good || of_all.take(&(), at) || is_first && first.take(&(), at));
        if !may_come || !table.make_room(source) {
            service.count(Refusal::Connection);
            continue;
        }
        let place = Arc::new(Place::new(&table, Some(source), is_good));
        let local = stream.local_addr().ok().map(|local| local.ip());
        let peer = Arc::new(Peer::new(Some(source), local, place.clone()));
        let task = tokio::spawn(welcome(stream, acceptor.clone(), service.clone(), peer));
        place.is_served_by(task.abort_handle());
    }
}

async fn welcome<H: Handler>(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    service: Arc<Service<H>>,
    peer: Arc<Peer>,
) {
    service.refresh();
    // An event is not to wait for another one.
    let _ = stream.set_nodelay(true);
    let stream = match timeout(PATIENCE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            service.count(Refusal::Handshake);
            tracing::debug!(%error, "a TLS handshake failed");
            return;
        }
        Err(_) => return service.count(Refusal::Handshake),
    };
    if let Err(error) = converse(stream, service, peer, PATIENCE).await {
        tracing::debug!(error, "a client of the API was not served");
    }
}
