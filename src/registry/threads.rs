//! The threads that load models.
//!
//! They are few and are used again, the last one first. glibc gives threads memory pools of their own,
//! and a pool keeps what its largest load took; on ever new threads, the memory of the server would
//! grow with each load until every pool has seen one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};

use tokio::sync::oneshot;

/// Work for a thread, and the sender to this thread, which the thread puts back when it is idle.
type Job = (Box<dyn FnOnce() + Send>, Sender);

/// A sender to a thread. A struct, because the type contains itself.
struct Sender(mpsc::Sender<Job>);

/// The idle threads, the last used one at the end.
type Idle = Mutex<Vec<Sender>>;

/// The threads that load models. They end when this value is dropped.
#[derive(Default)]
pub(super) struct LoaderThreads(Arc<Idle>);

impl LoaderThreads {
    /// Runs `work` on an idle thread, or on a new one if none is idle. Returns `None` if `work` panics,
    /// or if no thread can be started.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (sender, result) = oneshot::channel();
        let job = Box::new(move || {
            // The work is dropped with the panic, so nothing sees its state.
            if let Ok(value) = catch_unwind(AssertUnwindSafe(work)) {
                let _ = sender.send(value);
            }
        });
        let thread = lock(&self.0).pop();
        let thread = match thread {
            Some(thread) => thread,
            None => self.start().ok()?,
        };
        let channel = thread.0.clone();
        channel.send((job, thread)).ok()?;
        result.await.ok()
    }

    fn start(&self) -> std::io::Result<Sender> {
        let (sender, jobs) = mpsc::channel();
        let idle = Arc::downgrade(&self.0);
        let thread = std::thread::Builder::new().name("model-loader".to_owned());
        thread.spawn(move || serve(&jobs, &idle))?;
        Ok(Sender(sender))
    }
}

/// Runs jobs until there is nobody left who could send one.
fn serve(jobs: &mpsc::Receiver<Job>, idle: &Weak<Idle>) {
    while let Ok((job, own)) = jobs.recv() {
        job();
        if let Some(idle) = idle.upgrade() {
            lock(&idle).push(own);
        }
    }
}

/// No code panics while it holds this lock.
fn lock(idle: &Idle) -> std::sync::MutexGuard<'_, Vec<Sender>> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_thread_is_used_again_also_after_a_panic() {
        let threads = LoaderThreads::default();
        let id = || std::thread::current().id();
        let first = threads.run(id).await.unwrap();
        let idle = |count: usize| while lock(&threads.0).len() < count {};
        idle(1);
        let panicked: Option<()> = threads.run(|| panic!("the work panics")).await;
        assert!(panicked.is_none());
        idle(1);
        assert_eq!(threads.run(id).await, Some(first));
        idle(1);
        let (release, wait) = mpsc::channel::<()>();
        let busy = threads.run(move || wait.recv().is_ok());
        let other = async {
            let other = threads.run(id).await;
            release.send(()).unwrap();
            other
        };
        let (busy, other) = futures_util::future::join(busy, other).await;
        assert_eq!(busy, Some(true));
        assert_ne!(other, Some(first));
        idle(2);
    }
}
