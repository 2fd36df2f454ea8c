//! From a network's output to an answer: pure functions, no threads, no sockets, no sessions.

pub mod classify;
pub mod segment;
