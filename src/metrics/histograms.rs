//! The histograms: classic buckets for text formats, and native buckets for protobuf.

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, NativeHistogramConfig};

/// Upper bounds of the buckets of the duration histograms, in seconds. Most requests and stages take 1 to 100 ms;
/// eight buckets per decade show there that a quantile grows by a third.
#[rustfmt::skip]
const SECONDS: [f64; 27] = [
    0.000_25, 0.000_5,
    0.001, 0.001_3, 0.001_8, 0.002_4, 0.003_2, 0.004_2, 0.005_6, 0.007_5,
    0.01, 0.013, 0.018, 0.024, 0.032, 0.042, 0.056, 0.075,
    0.1, 0.18, 0.32, 0.56, 1.0, 1.8, 3.2, 5.6, 10.0,
];
/// Upper bounds of the buckets of the batch size histogram, in images.
const IMAGES: [f64; 9] = [1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 16.0, 32.0, 64.0];

/// Resolution of the native buckets: each is 2^(1/16), that is 4.4 %, wider than the one below it. A quantile is
/// therefore wrong by less than 4.4 %.
const SCHEMA: i8 = 4;
/// Durations up to 10 microseconds share one native bucket.
const ZERO_SECONDS: f64 = 1e-5;
/// Maximum number of native buckets of a histogram: enough for durations from 10 microseconds to 5 minutes. A
/// histogram that exceeds it halves its resolution.
const MAX_NATIVE_BUCKETS: usize = 400;

pub(super) type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// Returns a family of histograms of durations in seconds.
pub(super) fn of_seconds<L: Clone + std::hash::Hash + Eq>() -> Histograms<L> {
    Family::new_with_constructor(|| {
        let native = native().zero_threshold(ZERO_SECONDS);
        Histogram::new_classic_and_native(SECONDS, native)
    })
}

/// Returns a family of histograms of numbers of images.
pub(super) fn of_images<L: Clone + std::hash::Hash + Eq>() -> Histograms<L> {
    Family::new_with_constructor(|| Histogram::new_classic_and_native(IMAGES, native()))
}

fn native() -> NativeHistogramConfig {
    NativeHistogramConfig::with_schema(SCHEMA).max_buckets(MAX_NATIVE_BUCKETS)
}
