//! Which requests the access log has.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Which requests the access log has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessEvents {
    /// No request.
    Off,
    /// Requests with a status of 400 and above, and those whose client disconnected.
    Errors,
    /// All requests, except successful probes and scrapes.
    #[default]
    All,
}
