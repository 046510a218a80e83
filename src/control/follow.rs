//! What happens, as server-sent events (HTML Living Standard, section 9.2): one event a message, in JSON.
//!
//! Events are kept in a ring whether anybody reads them or not. Whoever reads too slowly misses some, and is told how many.

use std::{sync::Arc, time::Duration};

use eastgate_api::{ErrorCode, Failure, Filter, MAX_EVENTS, Reply, Request};
use hyper::body::Bytes;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

use super::service::{Caller, Service};
use crate::control::server::Handler;

/// How often it is asked what has happened since.
const PERIOD: Duration = Duration::from_millis(500);

/// After so much silence something is said that says nothing, so that whoever is gone is noticed.
const SILENCE: Duration = Duration::from_secs(15);

/// What is sent of an answer, and where the next goes on.
struct Part {
    messages: Bytes,
    next: String,
    /// There may be more at once.
    is_full: bool,
}

/// Sends what happens until nobody reads it any more, or whoever does may not.
pub(super) async fn follow<H: Handler>(
    service: Arc<Service<H>>,
    caller: Caller,
    mut filter: Filter,
    to: mpsc::Sender<Bytes>,
) {
    let mut said = Instant::now();
    // At once: whoever asks is to know that it goes on.
    let mut messages = Bytes::from_static(b": these are events of eastgate\n\n");
    loop {
        if !messages.is_empty() {
            // No further than whoever reads.
            if to.send(messages).await.is_err() {
                return;
            }
            said = Instant::now();
        }
        if !service.still_admits(&caller) {
            let _ =
                to.send(last(&Failure::new(ErrorCode::Unauthenticated, "the token is good no more"))).await;
            return;
        }
        let part = {
            // Streams wait for each other, and take one place among those who ask.
            let _turn = service.turn.lock().await;
            service.queries.ask(Request::Events(filter.clone()), caller.scope.clone(), written).await
        };
        let pause = match part.and_then(|part| part) {
            Ok(part) => {
                filter.after = Some(part.next);
                // How many there are at first says nothing of what comes then.
                filter.limit = None;
                messages = part.messages;
                !part.is_full
            }
            Err(failure) if failure.code == ErrorCode::Busy => {
                messages = Bytes::new();
                true
            }
            Err(failure) => {
                let _ = to.send(last(&failure)).await;
                return;
            }
        };
        if messages.is_empty() && said.elapsed() >= SILENCE {
            messages = Bytes::from_static(b": nothing has happened\n\n");
        }
        if pause {
            tokio::select! {
                () = sleep(PERIOD) => {}
                () = to.closed() => return,
            }
        }
    }
}

/// Why there is nothing more.
fn last(failure: &Failure) -> Bytes {
    message(Some("failure"), None, failure).into()
}

/// The events of an answer as messages.
fn written(result: Result<Reply, Failure>) -> Result<Part, Failure> {
    let Reply::Events(events) = result? else {
        return Err(Failure::new(ErrorCode::Failed, "these are no events"));
    };
    let mut text = String::new();
    if events.lost > 0 {
        text += &message(Some("lost"), None, &serde_json::json!({ "lost": events.lost }));
    }
    for event in &events.events {
        text += &message(None, Some(event.seq), event);
    }
    let is_full = events.events.len() >= MAX_EVENTS;
    Ok(Part { messages: text.into(), next: events.next, is_full })
}

/// One message. JSON has no line breaks.
fn message(name: Option<&str>, id: Option<u64>, data: &impl serde::Serialize) -> String {
    let name = name.map_or_else(String::new, |name| format!("event: {name}\n"));
    let id = id.map_or_else(String::new, |id| format!("id: {id}\n"));
    let data = serde_json::to_string(data).unwrap_or_default();
    format!("{name}{id}data: {data}\n\n")
}

#[cfg(test)]
mod tests {
    use eastgate_api::Events;

    use super::*;

    #[test]
    fn what_was_lost_is_told_first() {
        let reply = Reply::Events(Events { next: "7".into(), lost: 3, ..Events::default() });
        let part = written(Ok(reply)).unwrap();
        assert_eq!(&*part.messages, b"event: lost\ndata: {\"lost\":3}\n\n");
        assert_eq!((part.next.as_str(), part.is_full), ("7", false));
        let failed = last(&Failure::new(ErrorCode::Invalid, "a\nb"));
        assert_eq!(&*failed, b"event: failure\ndata: {\"error\":\"a\\nb\",\"code\":\"invalid\"}\n\n");
    }
}
