//! Who may come in over the network: whoever has a token, as often as it is good for, and asks the host that he means.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use eastgate_api::{ErrorCode, Failure};
use eastgate_wire::Rate;
use hyper::{HeaderMap, header::AUTHORIZATION};

use super::{
    certificate::{Certificate, is_ours},
    limits::Rates,
    service::{Caller, Peer},
    tokens::{Token, Tokens},
};
use crate::io::clock::now;

/// Requests with one token.
const OF_A_TOKEN: Rate = Rate { per_second: 50, burst: 200 };

/// Requests of one source that show none.
const OF_A_SOURCE: Rate = Rate { per_second: 20, burst: 100 };

/// Tokens that are not known, of one source.
const FAILED: Rate = Rate { per_second: 1, burst: 10 };

/// Sources and tokens that are remembered.
const REMEMBERED: usize = 4096;

/// How the API over the network is.
#[derive(Debug, Default)]
pub struct ApiHealth {
    /// What was refused, by the number of why
    refusals: [AtomicU64; Refusal::ALL.len()],
    /// What is wrong with its files
    trouble: Mutex<Option<String>>,
}

/// Why something was refused before it came to a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    Connection,
    Handshake,
    Token,
    Role,
    Rate,
    Origin,
    Host,
    Stream,
}

impl Refusal {
    /// All, in the order of their numbers.
    const ALL: [Self; 8] = [
        Self::Connection,
        Self::Handshake,
        Self::Token,
        Self::Role,
        Self::Rate,
        Self::Origin,
        Self::Host,
        Self::Stream,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Handshake => "handshake",
            Self::Token => "token",
            Self::Role => "role",
            Self::Rate => "rate",
            Self::Origin => "origin",
            Self::Host => "host",
            Self::Stream => "stream",
        }
    }
}

impl ApiHealth {
    pub(super) fn count(&self, why: Refusal) {
        if let Some(count) = self.refusals.get(why as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// What is wrong with the files of tokens and of the certificate; nothing of those that are good, or of an API that is not served.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn tell(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// How much was refused before it came to a request, by why.
    #[must_use]
    pub fn refusals(&self) -> BTreeMap<&'static str, u64> {
        Refusal::ALL
            .iter()
            .map(|why| why.name())
            .zip(self.refusals.iter().map(|it| it.load(Relaxed)))
            .collect()
    }
}

/// What is asked at the door.
#[derive(Debug)]
pub(super) struct Door {
    tokens: Tokens,
    certificate: Arc<Certificate>,
    of_a_token: Rates<Arc<str>>,
    of_a_source: Rates<IpAddr>,
    failed: Rates<IpAddr>,
    told: Rates<()>,
    pub(super) health: Arc<ApiHealth>,
}

impl Door {
    pub(super) fn new(tokens: Tokens, certificate: Arc<Certificate>, health: Arc<ApiHealth>) -> Self {
        let (of_a_token, of_a_source) =
            (Rates::new(OF_A_TOKEN, REMEMBERED), Rates::new(OF_A_SOURCE, REMEMBERED));
        Self {
            tokens,
            certificate,
            of_a_token,
            of_a_source,
            failed: Rates::new(FAILED, REMEMBERED),
            told: Rates::new(FAILED, 1),
            health,
        }
    }

    /// Files that are others are read again.
    pub(super) fn refresh(&self) {
        self.certificate.refresh();
        self.tokens.refresh();
        self.health.tell(self.tokens.trouble().or_else(|| self.certificate.trouble()));
    }

    /// Whether the host that is asked is this one.
    pub(super) fn is_ours(&self, host: &str, peer: &Peer) -> bool {
        is_ours(&self.certificate, host, peer.local)
    }

    /// Whoever shows no token may ask so often.
    pub(super) fn let_in(&self, peer: &Peer) -> Result<(), Failure> {
        if peer.source.is_none_or(|source| self.of_a_source.take(&source, now())) {
            return Ok(());
        }
        Err(self.too_often("this address asks"))
    }

    /// Who asks, by the token that is shown.
    pub(super) fn caller(&self, headers: &HeaderMap, peer: &Peer) -> Result<Caller, Failure> {
        let Some(shown) = headers.get(AUTHORIZATION) else {
            self.let_in(peer)?;
            let text = "who asks? Send `Authorization: Bearer TOKEN`: `eastgate token new` makes one";
            return Err(Failure::new(ErrorCode::Unauthenticated, text));
        };
        let at = now();
        // Guesses are few, and so cost nothing; whoever has shown a token here before does not suffer for a neighbour's.
        if !peer.has_shown_a_token() && peer.source.is_some_and(|source| !self.failed.has_any(&source, at)) {
            return Err(self.too_often("unknown tokens come from this address"));
        }
        let bearer = shown.to_str().ok().and_then(|shown| shown.split_once(' '));
        let bearer = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let Some(token) = bearer.and_then(|(_, token)| self.tokens.find(token.trim())) else {
            if let Some(source) = peer.source {
                self.failed.take(&source, at);
            }
            // However many there are, the log has room for something else.
            if let Some(source) = peer.source.filter(|_| self.told.take(&(), at)) {
                tracing::warn!(from = %source, "a token that is not known was shown to the API");
            }
            self.health.count(Refusal::Token);
            let text = "this token is not known here: it is none of the file of --api-tokens, or has expired";
            return Err(Failure::new(ErrorCode::Unauthenticated, text));
        };
        if !self.of_a_token.take(&token.name, at) {
            return Err(self.too_often(&format!("token `{}` asks", token.name)));
        }
        peer.shows_a_token();
        Ok(Caller::with(token))
    }

    /// A token that was shown before is still good.
    pub(super) fn still_admits(&self, token: &Token) -> bool {
        self.tokens.has(token)
    }

    fn too_often(&self, who: &str) -> Failure {
        self.health.count(Refusal::Rate);
        Failure::new(ErrorCode::Limited, format!("{who} too often: try again in a second"))
    }
}
