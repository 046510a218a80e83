//! Queries are answered on threads of their own: one for summaries, one for all that walks through tables, one for each probe that
//! runs. Nothing waits for a list or a probe but those who ask for one.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
};

use eastgate_api::{Class, ErrorCode, Failure, Reply, Request, Scope};
use tokio::sync::oneshot;

use super::server::Handler;
use crate::io::sysopt::make_way;

/// Queries that wait on each thread, beside the one that is being answered. More are refused, and may come again.
const WAITING: usize = 8;

/// Probes that run at one time. More are refused, and may come again.
const PROBES: usize = 4;

/// A query, and what is made of its answer.
struct Job {
    request: Request,
    scope: Scope,
    asker: Box<dyn Asker>,
}

/// Who waits for an answer.
trait Asker: Send {
    /// It waits no more.
    fn is_gone(&self) -> bool;

    fn tell(self: Box<Self>, result: Result<Reply, Failure>);
}

/// One that wants it in some form, which is made where the answer is.
struct Waiting<T, W> {
    to: oneshot::Sender<T>,
    write: W,
}

impl<T: Send, W: FnOnce(Result<Reply, Failure>) -> T + Send> Asker for Waiting<T, W> {
    fn is_gone(&self) -> bool {
        self.to.is_closed()
    }

    fn tell(self: Box<Self>, result: Result<Reply, Failure>) {
        // Whoever asked may be gone.
        let _ = self.to.send((self.write)(result));
    }
}

/// The threads. They end when this is dropped, each after what it has in hand.
#[derive(Debug)]
pub(super) struct Queries {
    summaries: SyncSender<Job>,
    lists: SyncSender<Job>,
    probes: Probes,
}

impl Queries {
    /// Starts them. `of` is what their names begin with; those of somebody else than the owner make way for other threads.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn start<H: Handler>(of: &str, handler: &Arc<H>) -> std::io::Result<Self> {
        let is_last = !of.is_empty();
        let start = |name: &str| start(format!("{of}{name}"), handler, is_last);
        Ok(Self {
            summaries: start("summaries")?,
            lists: start("lists")?,
            probes: Probes::new(format!("{of}probe"), handler, is_last),
        })
    }

    /// What `write` makes of the answer to a query, on the thread that has it.
    ///
    /// # Errors
    /// When the thread has ended.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        request: Request,
        scope: Scope,
        write: impl FnOnce(Result<Reply, Failure>) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let (to, written) = oneshot::channel();
        let class = request.class();
        let job = Job { request, scope, asker: Box::new(Waiting { to, write }) };
        if class == Class::Probe {
            self.probes.start(job);
        } else {
            let jobs = if class == Class::Summary { &self.summaries } else { &self.lists };
            match jobs.try_send(job) {
                Ok(()) => {}
                Err(TrySendError::Full(job)) => job.asker.tell(Err(Failure::new(
                    ErrorCode::Busy,
                    format!("{WAITING} others wait for answers of this kind: try again in a moment"),
                ))),
                Err(TrySendError::Disconnected(job)) => job.asker.tell(Err(Failure::stopping())),
            }
        }
        // A thread that has ended without an answer is one that was told to.
        written.await.map_err(|_| Failure::stopping())
    }
}

/// Probes wait for what comes over the network: each has a thread for as long as that takes.
struct Probes {
    name: String,
    running: Arc<AtomicUsize>,
    answer: Arc<dyn Fn(Job) + Send + Sync>,
}

impl fmt::Debug for Probes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probes").field("running", &self.running).finish_non_exhaustive()
    }
}

impl Probes {
    fn new<H: Handler>(name: String, handler: &Arc<H>, is_last: bool) -> Self {
        let handler = handler.clone();
        let answer = move |job| {
            if is_last {
                make_way();
            }
            answer(job, &*handler);
        };
        Self { name, running: Arc::default(), answer: Arc::new(answer) }
    }

    /// Begins one. Whoever asked gets an answer of it, or hears that it has none where its thread could not begin.
    fn start(&self, job: Job) {
        let turn = Turn(self.running.clone());
        if turn.0.fetch_add(1, Relaxed) >= PROBES {
            let text = format!("{PROBES} probes run: try again in a moment");
            return job.asker.tell(Err(Failure::new(ErrorCode::Busy, text)));
        }
        let answer = self.answer.clone();
        let started = thread::Builder::new().name(self.name.clone()).spawn(move || {
            let _turn = turn;
            answer(job);
        });
        if let Err(error) = started {
            tracing::warn!(%error, "there is no thread for a probe");
        }
    }
}

/// A probe that runs, for as long as this is there.
struct Turn(Arc<AtomicUsize>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

fn start<H: Handler>(name: String, handler: &Arc<H>, is_last: bool) -> std::io::Result<SyncSender<Job>> {
    let (jobs, queue) = sync_channel(WAITING);
    let handler = handler.clone();
    thread::Builder::new().name(name).spawn(move || {
        if is_last {
            make_way();
        }
        serve(&queue, &*handler);
    })?;
    Ok(jobs)
}

fn serve<H: Handler>(queue: &Receiver<Job>, handler: &H) {
    for job in queue {
        if !job.asker.is_gone() {
            answer(job, handler);
        }
    }
}

fn answer<H: Handler>(job: Job, handler: &H) {
    let Job { request, scope, asker } = job;
    // A query changes nothing that a panic could leave half done, and the next one is another.
    let result = catch_unwind(AssertUnwindSafe(|| handler.query(request, &scope)));
    asker.tell(result.unwrap_or_else(|_| {
        Err(Failure::new(ErrorCode::Failed, "answering failed: the daemon's log says where"))
    }));
}
