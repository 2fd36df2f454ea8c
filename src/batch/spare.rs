//! What the workers of a model need to replace an engine that failed.

use crate::engine::{Engine, EngineError};
use crate::image::{ImageError, PreparedImage};

/// Creates engines that replace failed ones, and the image that tests them. Kept as long as the model is loaded, so it
/// should hold little memory of its own.
pub trait Spare: Send + Sync {
    /// Creates an engine of the same model with `threads` threads.
    ///
    /// # Errors
    /// [`EngineError`] if the engine cannot be created now.
    fn engine(&self, threads: usize) -> Result<Box<dyn Engine>, EngineError>;

    /// Returns the image of test runs, which is the one with which the model's engines ran first.
    ///
    /// # Errors
    /// [`ImageError`] if the image cannot be prepared.
    fn image(&self) -> Result<PreparedImage, ImageError>;
}

/// A stock of engines for tests. Its test image has one pixel with the value 0.
#[cfg(test)]
pub(crate) struct Stock {
    engines: std::sync::Mutex<Vec<Box<dyn Engine>>>,
}

#[cfg(test)]
impl Stock {
    /// Creates a stock of `engines`, of which the last is used first.
    pub(crate) fn of(engines: Vec<Box<dyn Engine>>) -> Self {
        let engines = std::sync::Mutex::new(engines);
        Self { engines }
    }
}

#[cfg(test)]
impl Spare for Stock {
    fn engine(&self, _threads: usize) -> Result<Box<dyn Engine>, EngineError> {
        let engine = self.engines.lock().unwrap().pop();
        engine.ok_or_else(|| EngineError::Propose("no engine is left".to_owned()))
    }

    fn image(&self) -> Result<PreparedImage, ImageError> {
        let size = crate::image::ImageSize {
            width: 1,
            height: 1,
        };
        Ok(PreparedImage::whole(size, vec![0.0; 3]))
    }
}
