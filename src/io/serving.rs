//! Servers, each on a thread of its own with a reactor of its own: the daemon's loop waits for none of their clients.

use std::{
    io::{Error, Result},
    thread::{self, JoinHandle},
};

use tokio::sync::oneshot;

/// A server. Dropped, it serves nobody any more.
#[derive(Debug)]
pub struct Serving {
    /// Dropped to tell the thread that it is over
    over: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    /// Has what `begin` returns go on until it is over. `begin` is called on the thread, where sockets can be registered; what
    /// blocks is done by one more thread, one thing after the other.
    ///
    /// # Errors
    /// What the kernel or `begin` says.
    pub fn start<F: Future<Output = ()>>(
        name: &str,
        begin: impl FnOnce() -> Result<F> + Send + 'static,
    ) -> Result<Self> {
        let (over, told) = oneshot::channel::<()>();
        let (begun, began) = std::sync::mpsc::channel();
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build();
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => return drop(begun.send(Err(error))),
            };
            let inside = runtime.enter();
            let serving = begin();
            drop(inside);
            match serving {
                Ok(serving) => {
                    let _ = begun.send(Ok(()));
                    runtime.block_on(async {
                        tokio::select! {
                            _ = told => {}
                            () = serving => {}
                        }
                    });
                }
                Err(error) => drop(begun.send(Err(error))),
            }
            // What blocks is not waited for: nobody is left who wants it.
            runtime.shutdown_background();
        })?;
        began.recv().unwrap_or_else(|_| Err(Error::other("its thread has ended")))?;
        Ok(Self { over: Some(over), thread: Some(thread) })
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.over.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In the daemon's own runtime, in which no other one may be dropped.
    #[tokio::test]
    async fn what_cannot_begin_is_told_and_what_is_over_ends() {
        let failed =
            Serving::start("test", || Err::<std::future::Pending<()>, _>(Error::other("on purpose")));
        assert_eq!(failed.unwrap_err().to_string(), "on purpose");
        drop(Serving::start("test", || Ok(std::future::pending())).unwrap());
    }
}
