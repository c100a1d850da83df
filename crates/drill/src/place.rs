//! Where a client stands: in this process's own network, or inside a namespace.
//!
//! A socket belongs to the network of the thread that made it, for good. So a place in a namespace is a thread that has moved
//! into it and runs tasks there; what such a task connects, it connects from there. A process that is started by such a
//! thread lives there too. One program can thus stand on every side of a cut and read one clock
//! (`CLOCK_MONOTONIC`, by `Instant`), which is what comparing "the last acknowledgement there" with "the first one
//! here" needs.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A place to connect from. Cheap to clone; a namespace's thread ends with the last clone.
#[derive(Debug, Clone, Default)]
pub struct Place {
    room: Option<Arc<Room>>,
}

#[derive(Debug)]
struct Room {
    namespace: OwnedFd,
    tasks: Handle,
    /// Dropped at the end, which ends the thread.
    end: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.end.take();
        if let Some(thread) = self.thread.take() {
            // The last clone may be dropped by a task of the thread itself.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

impl Place {
    /// This process's own network.
    #[must_use]
    pub fn here() -> Place {
        Place::default()
    }

    /// A thread inside a namespace, given by its file below `/run/netns`.
    ///
    /// # Errors
    /// Without the right to move there.
    pub fn in_namespace(namespace: OwnedFd) -> Result<Place> {
        let inside = namespace.try_clone()?;
        let (end, ended) = oneshot::channel::<()>();
        let (ready, moved) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("namespace".to_owned()).spawn(move || {
            let runtime = move_into(&inside)
                .and_then(|()| Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?));
            match runtime {
                Ok(runtime) => {
                    let _ = ready.send(Ok(runtime.handle().clone()));
                    let _ = runtime.block_on(ended);
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                }
            }
        })?;
        let tasks = moved.recv().context("the thread of a namespace has ended")??;
        Ok(Place { room: Some(Arc::new(Room { namespace, tasks, end: Some(end), thread: Some(thread) })) })
    }

    /// Runs `task` there.
    pub fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        match &self.room {
            Some(room) => room.tasks.spawn(task),
            None => tokio::spawn(task),
        }
    }

    /// Runs `work` there, on a thread for it alone, and waits: for starting processes and other short, blocking things.
    /// The caller's runtime is the work's runtime.
    ///
    /// # Errors
    /// When the thread cannot move there.
    ///
    /// # Panics
    /// When `work` does.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let Some(room) = &self.room else { return Ok(work()) };
        let runtime = Handle::try_current().ok();
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                let _entered = runtime.as_ref().map(Handle::enter);
                move_into(&room.namespace).map(|()| work())
            });
            worker.join().map_err(|_| anyhow!("the work inside a namespace panicked"))?
        })
    }
}

fn move_into(namespace: &OwnedFd) -> Result<()> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .context("cannot move into a network namespace")
}
