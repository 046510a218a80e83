//! The HTTP API: which method and path ask what. Requests are written as calls, and calls read as requests, by one table.

use std::mem::discriminant;

use eastgate_wire::{Addr, Vni};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    Criterion, ErrorCode, Failure, Filter, ProbeKind, ProbeRequest, Request, Role, TraceRequest, nearest,
    query,
};

/// The longest body of a call, in bytes. The largest frame to be traced fits in hexadecimal digits.
pub const MAX_BODY: usize = 160 * 1024;

/// The parameter of a route for events: go on with what happens from now on.
const FOLLOW: &str = "follow";

/// How something is asked (RFC 9110 section 9).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// To be shown, which changes nothing
    Get,
    /// To be done
    Post,
    /// To be thrown away
    Delete,
}

impl Method {
    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }
}

/// What comes along with a call, and the request that becomes of it.
#[derive(Clone, Copy, Debug)]
pub enum Takes {
    /// Nothing
    Nothing(fn() -> Request),
    /// A filter, as the query
    Query(fn(Filter) -> Request),
    /// A filter, as the body
    Filter(fn(Filter) -> Request),
    /// A packet, as the body
    Packet(fn(TraceRequest) -> Request),
    /// A probe, as the body
    Probe(fn(ProbeRequest) -> Request),
    /// The path of a configuration, as the body
    File(fn(String) -> Request),
}

/// The body of a call that names a configuration.
#[derive(Debug, JsonSchema, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    /// Its file, as the daemon can open it
    pub config: String,
}

/// A method and a path.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// The method
    pub method: Method,
    /// The path
    pub path: &'static str,
    /// What comes along
    pub takes: Takes,
    /// What it is for, in a sentence
    pub summary: &'static str,
}

const fn get(path: &'static str, request: fn(Filter) -> Request, summary: &'static str) -> Route {
    Route { method: Method::Get, path, takes: Takes::Query(request), summary }
}

const fn post(path: &'static str, takes: Takes, summary: &'static str) -> Route {
    Route { method: Method::Post, path, takes, summary }
}

/// Every route that a request has: one for each.
pub const ROUTES: [Route; 20] = [
    Route {
        method: Method::Get,
        path: "/v1/status",
        takes: Takes::Nothing(|| Request::Status {}),
        summary: "How the daemon is",
    },
    get("/v1/endpoints", Request::Endpoints, "Endpoints of this host's networks"),
    get("/v1/fdb", Request::Fdb, "Where MACs are"),
    get("/v1/flows", Request::Flows, "Live flows"),
    get("/v1/expectations", Request::Expectations, "Flows that helpers expect"),
    get("/v1/neighbors", Request::Neighbors, "Which addresses have which MAC, and who answers for them"),
    get("/v1/drops", Request::Drops, "What was dropped, and why"),
    get("/v1/policy", Request::Policy, "Compiled policy: sizes, groups and rules with their hits"),
    get("/v1/rules", Request::Rules, "What each rule has done"),
    get("/v1/matrix", Request::Matrix, "Who may reach whom, who does, and who was refused"),
    get(
        "/v1/events",
        Request::Events,
        "What has happened: the newest, or what came after `after`; with `follow`, what happens from then on, as server-sent events",
    ),
    get("/v1/machines", Request::Machines, "Machines that stations have associated"),
    get("/v1/staged", Request::Staged, "What the staged version of the configuration would do otherwise"),
    post("/v1/trace", Takes::Packet(Request::Trace), "Walks a hypothetical packet through the path"),
    post(
        "/v1/probe",
        Takes::Probe(Request::Probe),
        "Sends packets the real way, from an endpoint's port or from the appliance, and tells what comes of them",
    ),
    post(
        "/v1/reload",
        Takes::Nothing(|| Request::Reload {}),
        "Reads the configuration again and puts it in force, whole or not at all",
    ),
    post(
        "/v1/stage",
        Takes::File(|config| Request::Stage { config }),
        "Tries a version of the configuration beside the one in force",
    ),
    Route {
        method: Method::Delete,
        path: "/v1/staged",
        takes: Takes::Nothing(|| Request::Unstage {}),
        summary: "Throws the staged version away",
    },
    post("/v1/fdb/flush", Takes::Filter(Request::FdbFlush), "Forgets learned FDB entries"),
    post(
        "/v1/flows/kill",
        Takes::Filter(Request::FlowsKill),
        "Ends flows: their next packet is decided anew",
    ),
];

/// A page that is no answer to a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Page {
    /// The description of all routes
    OpenApi,
    /// Who asks, and what he may
    Caller,
    /// The process lives
    Health,
    /// It does what it is there for
    Ready,
    /// What is counted, for Prometheus
    Metrics,
}

/// Those pages: path, which, who may read it (everybody where it is nobody), and what it is.
pub const PAGES: [(&str, Page, Option<Role>, &str); 5] = [
    ("/v1/openapi.json", Page::OpenApi, Some(Role::Read), "This description"),
    ("/v1/token", Page::Caller, Some(Role::Read), "What the token that is shown may do"),
    ("/healthz", Page::Health, None, "The daemon lives"),
    (
        "/readyz",
        Page::Ready,
        None,
        "The daemon does what it is there for; if not, what keeps it, for those who may read",
    ),
    ("/metrics", Page::Metrics, Some(Role::Read), "What is counted, in the text format of Prometheus"),
];

/// A request as HTTP has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    /// The method
    pub method: Method,
    /// Path and query
    pub target: String,
    /// JSON; nothing where there is no body
    pub body: Option<String>,
}

/// What comes along with a call that was found a route for.
#[derive(Clone, Copy, Debug)]
pub struct Body<'b> {
    /// What follows `?` in its target
    pub query: &'b str,
    /// Its body
    pub bytes: &'b [u8],
}

/// Why there is no route.
#[derive(Clone, PartialEq, Debug)]
pub struct Misrouted {
    /// What is told
    pub failure: Failure,
    /// The methods that the path has, as `Allow` lists them; nothing where there is no such path
    pub allow: Option<String>,
}

/// The route of a method and a path.
///
/// # Errors
/// When there is none: what was meant, or which methods there are.
pub fn find(method: &str, path: &str) -> Result<&'static Route, Misrouted> {
    let of_path = || ROUTES.iter().filter(|route| route.path == path);
    if let Some(route) = of_path().find(|route| route.method.name() == method) {
        return Ok(route);
    }
    let shown: String = path.chars().take(64).collect();
    if of_path().next().is_some() {
        let allow = of_path().map(|route| route.method.name()).collect::<Vec<_>>().join(", ");
        let text = format!("{shown} is not asked by {method}, but by {allow}");
        return Err(Misrouted { failure: Failure::new(ErrorCode::NotAllowed, text), allow: Some(allow) });
    }
    let paths = ROUTES.iter().map(|route| route.path).chain(PAGES.iter().map(|(path, ..)| *path));
    let meant = match nearest(path, paths) {
        Some(near) => format!("did you mean {near}?"),
        None => "/v1/openapi.json says what there is".to_owned(),
    };
    let failure = Failure::new(ErrorCode::NotFound, format!("there is no {shown}: {meant}"));
    Err(Misrouted { failure, allow: None })
}

impl Route {
    /// A request of its kind that asks for nothing in particular.
    #[must_use]
    pub fn sample(&self) -> Request {
        match self.takes {
            Takes::Nothing(request) => request(),
            Takes::Query(request) | Takes::Filter(request) => request(Filter::default()),
            Takes::File(request) => request(String::new()),
            Takes::Probe(request) => request(ProbeRequest {
                kind: ProbeKind::Vtep,
                from: None,
                vni: None,
                source: None,
                to: None,
                port: 0,
                via: None,
                host: None,
                count: 1,
                wait_ms: 1000,
                size: None,
            }),
            Takes::Packet(request) => request(TraceRequest {
                vni: Vni::from_wire([0; 3]),
                frame: None,
                proto: 0,
                src: Addr::v4([0; 4]),
                dst: Addr::v4([0; 4]),
                sport: 0,
                dport: 0,
                icmp: None,
                from: None,
            }),
        }
    }

    /// As it is told of: `GET /v1/status`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{} {}", self.method.name(), self.path)
    }

    /// Who may ask it.
    #[must_use]
    pub fn role(&self) -> Role {
        self.sample().role()
    }

    /// What a query or a body may have; nothing where it is no filter.
    #[must_use]
    pub fn criteria(&self) -> &'static [Criterion] {
        self.sample().criteria().map_or(&[], |(_, _, known)| known)
    }

    /// What a query has beside a filter.
    #[must_use]
    pub fn parameters(&self) -> &'static [&'static str] {
        if matches!(self.sample(), Request::Events(_)) { &[FOLLOW] } else { &[] }
    }

    /// The request of a call of this route, and whether it is to go on with what happens from then on.
    ///
    /// # Errors
    /// What is wrong with the query or the body, or does not apply to what is asked.
    pub fn read(&self, call: Body<'_>) -> Result<(Request, bool), Failure> {
        let name = self.name();
        let pairs = query::pairs(call.query)?;
        if !matches!(self.takes, Takes::Query(_))
            && let Some((parameter, _)) = pairs.first()
        {
            return Err(query::unknown(&name, parameter, &[], &[]));
        }
        if matches!(self.takes, Takes::Query(_) | Takes::Nothing(_)) && !is_nothing(call.bytes) {
            let text = format!("`{name}` takes no body, and {} bytes came", call.bytes.len());
            return Err(Failure::new(ErrorCode::NotApplicable, text));
        }
        let request = match self.takes {
            Takes::Nothing(request) => request(),
            Takes::Query(request) => request(query::read(&name, &pairs, self.criteria(), self.parameters())?),
            Takes::Filter(request) if is_nothing(call.bytes) => request(Filter::default()),
            Takes::Filter(request) => request(read_json(&name, call.bytes)?),
            Takes::Packet(request) => request(read_json(&name, call.bytes)?),
            Takes::Probe(request) => request(read_json(&name, call.bytes)?),
            Takes::File(request) => request(read_json::<File>(&name, call.bytes)?.config),
        };
        request.check_call(&name)?;
        let follow = pairs.iter().find(|(name, _)| self.parameters().contains(&name.as_str()));
        let follow = follow.map_or(Ok(false), |(name, value)| query::boolean(name, value))?;
        Ok((request, follow))
    }
}

impl Request {
    /// The route that asks it.
    #[must_use]
    pub fn route(&self) -> Option<&'static Route> {
        ROUTES.iter().find(|route| discriminant(&route.sample()) == discriminant(self))
    }

    /// Itself as HTTP has it; nothing of what has no route.
    #[must_use]
    pub fn call(&self) -> Option<Call> {
        let route = self.route()?;
        let (mut target, mut body) = (route.path.to_owned(), None);
        match self {
            Self::Stage { config } => body = json(&File { config: config.clone() }),
            Self::Trace(packet) => body = json(packet),
            Self::Probe(probe) => body = json(probe),
            _ => match (self.criteria(), route.takes) {
                (Some((_, filter, _)), Takes::Query(_)) => {
                    let query = query::write(filter);
                    if !query.is_empty() {
                        target += "?";
                        target += &query;
                    }
                }
                (Some((_, filter, _)), _) => body = json(filter),
                (None, _) => {}
            },
        }
        Some(Call { method: route.method, target, body })
    }
}

fn json<T: Serialize>(it: &T) -> Option<String> {
    // Of these types none fails.
    serde_json::to_string(it).ok()
}

/// No body, or an empty object.
fn is_nothing(body: &[u8]) -> bool {
    matches!(body.trim_ascii(), b"" | b"{}")
}

fn read_json<T: DeserializeOwned>(route: &str, bytes: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(|error| {
        Failure::new(ErrorCode::Malformed, format!("the body is nothing that `{route}` takes: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use eastgate_wire::MacAddr;
    use proptest::prelude::*;

    use super::*;
    use crate::{FLOW_STATES, Hex, Verdict};

    /// The request that a call is of.
    fn read(method: &str, target: &str, body: &str) -> Result<Request, Failure> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let route = find(method, path).map_err(|misrouted| misrouted.failure)?;
        route.read(Body { query, bytes: body.as_bytes() }).map(|(request, _)| request)
    }

    fn again(request: &Request) -> Result<Request, Failure> {
        let call = request.call().unwrap();
        read(call.method.name(), &call.target, call.body.as_deref().unwrap_or_default())
    }

    #[test]
    fn each_route_is_one_request_and_found_again() {
        for (number, route) in ROUTES.iter().enumerate() {
            let before = ROUTES.iter().take(number);
            assert!(before.clone().all(|other| other.name() != route.name()), "{}", route.name());
            assert_eq!(route.sample().route().map(Route::name), Some(route.name()));
            let mut request = route.sample();
            if let Request::FlowsKill(filter) = &mut request {
                filter.all = true;
            }
            assert_eq!(again(&request), Ok(request));
        }
    }

    #[test]
    fn whoever_changes_something_takes_more_than_to_read() {
        for route in &ROUTES {
            let reads = route.method == Method::Get || route.path == "/v1/trace";
            assert_eq!(route.role() == Role::Read, reads, "{}", route.name());
        }
        assert_eq!(find("POST", "/v1/reload").unwrap().role(), Role::Administer);
        assert_eq!(find("POST", "/v1/flows/kill").unwrap().role(), Role::Operate);
    }

    #[test]
    fn what_there_is_not_is_told_with_what_was_meant() {
        let told = |method, target, body| read(method, target, body).unwrap_err();
        let failure = told("GET", "/v1/flow", "");
        assert!(failure.code == ErrorCode::NotFound && failure.text.contains("/v1/flows?"), "{failure}");
        assert!(told("GET", "/nothing/like/it", "").text.contains("openapi.json"));
        let failure = find("PUT", "/v1/staged").unwrap_err();
        assert_eq!(failure.allow.as_deref(), Some("GET, DELETE"));
        assert_eq!(failure.failure.code, ErrorCode::NotAllowed);
        let failure = told("GET", "/v1/flows?prot=6", "");
        assert!(failure.text.contains("did you mean `proto`?"), "{failure}");
        let failure = told("GET", "/v1/fdb?port=6", "");
        assert!(failure.text.contains("no parameter `port`"), "{failure}");
        for (target, word) in [
            ("/v1/flows?vni=16777216", "`vni`"),
            ("/v1/flows?vni=-1", "`vni`"),
            ("/v1/flows?port=70000", "`port`"),
            ("/v1/flows?address=10.1", "`address`"),
            ("/v1/fdb?mac=xx", "`mac`"),
            ("/v1/drops?all=maybe", "`all`"),
            ("/v1/flows?proto=tcp&proto=udp", "twice"),
            ("/v1/flows?endpoint=%zz", "%"),
            ("/v1/flows?endpoint=%ff", "UTF-8"),
            ("/v1/events?verdict=nice", "`verdict`"),
            ("/v1/events?follow=perhaps", "`follow`"),
            ("/v1/status?x=1", "takes none"),
            ("/v1/flows?state=asleep", "no state"),
        ] {
            let failure = told("GET", target, "");
            assert!(failure.text.contains(word), "{target}: {failure}");
        }
        assert_eq!(told("POST", "/v1/flows/kill", "").code, ErrorCode::NotApplicable);
        let failure = told("POST", "/v1/fdb/flush", r#"{"port":1}"#);
        assert!(failure.text.contains("no `port`; it has `vni`, `mac`"), "{failure}");
        assert!(told("POST", "/v1/trace", "[").text.contains("POST /v1/trace"));
        assert!(told("POST", "/v1/stage", r#"{"file":"x"}"#).text.contains("unknown field"));
        assert!(told("POST", "/v1/reload", "x").text.contains("no body"));
        assert!(read("POST", "/v1/reload", "{}").is_ok());
    }

    #[test]
    fn what_people_write_is_read() {
        let Ok(Request::Flows(filter)) = read("GET", "/v1/flows?proto=tcp&endpoint=acme%2Fweb1&limit=5", "")
        else {
            panic!("not flows")
        };
        assert_eq!((filter.proto, filter.limit), (Some(6), Some(5)));
        assert_eq!(filter.endpoint.as_deref(), Some("acme/web1"));
        let rule = read("GET", "/v1/events?rule=acme/db+ingress+%231", "");
        let Ok(Request::Events(filter)) = rule else { panic!("not events") };
        assert_eq!(filter.rule.as_deref(), Some("acme/db ingress #1"));
        let (path, body) = ("/v1/events", Body { query: "follow=true&vni=7", bytes: b"" });
        assert!(find("GET", path).unwrap().read(body).unwrap().1);
        assert!(filter.scope.is_all());
    }

    proptest! {
        /// A request that is written as a call is read as itself.
        #[test]
        fn a_call_is_read_as_it_was_written(
            which in 0..ROUTES.len(),
            numbers in any::<(Option<u16>, Option<u8>, Option<[u8; 6]>, bool)>(),
            address in any::<Option<std::net::IpAddr>>(),
            name in proptest::option::of(".{0,20}"),
            vni in proptest::option::of(0..=Vni::MAX),
            state in 0..FLOW_STATES.len(),
            frame in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..60)),
        ) {
            let mut request = ROUTES[which].sample();
            let vni = vni.map(|vni| Vni::new_checked(vni).unwrap());
            let known: &[Criterion] = request.criteria().map_or(&[], |(_, _, known)| known);
            let has = |criterion| known.contains(&criterion);
            if let Some(filter) = request.filter_mut() {
                let (port, proto, mac, all) = numbers;
                *filter = Filter {
                    vni: vni.filter(|_| has(Criterion::Vni)),
                    tenant: name.clone().filter(|_| has(Criterion::Tenant)),
                    rule: name.clone().filter(|_| has(Criterion::Rule)),
                    endpoint: name.clone().filter(|_| has(Criterion::Endpoint)),
                    after: name.clone().filter(|_| has(Criterion::After)),
                    address: address.filter(|_| has(Criterion::Address)),
                    mac: mac.map(MacAddr).filter(|_| has(Criterion::Mac)),
                    port: port.filter(|_| has(Criterion::Port)),
                    src: address.filter(|_| has(Criterion::Src)),
                    dst: address.filter(|_| has(Criterion::Dst)),
                    sport: port.filter(|_| has(Criterion::Sport)),
                    dport: port.filter(|_| has(Criterion::Dport)),
                    proto: proto.filter(|_| has(Criterion::Proto)),
                    limit: port.map(usize::from).filter(|_| has(Criterion::Limit)),
                    verdict: all.then_some(Verdict::Audit).filter(|_| has(Criterion::Verdict)),
                    all: has(Criterion::All),
                    audit: all && has(Criterion::Audit),
                    ..Filter::default()
                };
                if matches!(request, Request::Flows(_)) && let Some(filter) = request.filter_mut() {
                    filter.state = Some(FLOW_STATES[state].to_owned());
                }
            }
            match &mut request {
                Request::Stage { config } => *config = name.unwrap_or_default(),
                Request::Probe(probe) => {
                    probe.from = name;
                    probe.port = numbers.0.unwrap_or_default();
                    probe.to = address.map(Addr::from);
                }
                Request::Trace(packet) => {
                    packet.frame = frame.map(Hex);
                    packet.from = name;
                    packet.sport = numbers.0.unwrap_or_default();
                }
                _ => {}
            }
            prop_assert_eq!(again(&request), Ok(request));
        }

        /// Whatever comes is read or refused.
        #[test]
        fn noise_is_refused(target in "/v1/[a-z/]{0,8}[?=&%a-z0-9+]{0,30}", body in ".{0,30}") {
            for method in ["GET", "POST", "DELETE", "PUT"] {
                let _ = read(method, &target, &body);
            }
        }
    }
}
