//! Queries are answered on threads of their own: one for summaries, one for all that walks through tables. Nothing waits
//! for a list but those who ask for one.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
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
}

impl Queries {
    /// Starts them. `of` is what their names begin with; those of somebody else than the owner make way for other threads.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn start<H: Handler>(of: &str, handler: &Arc<H>) -> std::io::Result<Self> {
        let start = |name: &str| start(format!("{of}{name}"), handler, !of.is_empty());
        Ok(Self { summaries: start("summaries")?, lists: start("lists")? })
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
        let jobs = if request.class() == Class::Summary { &self.summaries } else { &self.lists };
        let (to, written) = oneshot::channel();
        let asker = Box::new(Waiting { to, write });
        match jobs.try_send(Job { request, scope, asker }) {
            Ok(()) => {}
            Err(TrySendError::Full(job)) => job.asker.tell(Err(Failure::new(
                ErrorCode::Busy,
                format!("{WAITING} others wait for answers of this kind: try again in a moment"),
            ))),
            Err(TrySendError::Disconnected(job)) => job.asker.tell(Err(Failure::stopping())),
        }
        // A thread that has ended without an answer is one that was told to.
        written.await.map_err(|_| Failure::stopping())
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
    for Job { request, scope, asker } in queue {
        if asker.is_gone() {
            continue;
        }
        // A query changes nothing that a panic could leave half done, and the next one is another.
        let result = catch_unwind(AssertUnwindSafe(|| handler.query(request, &scope)));
        asker.tell(result.unwrap_or_else(|_| {
            Err(Failure::new(ErrorCode::Failed, "answering failed: the daemon's log says where"))
        }));
    }
}
