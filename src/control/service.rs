//! What becomes of an HTTP request, whichever way it has come: who asks, whether he may, and the answer.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use eastgate_api::{
    CallerRow, Class, ErrorCode, Failure, MAX_BODY, Misrouted, PAGES, Page, Role, Route, Scope, find, openapi,
};
use http_body_util::BodyExt as _;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{
        ALLOW, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, EXPECT, HOST, HeaderName, HeaderValue,
        ORIGIN, RETRY_AFTER, WWW_AUTHENTICATE,
    },
};
use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
};

use super::{
    answer::Answer,
    body::Body,
    door::{Door, Refusal},
    follow::follow,
    places::Place,
    queries::Queries,
    server::Handler,
    tokens::Token,
};
use crate::{http::Pages, page};

/// How long a client may take for the body of its request.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of an oversized body that are read and thrown away.
const MAX_REST: usize = 1 << 20;

/// Streams with one token.
const STREAMS_OF_A_TOKEN: usize = 8;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// How somebody has come in.
pub(super) enum Gate {
    /// By the control socket, which its owner alone may open
    Owner,
    /// Over the network
    Door(Box<Door>),
}

/// Who asks.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// What the log calls him
    name: Arc<str>,
    role: Role,
    pub(super) scope: Scope,
    token: Option<Arc<Token>>,
}

impl Caller {
    fn owner() -> Self {
        Self { name: "owner".into(), role: Role::Administer, scope: Scope::all(), token: None }
    }

    pub(super) fn with(token: Arc<Token>) -> Self {
        Self { name: token.name.clone(), role: token.role, scope: token.scope.clone(), token: Some(token) }
    }
}

/// The other end of a conversation.
#[derive(Debug)]
pub(super) struct Peer {
    /// Whom its address stands for; none of the control socket
    pub(super) source: Option<IpAddr>,
    /// The address that it has connected to
    pub(super) local: Option<IpAddr>,
    pub(super) place: Arc<Place>,
    known: AtomicBool,
}

impl Peer {
    pub(super) const fn new(source: Option<IpAddr>, local: Option<IpAddr>, place: Arc<Place>) -> Self {
        Self { source, local, place, known: AtomicBool::new(false) }
    }

    pub(super) fn has_shown_a_token(&self) -> bool {
        self.known.load(Relaxed)
    }

    pub(super) fn shows_a_token(&self) {
        self.known.store(true, Relaxed);
        self.place.is_known();
    }
}

/// What answers.
pub(super) struct Service<H> {
    handler: Arc<H>,
    pub(super) queries: Queries,
    pages: Pages<H>,
    gate: Gate,
    /// Changes that are under way, where they are bounded
    changes: Option<Semaphore>,
    /// Room for streams
    streams: Arc<Semaphore>,
    /// Whoever has one, by the token's name
    streaming: Arc<Mutex<HashMap<Arc<str>, usize>>>,
    /// Streams ask one after the other.
    pub(super) turn: tokio::sync::Mutex<()>,
}

impl<H: Handler> Service<H> {
    /// One with threads of its own, whose names begin with `of`, and with room for so many streams.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn new(of: &str, handler: Arc<H>, gate: Gate, streams: usize) -> std::io::Result<Self> {
        Ok(Self {
            queries: Queries::start(of, &handler)?,
            pages: Pages::new(handler.clone()),
            handler,
            // The daemon takes changes one after the other, and those of its owner do not wait for many from elsewhere.
            changes: matches!(gate, Gate::Door(_)).then(|| Semaphore::new(1)),
            gate,
            streams: Arc::new(Semaphore::new(streams)),
            streaming: Arc::default(),
            turn: tokio::sync::Mutex::default(),
        })
    }

    /// Answers a request.
    pub(super) async fn respond(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Infallible> {
        peer.place.works();
        let mut response = match self.answer(&peer, request).await {
            Ok(response) => response,
            Err(refused) => refused.response(&peer),
        };
        secure(response.headers_mut());
        Ok(response)
    }

    async fn answer(
        self: &Arc<Self>,
        peer: &Arc<Peer>,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refused> {
        self.check_origin(peer, request.headers())?;
        // What is shown to whom it is not sent is the same.
        let method = if *request.method() == Method::HEAD { Method::GET } else { request.method().clone() };
        let path = request.uri().path().to_owned();
        if let Some(asset) = page::find(&path) {
            self.let_in(peer)?;
            self.only_get(&method, &path)?;
            return Ok(asset_response(asset, peer));
        }
        if let Some((_, page, role, _)) = PAGES.iter().find(|(name, ..)| *name == path) {
            let caller = self.reader(peer, request.headers(), *role)?;
            self.only_get(&method, &path)?;
            return self.page(*page, caller.as_ref(), peer).await;
        }
        let caller = self.caller(peer, request.headers())?;
        let route = find(method.as_str(), &path)?;
        self.check_role(&caller, route)?;
        self.carry_out(route, caller, peer, request).await
    }

    /// Asks, or does, what the route is for.
    async fn carry_out(
        self: &Arc<Self>,
        route: &Route,
        caller: Caller,
        peer: &Arc<Peer>,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refused> {
        let (head, body) = request.into_parts();
        // Whoever keeps us waiting for it may have to make room.
        peer.place.waits(0);
        let bytes = read_body(&head.headers, body).await?;
        peer.place.works();
        let call = eastgate_api::Body { query: head.uri.query().unwrap_or_default(), bytes: &bytes };
        let (mut asked, follows) = route.read(call)?;
        if follows && let Some(filter) = asked.filter_mut() {
            // Where a browser's stream goes on that was broken off.
            let last = head.headers.get("last-event-id").and_then(|last| last.to_str().ok());
            filter.after = filter.after.take().or_else(|| last.map(str::to_owned));
            return self.stream(caller, std::mem::take(filter), peer);
        }
        if asked.class() != Class::Change {
            let answer = self.queries.ask(asked, caller.scope, |result| Answer::of(&result)).await?;
            return Ok(json(answer, peer));
        }
        let _under_way = match &self.changes {
            Some(changes) => Some(changes.try_acquire().map_err(|_| {
                Failure::new(ErrorCode::Busy, "something else is being changed: try again in a moment")
            })?),
            None => None,
        };
        if caller.token.is_some() {
            tracing::info!(token = &*caller.name, from = ?peer.source, "{}", route.name());
        }
        Ok(json(Answer::of(&self.handler.change(asked, &caller.scope).await), peer))
    }

    fn stream(
        self: &Arc<Self>,
        caller: Caller,
        filter: eastgate_api::Filter,
        peer: &Arc<Peer>,
    ) -> Result<Response<Body>, Refused> {
        let full = || {
            self.count(Refusal::Stream);
            Failure::new(ErrorCode::Busy, "as many streams are read as may be: end one, or ask again later")
        };
        let permit = self.streams.clone().try_acquire_owned().map_err(|_| full())?;
        let mine = match &caller.token {
            Some(token) => Some(Streaming::of(&self.streaming, &token.name).ok_or_else(full)?),
            None => None,
        };
        let (to, from) = mpsc::channel(1);
        let service = self.clone();
        tokio::spawn(async move {
            follow(service, caller, filter, to).await;
            drop(mine);
        });
        let mut response = Response::new(Body::Messages { from, _permit: permit });
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        peer.place.works();
        Ok(response)
    }

    /// Whether whoever was let in before may still be here.
    pub(super) fn still_admits(&self, caller: &Caller) -> bool {
        match (&self.gate, &caller.token) {
            (Gate::Door(door), Some(token)) => door.still_admits(token),
            _ => true,
        }
    }

    /// Files that are others are read again.
    pub(super) fn refresh(&self) {
        if let Gate::Door(door) = &self.gate {
            door.refresh();
        }
    }

    pub(super) fn count(&self, why: Refusal) {
        if let Gate::Door(door) = &self.gate {
            door.health.count(why);
        }
    }

    async fn page(
        &self,
        page: Page,
        caller: Option<&Caller>,
        peer: &Arc<Peer>,
    ) -> Result<Response<Body>, Refused> {
        let text = |status, text: Bytes| {
            let mut response = Response::new(Body::whole(text, &peer.place));
            *response.status_mut() = status;
            response.headers_mut().insert(CONTENT_TYPE, TEXT);
            response
        };
        Ok(match page {
            Page::Health => text(StatusCode::OK, Bytes::from_static(b"ok\n")),
            Page::Ready => match self.pages.problems().await {
                Ok(problems) if problems.is_empty() => text(StatusCode::OK, Bytes::from_static(b"ok\n")),
                // Names are for those who may read them.
                Ok(problems) if caller.is_some_and(|caller| caller.scope.is_all()) => {
                    text(StatusCode::SERVICE_UNAVAILABLE, (problems.join("\n") + "\n").into())
                }
                Ok(_) => text(StatusCode::SERVICE_UNAVAILABLE, Bytes::from_static(b"not ready\n")),
                Err(why) => return Err(Failure::new(ErrorCode::Failed, why).into()),
            },
            Page::Metrics => {
                if caller.is_some_and(|caller| !caller.scope.is_all()) {
                    let text = "metrics are of all tenants, and this token is of some";
                    return Err(Failure::new(ErrorCode::Forbidden, text).into());
                }
                let made = self.pages.metrics().await;
                let made = made.map_err(|why| Failure::new(ErrorCode::Failed, why))?;
                let mut response = text(StatusCode::OK, made);
                let format = HeaderValue::from_static(prometheus::TEXT_FORMAT);
                response.headers_mut().insert(CONTENT_TYPE, format);
                response
            }
            Page::Caller => {
                let told = caller.map(|it| CallerRow::new(&it.name, it.role, &it.scope));
                let told = serde_json::to_vec(&told).unwrap_or_default();
                json(Answer { status: StatusCode::OK, json: told.into() }, peer)
            }
            Page::OpenApi => {
                let mut description = serde_json::to_vec_pretty(&openapi()).unwrap_or_default();
                description.push(b'\n');
                json(Answer { status: StatusCode::OK, json: description.into() }, peer)
            }
        })
    }

    /// What a page of another origin has a browser send is refused, whatever it is.
    fn check_origin(&self, peer: &Peer, headers: &HeaderMap) -> Result<(), Refused> {
        // One that is there twice means whatever its reader takes it for.
        let text = |name: HeaderName| {
            let mut values = headers.get_all(name).iter();
            let first = values.next()?;
            Some(if values.next().is_none() { first.to_str().unwrap_or_default() } else { "" })
        };
        let host = text(HOST).unwrap_or_default();
        if let Gate::Door(door) = &self.gate
            && !door.is_ours(host, peer)
        {
            self.count(Refusal::Host);
            let text =
                "this is not the host that was asked: ask for a name of its certificate, or for its address";
            return Err(Failure::new(ErrorCode::Forbidden, text).into());
        }
        let is_own = |origin: &str| {
            matches!(self.gate, Gate::Door(_))
                && origin.strip_prefix("https://").is_some_and(|it| it.eq_ignore_ascii_case(host))
        };
        let from_elsewhere = text(ORIGIN).is_some_and(|origin| !is_own(origin))
            || matches!(text(SEC_FETCH_SITE), Some("cross-site" | "same-site"))
                && text(SEC_FETCH_MODE) != Some("navigate");
        if from_elsewhere {
            self.count(Refusal::Origin);
            let text = "pages of another origin get nothing here";
            return Err(Failure::new(ErrorCode::Forbidden, text).into());
        }
        Ok(())
    }

    fn let_in(&self, peer: &Peer) -> Result<(), Failure> {
        match &self.gate {
            Gate::Owner => Ok(()),
            Gate::Door(door) => door.let_in(peer),
        }
    }

    fn caller(&self, peer: &Peer, headers: &HeaderMap) -> Result<Caller, Failure> {
        match &self.gate {
            Gate::Owner => Ok(Caller::owner()),
            Gate::Door(door) => door.caller(headers, peer),
        }
    }

    /// Who reads a page that takes this role; somebody unknown may where it takes none.
    fn reader(
        &self,
        peer: &Peer,
        headers: &HeaderMap,
        role: Option<Role>,
    ) -> Result<Option<Caller>, Failure> {
        let shows = headers.contains_key(hyper::header::AUTHORIZATION);
        if role.is_none() && matches!(self.gate, Gate::Door(_)) && !shows {
            return self.let_in(peer).map(|()| None);
        }
        self.caller(peer, headers).map(Some)
    }

    fn check_role(&self, caller: &Caller, route: &Route) -> Result<(), Failure> {
        let wanted = route.role();
        let text = if caller.role < wanted {
            format!(
                "`{}` takes the role `{}`, and token `{}` has `{}`",
                route.name(),
                wanted.name(),
                caller.name,
                caller.role.name()
            )
        } else if wanted == Role::Administer && !caller.scope.is_all() {
            format!("`{}` is for all tenants, and token `{}` is of some", route.name(), caller.name)
        } else {
            return Ok(());
        };
        self.count(Refusal::Role);
        Err(Failure::new(ErrorCode::Forbidden, text))
    }

    fn only_get(&self, method: &Method, path: &str) -> Result<(), Refused> {
        if *method == Method::GET {
            return Ok(());
        }
        let failure = Failure::new(ErrorCode::NotAllowed, format!("{path} can only be read: GET or HEAD"));
        Err(Refused { failure, allow: Some("GET, HEAD".to_owned()) })
    }
}

/// Where a browser says that a request comes from, and what for (Fetch Metadata).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// A stream's place among those of its token.
struct Streaming {
    all: Arc<Mutex<HashMap<Arc<str>, usize>>>,
    name: Arc<str>,
}

impl Streaming {
    fn of(all: &Arc<Mutex<HashMap<Arc<str>, usize>>>, name: &Arc<str>) -> Option<Self> {
        let mut counts = all.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(name.clone()).or_default();
        if *count >= STREAMS_OF_A_TOKEN {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Self { all: all.clone(), name: name.clone() })
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        let mut counts = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.name);
            }
        }
    }
}

/// The body of a request, no longer than it may be.
async fn read_body(headers: &HeaderMap, mut body: Incoming) -> Result<Bytes, Refused> {
    let late = |_| Failure::new(ErrorCode::Malformed, "the request did not come to its end in time");
    let too_long = || Failure::new(ErrorCode::TooLong, format!("a request has at most {MAX_BODY} bytes"));
    let announced = hyper::body::Body::size_hint(&body).lower();
    // Whoever waits to be told does not send it.
    if announced > MAX_BODY as u64 && headers.contains_key(EXPECT) {
        return Err(too_long().into());
    }
    let reading = async {
        let mut bytes = Vec::new();
        let mut len = 0;
        while let Some(frame) = body.frame().await {
            let cut = |_| Failure::new(ErrorCode::Malformed, "the request broke off");
            if let Ok(data) = frame.map_err(cut)?.into_data() {
                len += data.len();
                if len <= MAX_BODY {
                    bytes.extend_from_slice(&data);
                } else if len > MAX_BODY + MAX_REST {
                    // Closing with bytes unread would take the answer away from the asker, but not for ever.
                    return Err(too_long());
                }
            }
        }
        if len > MAX_BODY { Err(too_long()) } else { Ok(bytes) }
    };
    let bytes = timeout(PATIENCE, reading).await.map_err(late)??;
    let is_json = headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok()).is_some_and(|it| {
        it.split(';').next().is_some_and(|it| it.trim().eq_ignore_ascii_case("application/json"))
    });
    if !bytes.is_empty() && !is_json {
        let text = "what comes along is JSON, and said to be: content-type: application/json";
        return Err(Failure::new(ErrorCode::MediaType, text).into());
    }
    Ok(bytes.into())
}

/// Why a request is not carried out.
struct Refused {
    failure: Failure,
    /// Methods that could be used
    allow: Option<String>,
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self { failure, allow: None }
    }
}

impl From<Misrouted> for Refused {
    fn from(Misrouted { failure, allow }: Misrouted) -> Self {
        Self { failure, allow }
    }
}

impl Refused {
    fn response(self, peer: &Arc<Peer>) -> Response<Body> {
        let mut response = json(Answer::failed(&self.failure), peer);
        let headers = response.headers_mut();
        if let Some(allow) = self.allow.and_then(|allow| HeaderValue::try_from(allow).ok()) {
            headers.insert(ALLOW, allow);
        }
        match self.failure.code {
            ErrorCode::Unauthenticated => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"eastgate\""));
            }
            // Of what is too long not all was read.
            ErrorCode::TooLong => {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response
    }
}

fn json(answer: Answer, peer: &Arc<Peer>) -> Response<Body> {
    let mut response = Response::new(Body::whole(answer.json, &peer.place));
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, JSON);
    if matches!(answer.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

fn asset_response(asset: &page::Asset, peer: &Arc<Peer>) -> Response<Body> {
    let mut response = Response::new(Body::whole(Bytes::from_static(asset.bytes), &peer.place));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(asset.content_type));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(page::CONTENT_SECURITY_POLICY));
    response
}

/// What every response says to a browser: nothing of it is kept, guessed at, framed, or had by another origin.
fn secure(headers: &mut HeaderMap) {
    for (name, value) in [
        ("cache-control", "no-store"),
        ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
    ] {
        let name = HeaderName::from_static(name);
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
}
