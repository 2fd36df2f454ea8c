//! Bilinear interpolation, plainly.

/// `torch.nn.functional.interpolate(scores, to, mode="bilinear", align_corners=False)`, one number after
/// the other: planes of `from`, height and width, to planes of `to`.
pub fn bilinear(scores: &[f32], from: [usize; 2], to: [usize; 2]) -> Vec<f32> {
    let mut out = Vec::new();
    for plane in scores.chunks_exact(from[0] * from[1]) {
        for y in 0..to[0] {
            let (top, bottom, down) = neighbours(y, from[0], to[0]);
            for x in 0..to[1] {
                let (left, right, across) = neighbours(x, from[1], to[1]);
                let along = |y: usize| {
                    let row = &plane[y * from[1]..][..from[1]];
                    row[left] * (1.0 - across) + row[right] * across
                };
                out.push(along(top) * (1.0 - down) + along(bottom) * down);
            }
        }
    }
    out
}

/// The input before, the input after, and the weight of the latter.
fn neighbours(out: usize, from: usize, to: usize) -> (usize, usize, f32) {
    let scale = from as f32 / to as f32;
    let at = ((out as f32 + 0.5) * scale - 0.5).max(0.0);
    let before = (at.floor() as usize).min(from - 1);
    (
        before,
        (before + 1).min(from - 1),
        (at - before as f32).min(1.0),
    )
}
