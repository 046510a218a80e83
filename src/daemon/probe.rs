//! `eastgate probe`: packets that go the real way, from an endpoint's attachment or from the appliance, and what became of them step by
//! step.
//!
//! A stack of its own (`stack`) speaks with the endpoint's MAC and address. Its frames go into the path where the endpoint's do, through
//! a worker, and what is answered comes out of the path before it would reach the endpoint
//! ([`eastgate_dataplane::pipeline::probe`]). The endpoint is sent nothing, and no flow of it is touched.

mod asker;
mod pmtu;
mod questions;
mod run;
mod stack;
mod tell;
mod vtep;

use eastgate_api::{ErrorCode, Failure, ProbeKind, ProbeReport, ProbeRequest, Scope};
use eastgate_dataplane::snapshot::Snapshot;

use self::asker::Asker;
use super::View;

impl View {
    /// Probes, and takes as long as that does. It is called on a thread of its own. Who sees some tenants alone probes in the name of their endpoints, and
    /// in no network of another one.
    pub(super) fn probe(
        &self,
        snapshot: &Snapshot,
        request: &ProbeRequest,
        scope: &Scope,
    ) -> Result<ProbeReport, Failure> {
        request.check()?;
        if request.kind == ProbeKind::Vtep {
            if !scope.is_all() {
                let text = "`vtep` asks in the name of the appliance, which takes a token for all tenants";
                return Err(Failure::new(ErrorCode::Forbidden, text));
            }
            return vtep::probe(self, snapshot, request);
        }
        let asker = Asker::of(self, snapshot, request, scope)?;
        match request.kind {
            ProbeKind::Arp => questions::arp(self, &asker, request),
            ProbeKind::Ping => questions::ping(self, &asker, request),
            ProbeKind::Pmtu => pmtu::probe(self, &asker, request),
            ProbeKind::Tcp | ProbeKind::Vtep => questions::tcp(self, &asker, request),
        }
    }
}
