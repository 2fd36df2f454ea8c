//! Conversion of CMYK and YCCK to RGB, as libjpeg-turbo and then Pillow do it.
//!
//! The decoder's own conversion is correct only if no component is subsampled, so the decoder only
//! returns the planes, and this module converts them. Ink values are read as inverted (255 is no
//! ink), as Adobe writes them, whether or not the file has Adobe's marker.

use libjpeg_turbo_rs::RawImage;
use libjpeg_turbo_rs::common::types::FrameHeader;

use super::color::from_ycc;
use super::planes::Plane;
use crate::cancel::{Cancel, Cancelled, Pace};

/// Returns the image's pixels, `[H, W, 3] u8`, from its four planes. If `ycck` is true, the first
/// three planes hold luma and chroma instead of cyan, magenta and yellow. Returns `None` if a plane
/// or its component in `frame` is missing, which the checks before decoding rule out.
///
/// # Errors
/// [`Cancelled`] if `cancel` is cancelled.
pub(super) fn to_rgb(
    raw: &RawImage,
    frame: &FrameHeader,
    ycck: bool,
    cancel: &Cancel,
) -> Result<Option<Vec<u8>>, Cancelled> {
    let planes: Option<Vec<Plane>> = (0..4).map(|index| plane(raw, frame, index)).collect();
    let Some(Ok(planes)) = planes.map(<[Plane; 4]>::try_from) else {
        return Ok(None);
    };
    let mut pace = Pace::new(cancel);
    let mut out = vec![0; raw.width * raw.height * 3];
    let mut rows: [Vec<u8>; 4] = std::array::from_fn(|_| vec![0; raw.width]);
    let mut sums = Vec::new();
    for (y, out) in out.chunks_exact_mut(raw.width * 3).enumerate() {
        pace.step(out.len())?;
        for (plane, row) in planes.iter().zip(&mut rows) {
            plane.upsample(y, row, &mut sums);
        }
        let [first, second, third, black] = &rows;
        for (x, rgb) in out.as_chunks_mut::<3>().0.iter_mut().enumerate() {
            let mut inks = [first[x], second[x], third[x]];
            if ycck {
                inks = from_ycc(inks).map(|light| 255 - light);
            }
            // The rounded `ink * black / 255` equals Pillow's `black - (255 - ink) * black / 255`,
            // in which the quotient is rounded.
            let black = u16::from(black[x]);
            *rgb = inks.map(|ink| ((u16::from(ink) * black + 127) / 255) as u8);
        }
    }
    Ok(Some(out))
}

/// Returns the plane of the component with index `index`. `None` if it is missing.
fn plane<'a>(raw: &'a RawImage, frame: &FrameHeader, index: usize) -> Option<Plane<'a>> {
    let component = frame.components.get(index)?;
    // The checks before decoding ensure that the first component has the finest sampling.
    let finest = frame.components.first()?;
    let scale = (
        finest.horizontal_sampling / component.horizontal_sampling,
        finest.vertical_sampling / component.vertical_sampling,
    );
    let scale = (usize::from(scale.0), usize::from(scale.1));
    Some(Plane {
        samples: raw.planes.get(index)?,
        stride: *raw.plane_widths.get(index)?,
        size: (raw.width.div_ceil(scale.0), raw.height.div_ceil(scale.1)),
        scale,
        smooth: true,
    })
}
