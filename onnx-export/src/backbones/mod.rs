//! Feature extractors: each module opens with its paper's table and ends with a function that
//! turns `[N, 3, H, W]` into feature maps.

pub mod efficientnet_lite;
pub mod mobilenet_v2;
pub mod mobilenet_v3;
pub mod resnet;
