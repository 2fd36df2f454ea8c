//! Axes: from values to pixels, and the values at which the grid is drawn.

/// Most intervals between ticks of a linear axis.
const INTERVALS: f64 = 7.0;

/// The name of an axis and how values are placed on it.
#[derive(Debug, Clone)]
pub(in super::super) struct Axis {
    pub(in super::super) name: String,
    is_log: bool,
    /// Whether the axis begins at zero.
    has_zero: bool,
    /// Values at which the grid is drawn, with their texts. Empty for round values.
    ticks: &'static [(f64, &'static str)],
}

/// Quantiles of [`Axis::quantiles`], by the number of values of which one is greater.
const QUANTILES: [(f64, &str); 5] = [
    (1.0, "0 %"),
    (2.0, "50 %"),
    (10.0, "90 %"),
    (100.0, "99 %"),
    (1000.0, "99.9 %"),
];

impl Axis {
    /// Returns an axis with equal distances for equal differences.
    pub(in super::super) fn linear(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            is_log: false,
            has_zero: false,
            ticks: &[],
        }
    }

    /// Returns an axis of quantiles on which each further nine takes the same space. The quantile q is at 1 / (1 - q).
    pub(in super::super) fn quantiles(name: &str) -> Self {
        Self {
            is_log: true,
            ticks: &QUANTILES,
            ..Self::linear(name)
        }
    }

    /// Returns a linear axis that begins at zero.
    pub(in super::super) fn from_zero(name: &str) -> Self {
        Self {
            has_zero: true,
            ..Self::linear(name)
        }
    }

    /// Returns an axis with equal distances for equal ratios. Values that are not positive are placed at its begin.
    pub(in super::super) fn log(name: &str) -> Self {
        Self {
            is_log: true,
            ..Self::linear(name)
        }
    }
}

/// An axis with the range of its values and of its pixels.
pub(super) struct Scale {
    is_log: bool,
    ticks: &'static [(f64, &'static str)],
    /// Least and greatest value, as logarithms if `is_log`.
    range: (f64, f64),
    /// Pixels of the least and of the greatest value.
    pixels: (f64, f64),
}

impl Scale {
    /// Returns the scale on which `values` are placed between the two `pixels`.
    pub(super) fn new(axis: &Axis, values: impl Iterator<Item = f64>, pixels: (f64, f64)) -> Self {
        let is_log = axis.is_log;
        let usable = values.filter(|value| value.is_finite() && (!is_log || *value > 0.0));
        let mut range = (f64::INFINITY, f64::NEG_INFINITY);
        for value in usable {
            let value = if is_log { value.log10() } else { value };
            range = (range.0.min(value), range.1.max(value));
        }
        let (mut low, mut high) = if range.0 <= range.1 {
            range
        } else {
            (0.0, 1.0)
        };
        if axis.has_zero {
            low = low.min(0.0);
        }
        let gap = if high > low {
            (high - low) * 0.08
        } else {
            0.5 * high.abs().max(1.0)
        };
        high += gap;
        if !axis.has_zero {
            low -= gap;
        }
        Self {
            is_log,
            ticks: axis.ticks,
            range: (low, high),
            pixels,
        }
    }

    /// Returns the pixel of `value`, which is on the axis.
    pub(super) fn at(&self, value: f64) -> f64 {
        let ((low, high), (first, last)) = (self.range, self.pixels);
        let value = if self.is_log { value.log10() } else { value };
        // A logarithm of zero or of NaN is not on the axis.
        let value = if value.is_nan() {
            low
        } else {
            value.clamp(low, high)
        };
        first + (value - low) / (high - low) * (last - first)
    }

    /// Returns the values at which the grid is drawn, with their texts.
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
        let (low, high) = self.range;
        if !self.ticks.is_empty() {
            let inside = |value: f64| (low..=high).contains(&value.log10());
            let ticks = self.ticks.iter().filter(|(value, _)| inside(*value));
            return ticks
                .map(|(value, text)| (*value, (*text).to_owned()))
                .collect();
        }
        if self.is_log {
            return log_ticks(low, high);
        }
        let step = step((high - low) / INTERVALS);
        let (first, last) = ((low / step).ceil() as i64, (high / step).floor() as i64);
        let decimals = (-step.log10()).ceil().max(0.0) as usize;
        let ticks = (first..=last).map(|number| {
            let value = number as f64 * step;
            (value, format!("{value:.decimals$}"))
        });
        ticks.collect()
    }
}

/// Returns the least of 1, 2 and 5 times a power of ten that is not below `least`.
fn step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    let factors = [1.0, 2.0, 5.0, 10.0];
    let factor = factors
        .into_iter()
        .find(|factor| factor * power >= least * 0.999_999);
    factor.unwrap_or(10.0) * power
}

/// Returns 1, 2 and 5 times the powers of ten between the powers `low` and `high` of ten; only the powers of ten if
/// these are many.
fn log_ticks(low: f64, high: f64) -> Vec<(f64, String)> {
    let factors: &[f64] = if high - low > 3.0 {
        &[1.0]
    } else {
        &[1.0, 2.0, 5.0]
    };
    let powers = (low.floor() as i32)..=(high.ceil() as i32);
    let values = powers.flat_map(|power| {
        factors
            .iter()
            .map(move |factor| factor * 10_f64.powi(power))
    });
    let inside = values.filter(|value| (low..=high).contains(&value.log10()));
    inside
        .map(|value| {
            let decimals = (-value.log10()).ceil().max(0.0) as usize;
            (value, format!("{value:.decimals$}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(axis: &Axis, values: &[f64]) -> Vec<String> {
        let scale = Scale::new(axis, values.iter().copied(), (0.0, 100.0));
        scale.ticks().into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn ticks_are_round_values_in_the_range() {
        let linear = Axis::linear("");
        assert_eq!(
            texts(&linear, &[60.0, 80.0]),
            ["60", "65", "70", "75", "80"]
        );
        assert_eq!(
            texts(&linear, &[0.1, 0.2]),
            ["0.10", "0.12", "0.14", "0.16", "0.18", "0.20"]
        );
        assert_eq!(texts(&Axis::from_zero(""), &[90.0])[0], "0");
        assert_eq!(
            texts(&Axis::log(""), &[2.0, 60.0]),
            ["2", "5", "10", "20", "50"]
        );
        assert_eq!(
            texts(&Axis::log(""), &[0.1, 9000.0]),
            ["0.1", "1", "10", "100", "1000", "10000"]
        );
    }

    #[test]
    fn values_are_placed_between_the_pixels() {
        let scale = Scale::new(
            &Axis::log(""),
            [1.0, 100.0].into_iter(),
            (0.0, 116.0 / 100.0),
        );
        assert!((scale.at(10.0) - 0.58).abs() < 1e-9, "{}", scale.at(10.0));
        assert!(scale.at(0.0).is_finite() && scale.at(f64::NAN).is_finite());
    }
}
