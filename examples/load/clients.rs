//! Many connections on one thread. The client shares the cores with the server, so that a thread for each connection,
//! which has to be woken up for every arrival and for every response, would be a part of what is measured.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write as _};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::time::Timespec;

use crate::http::{Connection, PATIENCE};
use crate::load::Target;
use crate::tally::Tally;

/// Maximum delay between the arrival time of a request and its sending; after a longer delay, the
/// request counts as late.
const LATE: Duration = Duration::from_millis(100);
/// Time for which responses may wait until they are read, in which case they do not wake up the client. To wake up a
/// thread takes the server longer than to write a rejection to a network card, and the server does that for no other client.
const GLANCE: Duration = Duration::from_millis(5);
/// Number of responses that are read between two looks at the clock.
const EVENTS: usize = 64;

/// Connections that send the request of a target, and what they have measured.
pub(crate) struct Clients<'a> {
    target: &'a Target<'a>,
    /// When responses count for the goodput.
    counted: Range<Instant>,
    epoll: OwnedFd,
    /// The bytes of the request, in memory of the system.
    request: File,
    members: Vec<Client>,
    /// The clients that wait for no response. The one that has waited longest is next.
    idle: VecDeque<usize>,
    events: Vec<epoll::Event>,
    tally: Tally,
}

struct Client {
    connection: Connection,
    pending: Option<Pending>,
}

/// A request without a response yet.
#[derive(Clone, Copy)]
struct Pending {
    arrival: Instant,
    sent: Instant,
    /// Whether the request is sent again if the server has closed the connection, which was kept open.
    again: bool,
}

impl<'a> Clients<'a> {
    /// Creates `connections` clients whose connections are opened when they are needed.
    ///
    /// # Errors
    /// If the process has too many open files.
    pub(crate) fn new(
        target: &'a Target<'a>,
        counted: Range<Instant>,
        connections: usize,
    ) -> io::Result<Self> {
        let client = || Client {
            connection: Connection::new(target.address),
            pending: None,
        };
        let mut request = File::from(memfd_create("request", MemfdFlags::CLOEXEC)?);
        request.write_all(target.request.bytes())?;
        Ok(Self {
            target,
            counted,
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            request,
            members: std::iter::repeat_with(client).take(connections).collect(),
            idle: (0..connections).collect(),
            events: Vec::with_capacity(EVENTS),
            tally: Tally::default(),
        })
    }

    /// Waits until `time`, and then until a connection is free. Reads the responses that arrive meanwhile: each at once,
    /// or all at `time` if that is less than [`GLANCE`] away.
    pub(crate) fn wait(&mut self, time: Instant) -> io::Result<()> {
        loop {
            let mut left = time.saturating_duration_since(Instant::now());
            if self.idle.is_empty() {
                left = left.max(PATIENCE);
            } else if left < GLANCE {
                std::thread::sleep(left);
                left = Duration::ZERO;
            }
            self.read(left)?;
            if self.idle.is_empty() {
                self.give_up();
            }
            if Instant::now() >= time && !self.idle.is_empty() {
                return Ok(());
            }
        }
    }

    /// Counts the requests that have waited too long for their responses as lost.
    fn give_up(&mut self) {
        for (index, client) in self.members.iter_mut().enumerate() {
            if client
                .pending
                .is_some_and(|request| request.sent.elapsed() >= PATIENCE)
            {
                client.pending = None;
                client.connection.close();
                self.tally.lost += 1;
                self.idle.push_back(index);
            }
        }
    }

    /// Sends a request that arrived at `arrival` over a free connection. Does nothing if none is free.
    pub(crate) fn send(&mut self, arrival: Instant) {
        let Some(index) = self.idle.pop_front() else {
            return;
        };
        let sent = Instant::now();
        self.tally.late += u64::from(sent.saturating_duration_since(arrival) > LATE);
        let again = self.members[index].connection.is_open();
        self.write(
            index,
            Pending {
                arrival,
                sent,
                again,
            },
        );
    }

    /// Reads the responses that are still to come and returns all measurements.
    pub(crate) fn finish(mut self) -> io::Result<Tally> {
        let end = Instant::now() + PATIENCE;
        while self.idle.len() < self.members.len() && Instant::now() < end {
            self.read(end.saturating_duration_since(Instant::now()))?;
        }
        let pending = self
            .members
            .iter()
            .filter(|client| client.pending.is_some());
        self.tally.lost += pending.count() as u64;
        Ok(self.tally)
    }

    fn write(&mut self, index: usize, pending: Pending) {
        let client = &mut self.members[index];
        let opened = client
            .connection
            .write_file(&self.request, self.target.request.bytes().len());
        let watched = opened.and_then(|opened| match opened {
            Some(stream) => {
                let data = EventData::new_u64(index as u64);
                Ok(epoll::add(&self.epoll, stream, data, EventFlags::IN)?)
            }
            None => Ok(()),
        });
        if watched.is_ok() {
            client.pending = Some(pending);
        } else {
            client.connection.close();
            self.tally.lost += 1;
            self.idle.push_back(index);
        }
    }

    /// Waits up to `time` for responses, and reads those that have arrived.
    fn read(&mut self, time: Duration) -> io::Result<()> {
        let time = Timespec::try_from(time).map_err(io::Error::other)?;
        let mut events = std::mem::take(&mut self.events);
        match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&time)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events.drain(..) {
            self.receive(event.data.u64() as usize);
        }
        self.events = events;
        Ok(())
    }

    /// Reads the response to the request of a client, or closes its connection if it waits for none.
    fn receive(&mut self, index: usize) {
        let Client {
            connection,
            pending,
        } = &mut self.members[index];
        let Some(request) = pending.take() else {
            return connection.close();
        };
        match connection.read() {
            Ok(Some(response)) => {
                let now = Instant::now();
                let label = self.target.label;
                let right = label.is_none_or(|label| response.has_label(label, 1));
                let in_time = self.counted.contains(&now);
                let latency = now.saturating_duration_since(request.arrival);
                self.tally.response(&response, latency, right, in_time);
                if response.status == 200 {
                    let latency = now.saturating_duration_since(request.sent);
                    self.tally.from_sending.push(latency.as_secs_f64() * 1000.0);
                }
            }
            Ok(None) if request.again => {
                let again = false;
                return self.write(index, Pending { again, ..request });
            }
            _ => self.tally.lost += 1,
        }
        self.idle.push_back(index);
    }
}
