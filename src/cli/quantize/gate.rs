//! Decides whether an int8 model may be written.

use sightline::quantize::{HeldOut, NetworkReport, Report};

/// Smallest agreement of int8 and fp32 results on held-out photographs if `--min-agreement` is not given.
pub(super) const MIN_AGREEMENT: f64 = 0.97;
/// Smallest mean cosine similarity of int8 and fp32 outputs on held-out photographs. Networks with real weights have
/// 0.98 or more (docs/quantization.md). An int8 network that changes the class of a photograph can have 0.92.
pub(super) const MIN_COSINE: f64 = 0.95;
/// Smallest [`HeldOut::kept_variation`] with which an int8 model may be written.
/// Networks with real weights have 0.98 to 1.01.
const MIN_KEPT_VARIATION: f64 = 0.1;

/// Smallest number of held-out photographs of which one may change its class. With fewer, one photograph is more than a
/// tenth of the results.
const MIN_FOR_ONE: usize = 10;

/// Limits below which an int8 model is rejected.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Smallest agreement with the fp32 model, 0 to 1.
    pub(super) agreement: f64,
    /// Whether one of 10 photographs or more may differ, whatever the agreement. In classification, fp32 and int8 agree
    /// on a photograph either fully or not at all, so that one photograph of 20 is 5 % of the results, and fp32 may be
    /// undecided between two classes.
    pub(super) may_be_one: bool,
    /// Smallest mean cosine similarity with the fp32 outputs, 0 to 1.
    pub(super) cosine: f64,
}

/// Returns why the int8 model should not be used, and what to do about it. `None` if it may be used.
pub(super) fn objection(report: &Report, limits: Limits) -> Option<String> {
    let mut networks = report.networks.iter();
    networks
        .find_map(|network| ignores_image(report, network))
        .or_else(|| disagrees(report, limits))
        .or_else(|| {
            let mut networks = report.networks.iter();
            networks.find_map(|network| is_far(network, limits.cosine))
        })
        .or_else(|| is_slow(report))
}

/// Objects to outputs that do not depend on the image, of fp32 or int8.
fn ignores_image(report: &Report, network: &NetworkReport) -> Option<String> {
    let HeldOut {
        variation,
        kept_variation,
        ..
    } = network.held_out;
    if let Some(variation) = variation.filter(|variation| *variation <= HeldOut::MIN_VARIATION) {
        return Some(format!(
            "the outputs of the fp32 model do not depend on the image: between different photographs they differ by \
             {variation:.1e} of their size, so the comparison with int8 would say nothing. Check the weights and the \
             preprocessing with `sightline predict --model {}`, or write the int8 model with --force",
            report.model
        ));
    }
    let kept = kept_variation.filter(|kept| *kept < MIN_KEPT_VARIATION)?;
    Some(format!(
        "the outputs of the int8 model hardly depend on the image: between different photographs they differ by {:.1} \
         % of what the fp32 outputs differ by, at least {:.0} % is required. Choose another method for the activation \
         ranges (--method mse); keep more layers in fp32 (--max-float 0.4 --min-cosine 0.99999); serve the fp32 model; \
         or write the int8 model with --force",
        kept * 100.0,
        MIN_KEPT_VARIATION * 100.0
    ))
}

/// Objects to an agreement below the limit.
fn disagrees(report: &Report, limits: Limits) -> Option<String> {
    let agreement = report.agreement.agreement;
    let least = limits.agreement;
    let held_out = report.images.held_out;
    let is_one = (1.0 - agreement) * held_out as f64 <= 1.001;
    let may_be_one = limits.may_be_one && held_out >= MIN_FOR_ONE;
    let is_allowed = agreement >= least || (may_be_one && is_one);
    (!is_allowed).then(|| {
        let images = match held_out {
            0 => "on the calibration photograph".to_owned(),
            1 => "on the held-out photograph".to_owned(),
            count => format!("on {count} held-out photographs"),
        };
        format!(
            "the int8 model agrees with fp32 in {:.1} % of the results {images}, but `--min-agreement` \
             requires {:.1} %. Calibrate on more photographs like those that the model will be \
             used on, of which every fifth is held out (--images); keep more layers in fp32 \
             (--max-float 0.4); require closer outputs (--min-cosine 0.9995); or accept the model with --force",
            agreement * 100.0,
            least * 100.0
        )
    })
}

/// Objects to a network whose outputs have a cosine similarity below `least`.
fn is_far(network: &NetworkReport, least: f64) -> Option<String> {
    let cosine = network.held_out.cosine;
    // The similarity is NaN if an output is.
    (cosine.is_nan() || cosine < least).then(|| {
        format!(
            "the outputs of the int8 model have a mean cosine similarity of {cosine:.4} with those of fp32, but at \
             least {least:.4} is required. Calibrate on more photographs like those that the model will be used on; \
             keep more layers in fp32 (--max-float 0.4); accept less similar outputs with a lower --min-cosine; or \
             write the int8 model with --force"
        )
    })
}

/// Objects to an int8 model that is not faster. If this CPU is not of the target family, latencies on it say nothing
/// about the target CPU.
fn is_slow(report: &Report) -> Option<String> {
    (!report.simulated && report.speedup() <= 1.0).then(|| {
        format!(
            "the int8 model is not faster on this CPU: int8 {:.2} ms, fp32 {:.2} ms. {} Keep fewer \
             layers in fp32 (--max-float 0.1), serve the fp32 model, or write the int8 model with \
             --force",
            report.int8.milliseconds,
            report.fp32.milliseconds,
            "CPUs with VNNI (servers of 2019 and later) gain most. If other programs use the CPU, repeat the command \
             without them."
        )
    })
}

#[cfg(test)]
mod tests {
    use onnx_export::quantize::Target;
    use sightline::quantize::{Agreement, ImageCounts, Method, Timing};

    use super::*;

    const LIMITS: Limits = Limits {
        agreement: MIN_AGREEMENT,
        may_be_one: true,
        cosine: MIN_COSINE,
    };

    /// Returns the report of an int8 model that may be used, of one network.
    fn good() -> Report {
        let timing = |milliseconds| Timing {
            bytes: 1,
            milliseconds,
        };
        Report {
            model: "birds".to_owned(),
            target: Target::Vnni,
            simulated: false,
            images: ImageCounts {
                calibration: 80,
                held_out: 20,
            },
            agreement: Agreement {
                images: 20,
                agreement: 1.0,
                mean_change: 0.0,
                worst_change: 0.0,
            },
            embedding_cosine: None,
            fp32: timing(2.0),
            int8: timing(1.0),
            networks: vec![NetworkReport {
                method: Method::Minmax,
                cosine: 0.99,
                held_out: HeldOut {
                    cosine: 0.99,
                    variation: Some(0.5),
                    kept_variation: Some(1.0),
                },
                int8_share: 1.0,
                layers: Vec::new(),
            }],
        }
    }

    /// Changes the comparison of the only network.
    fn held_out(report: &mut Report) -> &mut HeldOut {
        &mut report.networks[0].held_out
    }

    #[test]
    fn models_are_rejected_with_figures_and_advice() {
        type Change = fn(&mut Report);
        let cases: [(Change, &str); 9] = [
            (
                |report| held_out(report).variation = Some(0.0),
                "the outputs of the fp32 model do not depend on the image: between different photographs they differ by 0.0e0",
            ),
            (
                |report| held_out(report).kept_variation = Some(0.042),
                "differ by 4.2 % of what the fp32 outputs differ by, at least 10 % is required",
            ),
            (
                |report| held_out(report).cosine = 0.9321,
                "a mean cosine similarity of 0.9321 with those of fp32, but at least 0.9500 is required",
            ),
            (
                |report| held_out(report).cosine = f64::NAN,
                "a mean cosine similarity of NaN",
            ),
            (
                |report| {
                    let mut second = report.networks[0].held_out;
                    second.cosine = 0.5;
                    report.networks.extend(good().networks);
                    report.networks[1].held_out = second;
                },
                "a mean cosine similarity of 0.5000",
            ),
            (
                |report| report.agreement.agreement = 0.90,
                "agrees with fp32 in 90.0 % of the results on 20 held-out photographs, but `--min-agreement` requires 97.0 %",
            ),
            (
                |report| {
                    report.agreement.agreement = 0.0;
                    report.images.held_out = 1;
                },
                "0.0 % of the results on the held-out photograph,",
            ),
            (
                |report| {
                    report.agreement.agreement = 0.0;
                    report.images.held_out = 0;
                },
                "0.0 % of the results on the calibration photograph,",
            ),
            (
                |report| report.int8.milliseconds = 2.0,
                "not faster on this CPU: int8 2.00 ms, fp32 2.00 ms",
            ),
        ];
        for (change, expected) in cases {
            let mut report = good();
            change(&mut report);
            let message = objection(&report, LIMITS).unwrap();
            assert!(message.contains(expected), "no `{expected}`: {message}");
            assert!(message.contains("--force"), "{message}");
        }
    }

    #[test]
    fn good_models_and_one_other_class_are_accepted() {
        type Change = fn(&mut Report);
        let cases: [Change; 4] = [
            |_| (),
            |report| report.agreement.agreement = 0.97,
            // The variation is unknown with one photograph.
            |report| {
                held_out(report).variation = None;
                held_out(report).kept_variation = None;
            },
            // The speed on the target is unknown.
            |report| {
                report.simulated = true;
                report.int8.milliseconds = 9.0;
            },
        ];
        for change in cases {
            let mut report = good();
            change(&mut report);
            assert_eq!(objection(&report, LIMITS), None);
        }
        let mut report = good();
        report.agreement.agreement = 0.95;
        assert_eq!(objection(&report, LIMITS), None);
        let strict = Limits {
            may_be_one: false,
            ..LIMITS
        };
        assert!(objection(&report, strict).is_some());
        report.images.held_out = 5;
        report.agreement.agreement = 0.8;
        assert!(objection(&report, LIMITS).is_some());
        // A user who accepts less similar outputs lowers the limit.
        let mut report = good();
        held_out(&mut report).cosine = 0.8;
        let limits = Limits {
            cosine: 0.7,
            ..LIMITS
        };
        assert_eq!(objection(&report, limits), None);
    }
}
