//! Division of an amount of memory among parts that each have a minimum and a maximum.

/// Unit in bytes of the sizes of all parts. It is a multiple of the units in which the budgets
/// count their reservations.
pub const UNIT: u64 = 64 << 10;

/// The memory that one part needs at three levels of service, in bytes, each a multiple of
/// [`UNIT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// Minimum in bytes, without which the server does not start. A part of this size may be too
    /// small for the largest requests that the limits allow.
    pub floor: u64,
    /// Bytes that suffice for the largest request of a usual kind. At least `floor`.
    pub enough: u64,
    /// Maximum in bytes: the part would not use more. At least `enough`.
    pub want: u64,
}

impl Demand {
    /// Creates a demand from amounts in bytes, each rounded up to a multiple of [`UNIT`]. `enough`
    /// is raised to `floor` and `want` to `enough` if they are smaller.
    pub fn new(floor: u64, enough: u64, want: u64) -> Self {
        let floor = round_up(floor);
        let enough = round_up(enough).max(floor);
        let want = round_up(want).max(enough);
        Self {
            floor,
            enough,
            want,
        }
    }

    /// Creates the demand of a part whose size is fixed by a setting: all three levels are `bytes`,
    /// rounded up to a multiple of [`UNIT`].
    pub fn fixed(bytes: u64) -> Self {
        Self::new(bytes, bytes, bytes)
    }

    /// Returns the sum of the demands of `parts`, level by level.
    pub fn sum(parts: impl IntoIterator<Item = Self>) -> Self {
        let none = Self::new(0, 0, 0);
        parts.into_iter().fold(none, |sum, part| Self {
            floor: sum.floor.saturating_add(part.floor),
            enough: sum.enough.saturating_add(part.enough),
            want: sum.want.saturating_add(part.want),
        })
    }
}

/// Rounds `bytes` up to a multiple of [`UNIT`].
fn round_up(bytes: u64) -> u64 {
    bytes.div_ceil(UNIT).saturating_mul(UNIT)
}

/// The division of an amount of memory among parts. The sizes of all parts add up to at most that
/// amount, and each size is between the part's `floor` and `want`.
///
/// Every part has its `want` if the amount suffices for that. If it does not, but suffices for
/// `enough` of every part, each part has `enough` and the same fraction of the difference from
/// `enough` to `want`. With even less, each part has `floor` and the same fraction of the
/// difference from `floor` to `enough`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Division {
    total: u64,
    /// Sum of the demands of all parts.
    sum: Demand,
}

impl Division {
    /// Returns the division of `total` bytes among `parts`. `None` if `total` is less than the sum
    /// of the `floor`s of all parts.
    pub fn new(total: u64, parts: &[Demand]) -> Option<Self> {
        let sum = Demand::sum(parts.iter().copied());
        (total >= sum.floor).then_some(Self { total, sum })
    }

    /// Returns the size in bytes of `part`, which must be one of the demands passed to
    /// `Division::new`.
    pub fn size(&self, part: Demand) -> u64 {
        let Self { total, sum } = *self;
        if total >= sum.want {
            part.want
        } else if total >= sum.enough {
            between((part.enough, part.want), (sum.enough, sum.want), total)
        } else {
            between((part.floor, part.enough), (sum.floor, sum.enough), total)
        }
    }
}

/// Interpolates linearly: returns the size in bytes that lies in the range `part` where `total`
/// lies in the range `sum`. Its distance from the start of `part` is rounded down to a multiple of
/// [`UNIT`]. The ends of `sum` must differ.
fn between(part: (u64, u64), sum: (u64, u64), total: u64) -> u64 {
    let spare = u128::from(total - sum.0) * u128::from(part.1 - part.0);
    let share = (spare / u128::from(sum.1 - sum.0)) as u64;
    part.0 + share / UNIT * UNIT
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn mib(floor: u64, enough: u64, want: u64) -> Demand {
        Demand::new(floor * MIB, enough * MIB, want * MIB)
    }

    #[test]
    fn parts_shrink_in_proportion_and_never_below_their_floors() {
        let parts = [mib(10, 20, 100), mib(30, 30, 50), Demand::fixed(7 * MIB)];
        // The total, and the expected size of each part, in MiB; `None` if the total is too small.
        let cases = [
            (46, None),
            (47, Some([10, 30, 7])),
            (52, Some([15, 30, 7])),
            (57, Some([20, 30, 7])),
            (107, Some([60, 40, 7])),
            (157, Some([100, 50, 7])),
            (1000, Some([100, 50, 7])),
        ];
        for (total, expected) in cases {
            let expected = expected.map(|sizes| sizes.map(|size| size * MIB));
            let division = Division::new(total * MIB, &parts);
            let sizes = division.map(|division| parts.map(|part| division.size(part)));
            assert_eq!(sizes, expected, "{total} MiB");
        }
    }

    #[test]
    fn demands_are_multiples_of_the_unit_in_ascending_order() {
        let demand = Demand::new(1, 0, UNIT + 1);
        assert_eq!(
            (demand.floor, demand.enough, demand.want),
            (UNIT, UNIT, 2 * UNIT)
        );
        let division = Division::new(3 * UNIT + UNIT / 2, &[demand, demand]).unwrap();
        assert_eq!(
            division.size(demand),
            UNIT,
            "rounded down, within the total"
        );
    }
}
