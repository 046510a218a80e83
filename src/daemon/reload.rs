//! Puts another configuration in force while the daemon runs.

use std::{sync::Arc, time::Duration};

use eastgate_api::{Done, ErrorCode, Failure};
use eastgate_config::{Config, Effective};
use eastgate_dataplane::{pipeline::shared::lock, snapshot::Snapshot};

use super::{ConfigRefused, Daemon, load};
use crate::{
    changes,
    io::{clock::now, sysopt::allow_open_files, worker::Command},
};

impl Daemon {
    /// Reads the configuration again and puts it in force, whole or not at all.
    pub(super) async fn reload(&mut self) -> Result<Done, Failure> {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Reloading]);
        if let Some(network) = &self.network {
            network.refresh();
        }
        let result = self.try_reload().await;
        if result.is_err() {
            self.view.reloads.count(None);
        }
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        match &result {
            Ok(done) => {
                let text = done.changes.as_ref().map_or_else(String::new, changes::text);
                tracing::info!(
                    epoch = done.epoch,
                    digest = done.digest,
                    "configuration in force\n{}",
                    text.trim_end()
                );
            }
            Err(refused) => {
                tracing::error!(
                    "the configuration was refused, the one before stays in force:\n{}",
                    refused.text
                )
            }
        }
        let mut visible = lock(&self.view.state);
        visible.reload_error = result.as_ref().err().map(|refused| refused.text.clone());
        if let Ok(Done { digest: Some(digest), .. }) = &result {
            visible.digest.clone_from(digest);
        }
        drop(visible);
        if let Ok(Done { digest: Some(digest), .. }) = &result {
            self.view.note_in_force(digest);
        }
        result
    }

    async fn try_reload(&mut self) -> Result<Done, Failure> {
        let Some(mut loader) = self.loader.take() else {
            return Err(Failure::new(ErrorCode::Busy, "a reload is under way"));
        };
        let begun = now();
        let before = self.view.shared.snapshot_arc();
        let current = before.clone();
        let mut registry = std::mem::take(&mut self.registry);
        let (host, states) = (self.host.clone(), self.view.shared.states.clone());
        let (known, desk) = (self.learner.effective.clone(), self.view.desk.clone());
        // Parsing and compiling take their time; signals and devices are heard meanwhile.
        let work = tokio::task::spawn_blocking(move || {
            let config = load(&mut loader, false);
            let read = now();
            let config = config.map_err(|ConfigRefused { text, diagnostics }| Failure {
                text,
                code: ErrorCode::Configuration,
                diagnostics: Some(diagnostics),
            });
            let snapshot = config.and_then(|config| {
                let (affordable, warning) = within_open_files(&config);
                let terms = Self::terms_of(&affordable, &host);
                let (learned, machines) = (current.learned_addresses(), desk.endpoints(&terms));
                let effective = Effective::new(affordable.clone(), learned, machines, Some(&known));
                // What is told of it holds up neither what is made of it nor that it is in force.
                let told = tokio::task::spawn_blocking(move || {
                    (changes::between(known.written(), &affordable), config.digest())
                });
                let snapshot =
                    Snapshot::compile(effective.config(), &host, Some(&current), &mut registry, &states);
                let snapshot =
                    snapshot.map_err(|error| Failure::new(ErrorCode::Configuration, error.to_string()))?;
                tracing::debug!(
                    read = ?read.since(begun),
                    compiled = ?now().since(begun),
                    "the snapshot stands"
                );
                Ok((snapshot, effective, terms, told, warning))
            });
            (loader, registry, snapshot)
        });
        let (loader, registry, snapshot) = work
            .await
            .map_err(|error| Failure::new(ErrorCode::Failed, format!("the reload failed: {error}")))?;
        let mut warnings: Vec<String> =
            loader.warnings().iter().map(|warning| format!("{}: {}", warning.at, warning.problem)).collect();
        self.loader = Some(loader);
        self.registry = registry;
        let (snapshot, effective, terms, told, too_many_ports) = snapshot?;
        warnings.extend(too_many_ports);
        warnings.extend(nothing_to_do(&snapshot));
        let epoch = snapshot.epoch;
        // Frames of ports that the new snapshot does not name are refused from here on, before their sockets are
        // closed; new ports are guarded before they get any.
        self.install(snapshot);
        let in_force_after = now().since(begun);
        self.view.reloads.count(Some(in_force_after));
        self.learner.effective = effective;
        self.view.desk.set_terms(terms);
        self.follow_learned();
        self.note_sizes();
        self.reconcile().await;
        self.wait_for_workers().await;
        self.view.desk.are_in_force(self.learner.effective.machines());
        // Only now: no worker opens a flow under the snapshot before any more.
        let shared = self.view.shared.clone();
        let ended = tokio::task::spawn_blocking(move || {
            let after = shared.snapshot_arc();
            shared.renew_answers(now());
            shared.end_orphans(&before, &after, now()) + shared.end_refused(&after, now())
        });
        let (changes, digest) = told.await.map_err(|error| {
            Failure::new(ErrorCode::Failed, format!("it is in force; what changed cannot be told: {error}"))
        })?;
        Ok(Done {
            count: 1,
            epoch,
            digest: Some(digest.to_string()),
            in_force_after: Some(in_force_after.as_millis() as u64),
            changes: Some(changes),
            flows_ended: ended.await.ok(),
            warnings,
        })
    }

    /// Puts a snapshot in force, in the pipeline and in the kernel.
    pub(super) fn install(&self, snapshot: Snapshot) {
        let begun = now();
        self.view.shared.install(snapshot, begun);
        let installed = now();
        if let Some(kernel) = self.view.kernel.get() {
            // The snapshot is in force whatever becomes of this: then no flow passes without it.
            match kernel.take_snapshot(&self.view.shared.snapshot_arc()) {
                Ok(()) => kernel.program_policies_in_background(),
                Err(error) => {
                    tracing::error!(%error, "the fast path does not know the new snapshot");
                    eastgate_dataplane::pipeline::offload::FlowOffload::forget_paths(&**kernel);
                }
            }
        }
        tracing::debug!(
            pipeline = ?installed.since(begun),
            kernel = ?now().since(begun),
            "the snapshot is in force"
        );
    }

    /// Returns when every worker has finished what it had in hand.
    pub(super) async fn wait_for_workers(&self) {
        let (sender, receiver) = std::sync::mpsc::sync_channel(self.workers.len().max(1));
        for worker in &self.workers {
            worker.tell(Command::Sync(sender.clone()));
        }
        drop(sender);
        let count = self.workers.len();
        let waited = tokio::task::spawn_blocking(move || {
            (0..count).all(|_| receiver.recv_timeout(Duration::from_secs(5)).is_ok())
        });
        if !waited.await.unwrap_or(false) {
            tracing::warn!("a worker is slow to take the new snapshot");
        }
    }
}

/// The configuration with as many source ports as there can be sockets for, and a word about those that are left out: one
/// that runs out of open files carries nothing.
pub(super) fn within_open_files(config: &Arc<Config>) -> (Arc<Config>, Option<String>) {
    // For everything but source ports: each port of a tenant takes one for each worker.
    const OTHERS: u64 = 4096;
    let wanted = config.overlay.entropy_ports;
    // Two kinds of sockets, see `TxSockets`.
    let limit = allow_open_files(2 * u64::from(wanted) + OTHERS);
    let most = (limit.saturating_sub(OTHERS) / 2).max(1).ilog2();
    let used = wanted.min(1u32.checked_shl(most).unwrap_or(wanted));
    if used == wanted {
        return (config.clone(), None);
    }
    let mut affordable = (**config).clone();
    affordable.overlay.entropy_ports = used;
    let warning = format!(
        "[overlay] entropy_ports = {wanted} takes two open files each, and {limit} may be open: {used} source ports are \
         used. Raise the limit (LimitNOFILE= in the unit, or ulimit -n), or ask for fewer"
    );
    (Arc::new(affordable), Some(warning))
}

/// Whether there is anything for this host in a snapshot, which nobody would notice otherwise.
pub(super) fn nothing_to_do(snapshot: &Snapshot) -> Option<String> {
    let host = &snapshot.host;
    let missing = snapshot.networks().is_empty() && !snapshot.config.tenants.is_empty();
    missing.then(|| format!("no network has a part on host {host}: nothing is carried here"))
}
