//! The gamma distribution, whose tail describes waiting times.

/// Largest number of terms of the series and of the continued fraction. Both converge in fewer for the shapes of waiting
/// times.
const TERMS: u32 = 500;
/// Relative size of a term after which the rest is negligible.
const NEGLIGIBLE: f64 = 1e-12;
/// Coefficients of Stirling's series for the logarithm of the gamma function.
const STIRLING: [f64; 4] = [1.0 / 12.0, -1.0 / 360.0, 1.0 / 1260.0, -1.0 / 1680.0];

/// Returns the probability that a value of the gamma distribution with this `mean` and squared coefficient of variation
/// (both greater than 0) exceeds `value`.
pub(super) fn exceeds(mean: f64, squared_variation: f64, value: f64) -> f64 {
    let shape = 1.0 / squared_variation;
    let scaled = value * shape / mean;
    if scaled <= 0.0 {
        return 1.0;
    }
    let front = (shape * scaled.ln() - scaled - ln_gamma(shape)).exp();
    let tail = if scaled < shape + 1.0 {
        1.0 - front * series(shape, scaled)
    } else {
        front * fraction(shape, scaled)
    };
    tail.clamp(0.0, 1.0)
}

/// Returns the series of the lower incomplete gamma function, without its front factor.
fn series(shape: f64, scaled: f64) -> f64 {
    let (mut term, mut sum) = (1.0 / shape, 1.0 / shape);
    for index in 1..TERMS {
        term *= scaled / (shape + f64::from(index));
        sum += term;
        if term < sum * NEGLIGIBLE {
            break;
        }
    }
    sum
}

/// Returns the continued fraction of the upper incomplete gamma function, without its front factor, evaluated from the
/// front (Lentz's method).
fn fraction(shape: f64, scaled: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let mut base = scaled + 1.0 - shape;
    let mut upper = 1.0 / TINY;
    let mut lower = 1.0 / base;
    let mut value = lower;
    for index in 1..TERMS {
        let index = f64::from(index);
        let factor = -index * (index - shape);
        base += 2.0;
        lower = 1.0 / nonzero(factor * lower + base, TINY);
        upper = nonzero(base + factor / upper, TINY);
        let change = lower * upper;
        value *= change;
        if (change - 1.0).abs() < NEGLIGIBLE {
            break;
        }
    }
    value
}

/// Returns `value`, or `tiny` in the place of a value that cannot be divided by.
fn nonzero(value: f64, tiny: f64) -> f64 {
    if value.abs() < tiny { tiny } else { value }
}

/// Returns the natural logarithm of the gamma function of `x` > 0: Stirling's series, for an argument that the recursion
/// Γ(x + 1) = x Γ(x) has raised to 10 or more.
fn ln_gamma(x: f64) -> f64 {
    let (mut raised, mut product) = (x, 0.0);
    while raised < 10.0 {
        product += raised.ln();
        raised += 1.0;
    }
    let square = raised * raised;
    let series = STIRLING
        .iter()
        .rev()
        .fold(0.0, |sum, term| sum / square + term)
        / raised;
    let half = (std::f64::consts::TAU).ln() / 2.0;
    (raised - 0.5) * raised.ln() - raised + half + series - product
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_of_the_gamma_function_are_exact() {
        for (x, expected) in [
            (0.5, std::f64::consts::PI.sqrt()),
            (1.0, 1.0),
            (4.0, 6.0),
            (11.0, 3_628_800.0),
        ] {
            assert!(
                (ln_gamma(x) - expected.ln()).abs() < 1e-12,
                "{x}: {}",
                ln_gamma(x)
            );
        }
    }

    #[test]
    fn tails_have_their_closed_forms() {
        for value in [0.01, 0.5, 1.0, 3.0, 12.0] {
            // Shape 1 is the exponential distribution, shape 2 the sum of two.
            let exponential = (-value / 2.0_f64).exp();
            assert!((exceeds(2.0, 1.0, value) - exponential).abs() < 1e-12);
            let erlang = (1.0 + value) * (-value).exp();
            assert!((exceeds(2.0, 0.5, value) - erlang).abs() < 1e-12);
        }
    }

    #[test]
    fn values_without_a_tail_are_certain() {
        assert_eq!(exceeds(1.0, 1.0, 0.0), 1.0);
        assert_eq!(exceeds(1.0, 1.0, -1.0), 1.0);
        assert!(exceeds(1.0, 0.4, 1e6).abs() < 1e-12);
    }
}
