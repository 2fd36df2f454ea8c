//! The stage that a request is in, for `sightline_cancelled_total`.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::labels::Stage;

/// The stages that a request and its images are in. Clones share the same stages.
#[derive(Debug, Clone, Default)]
pub struct RequestProgress(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    request: ImageProgress,
    images: Mutex<Vec<ImageProgress>>,
}

impl RequestProgress {
    /// Records that the request as a whole is in `stage`. It starts in [`Stage::admission`].
    pub fn enter(&self, stage: Stage) {
        self.0.request.enter(stage);
    }

    /// Adds an image of the request, in the stage [`Stage::admission`].
    pub fn image(&self) -> ImageProgress {
        let image = ImageProgress::default();
        let mut images = self.0.images.lock().unwrap_or_else(PoisonError::into_inner);
        images.push(image.clone());
        image
    }

    /// Returns the stage of the request: the earliest one that the request or one of its images is in.
    pub fn stage(&self) -> Stage {
        let images = self.0.images.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = images.iter().map(ImageProgress::stage).min();
        earliest.map_or(self.0.request.stage(), |image| {
            image.min(self.0.request.stage())
        })
    }
}

/// The stage that one image is in. Clones share the same stage.
#[derive(Debug, Clone, Default)]
pub struct ImageProgress(Arc<AtomicU8>);

impl ImageProgress {
    /// Records that the image is in `stage`.
    pub fn enter(&self, stage: Stage) {
        // Only metrics read the stage, so it orders no other access.
        self.0.store(stage as u8, Ordering::Relaxed);
    }

    fn stage(&self) -> Stage {
        let index = usize::from(self.0.load(Ordering::Relaxed));
        Stage::ALL.get(index).copied().unwrap_or(Stage::admission)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_image_is_the_stage_of_the_request() {
        let request = RequestProgress::default();
        assert_eq!(request.stage(), Stage::admission);
        request.enter(Stage::receive);
        assert_eq!(request.clone().stage(), Stage::receive);
        request.enter(Stage::encode);
        let images = [request.image(), request.image()];
        assert_eq!(request.stage(), Stage::admission);
        images[0].enter(Stage::inference);
        images[1].enter(Stage::decode);
        assert_eq!(request.stage(), Stage::decode);
        images[1].enter(Stage::encode);
        assert_eq!(request.stage(), Stage::inference);
        images[0].enter(Stage::encode);
        assert_eq!(request.stage(), Stage::encode);
    }

    #[test]
    fn stages_keep_their_place_in_the_list() {
        for (index, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, index, "{}", stage.as_str());
        }
    }
}
