//! Accuracy of results against the annotations of a data set.
//!
//! [`detection`] computes COCO's 12 figures as pycocotools does, [`segmentation`] the mean IoU and pixel accuracy
//! of torchvision's reference, and [`classification`] top-k accuracy, confusions and calibration. [`significance`]
//! compares two models on the same images.
//!
//! All functions are pure. What is *not* here: files of data sets, networks, threads and reports.

pub mod classification;
pub mod detection;
pub mod segmentation;
pub mod significance;
