//! Polls a future again at once if it has woken itself.
//!
//! hyper passes each piece of a body from the future that reads the socket to the future of the handler, which is part of
//! the same task, and wakes the task for that. Tokio takes such a task for one that yields: it moves it to the end of a queue
//! and wakes up another thread, which costs several microseconds and often moves the task to another core.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;

/// Time after which a future that wakes itself again and again lets other tasks run.
const LONGEST: Duration = Duration::from_micros(200);

/// A future that is polled again at once if it has woken itself.
pub(super) struct Repoll<F> {
    future: F,
    wakes: Arc<Wakes>,
    /// Wakes `wakes`.
    waker: Waker,
}

/// What the wakes of the future do.
#[derive(Default)]
struct Wakes {
    /// Whether the future was woken since its last poll began.
    woken: AtomicBool,
    /// Whether the future is being polled, so that its task need not be woken.
    polling: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        if !self.polling.load(Ordering::SeqCst) {
            self.task.wake();
        }
    }
}

impl<F> Repoll<F> {
    pub(super) fn new(future: F) -> Self {
        let wakes = Arc::<Wakes>::default();
        Self {
            future,
            waker: Arc::clone(&wakes).into(),
            wakes,
        }
    }
}

impl<F: Future + Unpin> Future for Repoll<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Self {
            future,
            wakes,
            waker,
        } = &mut *self;
        wakes.task.register(context.waker());
        let mut again = Context::from_waker(waker);
        let mut begun = None;
        loop {
            // A swap, so that the poll sees what the wakes before it announced.
            wakes.woken.swap(false, Ordering::SeqCst);
            wakes.polling.store(true, Ordering::SeqCst);
            let poll = Pin::new(&mut *future).poll(&mut again);
            wakes.polling.store(false, Ordering::SeqCst);
            // A wake from now on wakes the task.
            if poll.is_ready() || !wakes.woken.load(Ordering::SeqCst) {
                return poll;
            }
            if begun.get_or_insert_with(Instant::now).elapsed() > LONGEST {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Mutex;

    use super::*;

    /// Counts the wakes of a task.
    #[derive(Default)]
    struct Count(Mutex<usize>);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            *self.0.lock().unwrap() += 1;
        }
    }

    #[test]
    fn a_future_that_wakes_itself_is_polled_again_within_the_poll() {
        let count = Arc::new(Count::default());
        let task = Waker::from(Arc::clone(&count));
        let mut left = 3;
        let mut future = Repoll::new(poll_fn(|context| {
            if left == 0 {
                return Poll::Ready(7);
            }
            left -= 1;
            context.waker().wake_by_ref();
            Poll::Pending
        }));
        let poll = Pin::new(&mut future).poll(&mut Context::from_waker(&task));
        assert_eq!(poll, Poll::Ready(7));
        assert_eq!(*count.0.lock().unwrap(), 0);
    }

    #[test]
    fn a_wake_from_elsewhere_wakes_the_task() {
        let count = Arc::new(Count::default());
        let task = Waker::from(Arc::clone(&count));
        let kept = Mutex::new(None);
        let mut future = Repoll::new(poll_fn(|context| {
            let waker = kept.lock().unwrap().replace(context.waker().clone());
            waker.map_or(Poll::Pending, |_| Poll::Ready(()))
        }));
        let mut context = Context::from_waker(&task);
        assert!(Pin::new(&mut future).poll(&mut context).is_pending());
        assert_eq!(*count.0.lock().unwrap(), 0);
        kept.lock().unwrap().as_ref().unwrap().wake_by_ref();
        assert_eq!(*count.0.lock().unwrap(), 1);
        assert!(Pin::new(&mut future).poll(&mut context).is_ready());
    }

    #[test]
    fn a_future_that_wakes_itself_for_ever_lets_other_tasks_run() {
        let count = Arc::new(Count::default());
        let task = Waker::from(Arc::clone(&count));
        let mut future = Repoll::new(poll_fn(|context| -> Poll<()> {
            context.waker().wake_by_ref();
            Poll::Pending
        }));
        let poll = Pin::new(&mut future).poll(&mut Context::from_waker(&task));
        assert!(poll.is_pending());
        assert_eq!(*count.0.lock().unwrap(), 1);
    }
}
