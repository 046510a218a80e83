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

use eastgate_api::{Class, ErrorCode, Failure, Request};
use tokio::sync::oneshot;

use super::{answer::line, server::Handler};

/// Queries that wait on each thread, beside the one that is being answered. More are refused, and may come again.
const WAITING: usize = 8;

/// A query, and where the line that answers it goes.
struct Job {
    request: Request,
    answer: oneshot::Sender<Vec<u8>>,
}

/// The threads. They end when this is dropped, each after what it has in hand.
#[derive(Debug)]
pub(super) struct Queries {
    summaries: SyncSender<Job>,
    lists: SyncSender<Job>,
}

impl Queries {
    /// Starts them.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn start<H: Handler>(handler: &Arc<H>) -> std::io::Result<Self> {
        Ok(Self { summaries: start("summaries", handler)?, lists: start("lists", handler)? })
    }

    /// The line that answers a query.
    pub(super) async fn ask(&self, request: Request) -> Vec<u8> {
        let jobs = if request.class() == Class::Summary { &self.summaries } else { &self.lists };
        let (answer, line_of) = oneshot::channel();
        let failure = match jobs.try_send(Job { request, answer }) {
            // A thread that has ended without an answer is one that was told to.
            Ok(()) => match line_of.await {
                Ok(line) => return line,
                Err(_) => Failure::stopping(),
            },
            Err(TrySendError::Full(_)) => Failure::new(
                ErrorCode::Busy,
                format!("{WAITING} others wait for answers of this kind: try again in a moment"),
            ),
            Err(TrySendError::Disconnected(_)) => Failure::stopping(),
        };
        line(&Err(failure))
    }
}

fn start<H: Handler>(name: &str, handler: &Arc<H>) -> std::io::Result<SyncSender<Job>> {
    let (jobs, queue) = sync_channel(WAITING);
    let handler = handler.clone();
    thread::Builder::new().name(name.to_owned()).spawn(move || serve(&queue, &*handler))?;
    Ok(jobs)
}

fn serve<H: Handler>(queue: &Receiver<Job>, handler: &H) {
    for Job { request, answer } in queue {
        // Whoever has gone meanwhile needs no answer.
        if answer.is_closed() {
            continue;
        }
        // A query changes nothing that a panic could leave half done, and the next one is another.
        let result = catch_unwind(AssertUnwindSafe(|| handler.query(request)));
        let result = result.unwrap_or_else(|_| {
            Err(Failure::new(ErrorCode::Failed, "answering failed: the daemon's log says where"))
        });
        let _ = answer.send(line(&result));
    }
}
