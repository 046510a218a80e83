//! What is sent: an answer in pieces, whose reading is watched, or messages as they come.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use hyper::body::{Bytes, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::places::Place;

/// Bytes that are handed over at once.
const PIECE: usize = 1 << 16;

/// The body of a response.
#[derive(Debug)]
pub(super) enum Body {
    /// All of it, and the conversation that it is for
    Whole { left: Bytes, place: Arc<Place> },
    /// Messages, as many as the asker reads, and a place among those who get them
    Messages { from: mpsc::Receiver<Bytes>, _permit: OwnedSemaphorePermit },
}

impl Body {
    /// An answer for this conversation.
    pub(super) fn whole(bytes: Bytes, place: &Arc<Place>) -> Self {
        place.waits(bytes.len());
        Self::Whole { left: bytes, place: place.clone() }
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole { left, place } => {
                if left.is_empty() {
                    return Poll::Ready(None);
                }
                let piece = left.split_to(left.len().min(PIECE));
                if left.is_empty() {
                    place.waits(0);
                } else {
                    place.reads(left.len());
                }
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            Self::Messages { from, .. } => from.poll_recv(context).map(|it| it.map(|it| Ok(Frame::data(it)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole { left, .. } if left.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole { left, .. } => SizeHint::with_exact(left.len() as u64),
            Self::Messages { .. } => SizeHint::default(),
        }
    }
}
