//! The format of the log.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Log filter if no setting names another: all events of level `info` and above.
pub const DEFAULT_LOG: &str = "info";

/// Format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line of text for each event.
    #[default]
    Text,
    /// One JSON object for each event.
    Json,
}
