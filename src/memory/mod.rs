//! The memory plan: one budget, divided into the parts that requests reserve from.
//!
//! The parts are request bodies, pixels (images while they are decoded or drawn into), tensors (inputs and
//! outputs of networks) and responses. Each has a [`Demand`], so a small container serves the same requests
//! as a large machine, fewer at a time. [`MemoryPlan::new`] refuses a budget in which that is impossible.
//!
//! The weights and the sessions of the models are not in the budget: [`default_budget`] leaves memory for them.
//!
//! What is *not* here: the budgets that requests reserve from ([`crate::budget`]).

mod divide;
mod limit;
mod size;

use thiserror::Error;

use crate::app::Limits;
use crate::pipeline::MAX_DRAWN_PIXELS;
use crate::pool::{DECODE_BYTES_PER_PIXEL, FIXED_DECODE_BYTES, LARGE_PIXELS};
pub use divide::{Demand, Division, UNIT};
pub use limit::memory_limit;
pub use size::{ByteSize, ByteSizeError};

/// Part of the memory limit that requests may use, in percent. The rest is for the models, their sessions, and
/// what the allocator cannot return. docs/operations.md has the arithmetic.
const BUDGET_PERCENT: u64 = 60;
/// Memory for request bodies, if the budget allows it.
pub const BODY_BYTES: u64 = 512 << 20;
/// Memory for responses, if the budget allows it.
pub const RESPONSE_BYTES: u64 = 256 << 20;
/// Memory for the tensors of one model, if the budget allows it.
pub const TENSOR_BYTES_PER_MODEL: u64 = 256 << 20;
/// Pixels of a large photograph, the smallest image that a plan with room for large images accepts.
const PHOTOGRAPH_PIXELS: u64 = 12_000_000;
/// Bytes per 1000 pixels that decoding takes in every format but JPEG with several scans: that of JPEG with one.
const USUAL_BYTES_PER_1000_PIXELS: u64 = 7_100;
/// Bytes per pixel of a drawn image in a response: an RGB PNG that does not compress.
const DRAWN_BYTES_PER_PIXEL: u64 = 3;

/// Where the size of the budget comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BudgetOrigin {
    /// The flag `--memory-budget` or its environment variable.
    Flag,
    /// The configuration file.
    File,
    /// A share of the memory limit of the process's cgroup.
    Cgroup,
    /// A share of the physical memory.
    Physical,
    /// No limit is known: every part has the size that it wants.
    Unlimited,
}

impl BudgetOrigin {
    /// Returns the name of the origin in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Flag => "flag",
            Self::File => "file",
            Self::Cgroup => "cgroup",
            Self::Physical => "physical",
            Self::Unlimited => "unlimited",
        }
    }
}

/// The budget for requests, in bytes, if none is set: a share of the memory limit `limit` in bytes.
pub fn default_budget(limit: u64) -> u64 {
    limit / 100 * BUDGET_PERCENT
}

/// The sizes of parts that are set, in bytes; `None` to derive a part from the budget.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PartSizes {
    /// Memory for request bodies.
    pub bodies: Option<u64>,
    /// Memory for images while they are decoded or drawn into.
    pub pixels: Option<u64>,
    /// Memory for the tensors of all models.
    pub tensors: Option<u64>,
    /// Memory for responses.
    pub responses: Option<u64>,
}

/// The demands that follow from the limits on requests, before any part is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demands {
    /// Demand of request bodies.
    pub bodies: Demand,
    /// Demand of images up to 4 megapixels.
    pub small_pixels: Demand,
    /// Demand of larger images.
    pub large_pixels: Demand,
    /// Demand of the tensors of all models.
    pub tensors: Demand,
    /// Demand of responses.
    pub responses: Demand,
}

impl Demands {
    /// Returns the demands of a server with these limits and `threads` threads for work on images. `tensors` is the
    /// demand of all models.
    pub fn new(limits: &Limits, threads: usize, tensors: Demand) -> Self {
        let (threads, most) = (threads.max(1) as u64, limits.max_pixels);
        let photograph = most.min(PHOTOGRAPH_PIXELS);
        let body = limits.max_body_bytes as u64;
        let drawn = |pixels: u64| pixels.min(MAX_DRAWN_PIXELS) * DRAWN_BYTES_PER_PIXEL;
        let small = decode_bytes(most.min(LARGE_PIXELS));
        let usual = |pixels: u64| FIXED_DECODE_BYTES + pixels * USUAL_BYTES_PER_1000_PIXELS / 1000;
        let large = if most > LARGE_PIXELS {
            let all = decode_bytes(PHOTOGRAPH_PIXELS).saturating_mul(threads);
            Demand::new(usual(photograph), usual(most), all.max(decode_bytes(most)))
        } else {
            Demand::new(0, 0, 0)
        };
        Self {
            bodies: Demand::new(body, body, BODY_BYTES),
            small_pixels: Demand::new(small, small, small.saturating_mul(threads)),
            large_pixels: large,
            tensors,
            responses: Demand::new(drawn(photograph), drawn(most), RESPONSE_BYTES),
        }
    }

    /// Returns the demand of all images together.
    pub fn pixels(&self) -> Demand {
        Demand::sum([self.small_pixels, self.large_pixels])
    }
}

/// Returns the most memory that decoding `pixels` pixels takes in any format, in bytes.
fn decode_bytes(pixels: u64) -> u64 {
    FIXED_DECODE_BYTES + pixels.saturating_mul(DECODE_BYTES_PER_PIXEL)
}

/// A part, or the whole budget, is too small for the limits on requests.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MemoryPlanError {
    /// The budget is smaller than the sum of what the parts need.
    #[error(
        "the memory budget of {budget} bytes is too small: at least {needed} are needed (bodies {}, pixels {}, \
         tensors {}, responses {}); raise `memory_budget` or the memory limit of the container, or lower \
         `max_pixels` or `max_body_bytes`",
        .floors[0], .floors[1], .floors[2], .floors[3]
    )]
    Budget {
        /// Size of the budget in bytes.
        budget: u64,
        /// The smallest budget that works, in bytes.
        needed: u64,
        /// Smallest size of bodies, pixels, tensors and responses, in bytes.
        floors: [u64; 4],
    },
    /// A part that is set is smaller than the limits on requests need.
    #[error("`{setting}`: expected at least {needed} with the other settings, got {got}")]
    Part {
        /// Name of the setting.
        setting: &'static str,
        /// The smallest size that works, in bytes.
        needed: u64,
        /// The size that is set, in bytes.
        got: u64,
    },
}

/// The sizes of all parts, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Request bodies.
    pub bodies: u64,
    /// Images up to 4 megapixels while they are decoded or drawn into.
    pub small_pixels: u64,
    /// Larger images while they are decoded or drawn into.
    pub large_pixels: u64,
    /// Inputs and outputs of all models.
    pub tensors: u64,
    /// Responses until the client has read them.
    pub responses: u64,
}

impl MemoryPlan {
    /// Divides `budget` bytes among the parts. Parts in `set` keep their size.
    ///
    /// # Errors
    /// [`MemoryPlanError`] if the budget or a part that is set is too small.
    pub fn new(budget: u64, demands: &Demands, set: PartSizes) -> Result<Self, MemoryPlanError> {
        let part = |setting, set: Option<u64>, demand: Demand| match set {
            None => Ok(demand),
            Some(got) if Demand::fixed(got).floor >= demand.floor => Ok(Demand::fixed(got)),
            Some(got) => Err(MemoryPlanError::Part {
                setting,
                needed: demand.floor,
                got,
            }),
        };
        let parts = [
            part("body_memory_bytes", set.bodies, demands.bodies)?,
            part("decode_memory_bytes", set.pixels, demands.pixels())?,
            part("tensor_memory_bytes", set.tensors, demands.tensors)?,
            part("response_memory_bytes", set.responses, demands.responses)?,
        ];
        let too_small = || {
            let floors = parts.map(|part| part.floor);
            let needed = floors.iter().sum();
            MemoryPlanError::Budget {
                budget,
                needed,
                floors,
            }
        };
        let division = Division::new(budget, &parts).ok_or_else(too_small)?;
        let [bodies, pixels, tensors, responses] = parts.map(|part| division.size(part));
        let lanes = [demands.small_pixels, demands.large_pixels];
        let division = Division::new(pixels, &lanes).ok_or_else(too_small)?;
        let [small, large] = lanes.map(|lane| division.size(lane));
        Ok(Self {
            bodies,
            // A part that is set above the demand is used up.
            small_pixels: if large == 0 { pixels } else { small },
            large_pixels: if large == 0 { 0 } else { pixels - small },
            tensors,
            responses,
        })
    }

    /// Returns the plan of a server whose memory is not limited: every part has the size that it wants.
    pub fn unlimited(demands: &Demands) -> Self {
        Self {
            bodies: demands.bodies.want,
            small_pixels: demands.small_pixels.want,
            large_pixels: demands.large_pixels.want,
            tensors: demands.tensors.want,
            responses: demands.responses.want,
        }
    }

    /// Returns the size of all images together, in bytes.
    pub fn pixels(&self) -> u64 {
        self.small_pixels + self.large_pixels
    }

    /// Returns the sum of all parts, in bytes.
    pub fn total(&self) -> u64 {
        self.bodies + self.pixels() + self.tensors + self.responses
    }
}

#[cfg(test)]
mod tests;
