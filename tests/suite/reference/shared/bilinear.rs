//! A slow reference implementation of bilinear interpolation.

/// Resizes every plane of size `from` (height, width) to size `to` by bilinear interpolation.
///
/// Source: `torch.nn.functional.interpolate(scores, to, mode="bilinear", align_corners=False)`.
pub fn bilinear(planes: &[f32], from: [usize; 2], to: [usize; 2]) -> Vec<f32> {
    let mut out = Vec::new();
    for plane in planes.chunks_exact(from[0] * from[1]) {
        for y in 0..to[0] {
            let vertical = Sample::new(y, from[0], to[0]);
            for x in 0..to[1] {
                let horizontal = Sample::new(x, from[1], to[1]);
                let row = |y: usize| horizontal.mix(|x| plane[y * from[1] + x]);
                out.push(vertical.mix(row));
            }
        }
    }
    out
}

/// The two source indices `before` and `after` between which an output sample lies, and the
/// `weight` (0 to 1) of the source sample `after`; the sample `before` has the weight `1 - weight`.
struct Sample {
    before: usize,
    after: usize,
    weight: f32,
}

impl Sample {
    /// Returns the source indices and weight of output sample `out` when `from` samples are resized to `to`.
    fn new(out: usize, from: usize, to: usize) -> Self {
        let scale = from as f32 / to as f32;
        let at = ((out as f32 + 0.5) * scale - 0.5).max(0.0);
        let before = (at.floor() as usize).min(from - 1);
        Self {
            before,
            after: (before + 1).min(from - 1),
            weight: (at - before as f32).min(1.0),
        }
    }

    fn mix(&self, value: impl Fn(usize) -> f32) -> f32 {
        value(self.before) * (1.0 - self.weight) + value(self.after) * self.weight
    }
}
