//! The memory plan: one budget in bytes, divided into parts from which requests reserve memory.
//!
//! The parts are request bodies, pixels (images while they are decoded or drawn into), tensors
//! (inputs and outputs of networks) and responses. Each part has a [`Demand`] with a minimum, so a
//! server in a small container processes fewer requests at a time than one on a large machine.
//! [`MemoryPlan::new`] returns an error if the budget is smaller than the sum of the minimums.
//!
//! The weights and the sessions of the models are not in the budget: [`default_budget`] leaves
//! memory for them.
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

/// Percentage of the memory limit that requests may use. The remainder is for the models, their
/// sessions, and memory that the allocator keeps after it is freed. `docs/limits.md` shows the
/// calculation.
const BUDGET_PERCENT: u64 = 60;
/// Largest size in bytes that the memory plan derives for request bodies, unless one body may be
/// larger.
pub const BODY_BYTES: u64 = 512 << 20;
/// Largest size in bytes that the memory plan derives for responses, unless one response may be
/// larger.
pub const RESPONSE_BYTES: u64 = 256 << 20;
/// Largest size in bytes that the memory plan derives for the tensors of one model, unless one
/// image needs more.
pub const TENSOR_BYTES_PER_MODEL: u64 = 256 << 20;
/// Pixels of a large photograph. If the limit on pixels allows it, every memory plan has room for
/// decoding a JPEG of this size with one scan.
const PHOTOGRAPH_PIXELS: u64 = 12_000_000;
/// Memory in bytes per 1000 pixels that decoding takes in usual formats, which are all except JPEG
/// with several scans. JPEG with one scan takes the most of them.
const USUAL_BYTES_PER_1000_PIXELS: u64 = 7_100;
/// Bytes per pixel of an image with drawn boxes or masks in a response: an RGB PNG that does not
/// compress.
const DRAWN_BYTES_PER_PIXEL: u64 = 3;

/// Where the size of the budget comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BudgetOrigin {
    /// The flag `--memory-budget` or the environment variable of this flag sets the budget.
    Flag,
    /// The configuration file sets the budget.
    File,
    /// The budget is a percentage of the memory limit of the process's cgroup.
    Cgroup,
    /// The budget is a percentage of the physical memory.
    Physical,
    /// There is no budget, because no memory limit can be read: every part has its largest useful
    /// size.
    Unlimited,
}

impl BudgetOrigin {
    /// Returns the name of the origin as it is logged.
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

/// Returns the budget for requests in bytes if no setting states one: a percentage of `limit`, the
/// memory limit in bytes.
pub fn default_budget(limit: u64) -> u64 {
    limit / 100 * BUDGET_PERCENT
}

/// The sizes in bytes of the parts that settings fix. A part is `None` if its size is derived from
/// the budget.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PartSizes {
    /// Memory in bytes for request bodies. `None` to derive it from the budget.
    pub bodies: Option<u64>,
    /// Memory in bytes for images while they are decoded or drawn into. `None` to derive it from
    /// the budget.
    pub pixels: Option<u64>,
    /// Memory in bytes for the tensors of all models. `None` to derive it from the budget.
    pub tensors: Option<u64>,
    /// Memory in bytes for responses. `None` to derive it from the budget.
    pub responses: Option<u64>,
}

/// The demand of each part that follows from the limits on requests, regardless of settings that
/// fix the size of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demands {
    /// Demand of the memory for request bodies.
    pub bodies: Demand,
    /// Demand of the memory for images of up to 4 megapixels while they are decoded or drawn into.
    pub small_pixels: Demand,
    /// Demand of the memory for images of more than 4 megapixels while they are decoded or drawn
    /// into.
    pub large_pixels: Demand,
    /// Demand of the memory for the tensors of all models.
    pub tensors: Demand,
    /// Demand of the memory for responses.
    pub responses: Demand,
}

impl Demands {
    /// Returns the demands of a server with the limits `limits` on requests and `threads` threads
    /// for work on images. `tensors` is the demand of the tensors of all models.
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

    /// Returns the sum of the demands of small and large images.
    pub fn pixels(&self) -> Demand {
        Demand::sum([self.small_pixels, self.large_pixels])
    }
}

/// Returns the most memory in bytes that decoding an image of `pixels` pixels takes in any format.
/// The code tables of a lossless WebP can take 512 KiB more.
fn decode_bytes(pixels: u64) -> u64 {
    FIXED_DECODE_BYTES + pixels.saturating_mul(DECODE_BYTES_PER_PIXEL)
}

/// The memory budget, or a part whose size a setting fixes, is too small for the limits on
/// requests.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MemoryPlanError {
    /// The budget is smaller than the sum of the minimums of all parts.
    #[error(
        "the memory budget of {budget} bytes is too small: at least {needed} are needed (bodies {}, pixels {}, \
         tensors {}, responses {}); raise `memory_budget` or the memory limit of the container, or lower \
         `max_pixels` or `max_body_bytes`",
        .floors[0], .floors[1], .floors[2], .floors[3]
    )]
    Budget {
        /// Size of the budget in bytes.
        budget: u64,
        /// The smallest budget that suffices, in bytes.
        needed: u64,
        /// The minimums of bodies, pixels, tensors and responses, in this order, in bytes.
        floors: [u64; 4],
    },
    /// A setting fixes the size of a part below the minimum that follows from the limits on
    /// requests.
    #[error("`{setting}`: expected at least {needed} with the other settings, got {got}")]
    Part {
        /// Name of the setting that fixes the size of the part.
        setting: &'static str,
        /// The smallest size of the part that suffices, in bytes.
        needed: u64,
        /// The size that the setting states, in bytes.
        got: u64,
    },
}

/// The sizes of all parts of the memory for requests, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Memory in bytes for request bodies.
    pub bodies: u64,
    /// Memory in bytes for images of up to 4 megapixels while they are decoded or drawn into.
    pub small_pixels: u64,
    /// Memory in bytes for images of more than 4 megapixels while they are decoded or drawn into.
    pub large_pixels: u64,
    /// Memory in bytes for the inputs and outputs of all models.
    pub tensors: u64,
    /// Memory in bytes for responses until the client has read them.
    pub responses: u64,
}

impl MemoryPlan {
    /// Divides `budget` bytes among the parts. Parts whose size is in `set` have that size, rounded
    /// up to a multiple of [`UNIT`].
    ///
    /// # Errors
    /// [`MemoryPlanError`] if the budget is smaller than the sum of the minimums, or a size in
    /// `set` is smaller than the minimum of its part.
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
            // All of `pixels` is used, even if a setting fixes it above the demands of all images.
            // What small images do not need is for large images; if the limits allow no large
            // images, everything is for small images.
            small_pixels: if large == 0 { pixels } else { small },
            large_pixels: if large == 0 { 0 } else { pixels - small },
            tensors,
            responses,
        })
    }

    /// Returns the plan of a server without a memory budget: every part has the maximum (`want`) of
    /// its demand.
    pub fn unlimited(demands: &Demands) -> Self {
        Self {
            bodies: demands.bodies.want,
            small_pixels: demands.small_pixels.want,
            large_pixels: demands.large_pixels.want,
            tensors: demands.tensors.want,
            responses: demands.responses.want,
        }
    }

    /// Returns the memory for small and large images together, in bytes.
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
