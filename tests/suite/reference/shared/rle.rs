//! A slow reference decoder of COCO's compressed run-length encoding.

/// Decodes the string `counts` of an encoded mask. Returns one value per pixel, column after
/// column: whether the pixel is inside the mask.
pub fn decode(counts: &str) -> Vec<bool> {
    let mut runs: Vec<i64> = Vec::new();
    let mut characters = counts.bytes().map(|c| i64::from(c - b'0'));
    while let Some(mut bits) = characters.next() {
        let (mut value, mut shift) = (bits & 0x1f, 5);
        while bits & 0x20 != 0 {
            bits = characters.next().unwrap();
            value |= (bits & 0x1f) << shift;
            shift += 5;
        }
        if bits & 0x10 != 0 {
            value -= 1 << shift;
        }
        let before = if runs.len() > 2 {
            runs[runs.len() - 2]
        } else {
            0
        };
        runs.push(value + before);
    }
    let inside = |i: usize| i % 2 == 1;
    let pixels = runs.iter().enumerate();
    let pixels = pixels.flat_map(|(i, run)| std::iter::repeat_n(inside(i), *run as usize));
    pixels.collect()
}
