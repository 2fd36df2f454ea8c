//! Sightline.

pub mod image;
