//! Sessions with more threads than a worker's own session, which runs use while other cores are idle.
//!
//! The workers of a model share one wide session per thread count. They are created after the first run that could
//! have used one, so that a server which is never idle has none, and use the weights of all sessions.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::Instant;

use ort::session::Session;

use super::PreparedModel;
use crate::cores::{Cores, Lease, MeasuredWidth, Scaling};

/// The wide sessions of one network.
pub(super) struct WideSessions {
    /// The network, without wide sessions.
    model: PreparedModel,
    cores: Arc<Cores>,
    scaling: Mutex<Scaling>,
    sessions: Vec<Wide>,
    /// Whether the creation of the sessions was started.
    started: AtomicBool,
    /// Name of the model in the log.
    name: OnceLock<String>,
}

/// A session with `threads` threads. It is empty until the session was created, and if this failed.
struct Wide {
    threads: usize,
    session: OnceLock<Mutex<Session>>,
}

impl WideSessions {
    /// Returns the wide sessions of `model` for the thread counts that `cores` allows, none of which is created yet.
    pub(super) fn of(model: PreparedModel, cores: &Arc<Cores>) -> Arc<Self> {
        let widths = cores.widths(model.threads());
        let wide = |threads: &usize| Wide {
            threads: *threads,
            session: OnceLock::new(),
        };
        Arc::new(Self {
            cores: Arc::clone(cores),
            scaling: Mutex::new(Scaling::new(model.threads(), &widths)),
            sessions: widths.iter().map(wide).collect(),
            started: AtomicBool::new(false),
            name: OnceLock::new(),
            model,
        })
    }

    /// Sets the name of the model in the log, once.
    pub(super) fn set_name(&self, name: &str) {
        self.name.get_or_init(|| name.to_owned());
    }

    /// Returns the measured thread counts, in ascending order.
    pub(super) fn measured(&self) -> Vec<MeasuredWidth> {
        self.scaling().measured()
    }

    /// No code panics while it holds this lock.
    fn scaling(&self) -> MutexGuard<'_, Scaling> {
        self.scaling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates the sessions on a thread of its own, if this was not started yet.
    fn start(self: &Arc<Self>) {
        if self.started.swap(true, Ordering::AcqRel) {
            return;
        }
        let (this, count) = (Arc::downgrade(self), self.sessions.len());
        let work = move || {
            // A model that is unloaded meanwhile gets no further sessions.
            for index in 0..count {
                let Some(this) = this.upgrade() else { return };
                this.create(index);
            }
        };
        let thread = std::thread::Builder::new().name("wide-sessions".to_owned());
        if let Err(error) = thread.spawn(work) {
            tracing::warn!(%error, "cannot start the thread that creates sessions for idle cores");
        }
    }

    fn create(&self, index: usize) {
        let Wide { threads, session } = &self.sessions[index];
        let model = self.name.get();
        match self.model.spinning_session(*threads) {
            Ok(created) => {
                tracing::debug!(model, threads, "session for idle cores created");
                session.get_or_init(|| Mutex::new(created));
            }
            Err(error) => tracing::warn!(
                model,
                threads,
                error = &error as &dyn std::error::Error,
                "cannot create a session for idle cores: requests of single clients are slower"
            ),
        }
    }

    /// Returns the session for a run with `lease`, and gives the lease its threads. `None` if the worker's own session
    /// is to be used.
    fn choose(&self, lease: &mut Lease) -> Option<MutexGuard<'_, Session>> {
        let fits = |wide: &&Wide| wide.threads <= lease.most() && wide.session.get().is_some();
        let most = self
            .sessions
            .iter()
            .filter(fits)
            .map(|wide| wide.threads)
            .max()?;
        let threads = self.scaling().choose(most);
        let wide = self.sessions.iter().find(|wide| wide.threads == threads)?;
        // A session that another worker uses is not waited for, and one that panicked is not used again.
        let session = match wide.session.get()?.try_lock() {
            Ok(session) => session,
            Err(TryLockError::WouldBlock | TryLockError::Poisoned(_)) => return None,
        };
        lease.widen(threads);
        Some(session)
    }

    fn record(&self, lease: &Lease, elements: u64, started: Instant) {
        let time = started.elapsed();
        if !lease.is_undisturbed() {
            return;
        }
        let mut scaling = self.scaling();
        if !scaling.record(lease.threads(), elements, time) {
            return;
        }
        let measured = scaling.measured();
        drop(scaling);
        for width in measured {
            let (threads, time_us) = (width.threads, width.time.as_micros() as u64);
            tracing::info!(
                model = self.name.get(),
                threads,
                time_us,
                "scaling measured"
            );
        }
    }
}

/// What was measured about runs of a network on more threads.
#[derive(Clone, Default)]
pub struct MeasuredScaling(pub(super) Option<Arc<WideSessions>>);

impl MeasuredScaling {
    /// Returns the thread counts that were measured, in ascending order. Empty before, and if runs never take idle cores.
    pub fn widths(&self) -> Vec<MeasuredWidth> {
        self.0
            .as_ref()
            .map_or_else(Vec::new, |wide| wide.measured())
    }
}

/// The session of one worker, and the wide sessions that it shares with others.
pub(super) struct Sessions {
    own: Session,
    wide: Option<Arc<WideSessions>>,
}

impl Sessions {
    /// Joins a worker's own session and the wide sessions of its model. `wide` is `None` if there are none.
    pub(super) fn new(own: Session, wide: Option<Arc<WideSessions>>) -> Self {
        Self { own, wide }
    }

    /// Returns the worker's own session.
    pub(super) fn own(&self) -> &Session {
        &self.own
    }

    /// Begins a run on `elements` elements of input: returns the session with the thread count for it, and its record.
    pub(super) fn begin(&mut self, elements: u64) -> (Chosen<'_>, Run<'_>) {
        let Some(wide) = &self.wide else {
            return (Chosen::Own(&mut self.own), Run(None));
        };
        let own = wide.model.threads();
        let mut lease = wide.cores.begin(own);
        let mut chosen = None;
        if lease.most() > own && !wide.sessions.is_empty() {
            wide.start();
            chosen = wide.choose(&mut lease);
        }
        let run = Run(Some(Record {
            wide,
            lease,
            elements,
            started: Instant::now(),
        }));
        let own = &mut self.own;
        (chosen.map_or(Chosen::Own(own), Chosen::Wide), run)
    }
}

/// The session that a run uses.
pub(super) enum Chosen<'a> {
    /// The worker's own one.
    Own(&'a mut Session),
    /// One that workers share.
    Wide(MutexGuard<'a, Session>),
}

impl Deref for Chosen<'_> {
    type Target = Session;

    fn deref(&self) -> &Session {
        match self {
            Self::Own(session) => session,
            Self::Wide(session) => session,
        }
    }
}

impl DerefMut for Chosen<'_> {
    fn deref_mut(&mut self) -> &mut Session {
        match self {
            Self::Own(session) => session,
            Self::Wide(session) => session,
        }
    }
}

/// A run in progress, which holds its cores until it is dropped.
pub(super) struct Run<'a>(Option<Record<'a>>);

struct Record<'a> {
    wide: &'a WideSessions,
    lease: Lease,
    elements: u64,
    started: Instant,
}

impl Run<'_> {
    /// Ends a run that succeeded, whose time is recorded.
    pub(super) fn succeeded(self) {
        if let Some(record) = self.0 {
            record
                .wide
                .record(&record.lease, record.elements, record.started);
        }
    }
}
