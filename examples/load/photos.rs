//! Valid requests with photographs of the repository, in every image format and every kind of body.

use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image_webp::{ColorType, WebPEncoder};

use crate::http::{Connection, Request};
use crate::server::Server;

/// Expected label of the photograph of coffee, which most requests send.
pub(crate) const COFFEE_LABEL: &str = "espresso";

/// A valid request with its expected result.
#[derive(Debug)]
pub(crate) struct Valid {
    /// The request.
    pub(crate) request: Request,
    /// The expected best label, which is the same for every image of the request.
    pub(crate) label: String,
    /// The number of images in the request.
    pub(crate) images: usize,
}

/// Reads the photograph `tests/photos/NAME`.
pub(crate) fn photo(name: &str) -> Result<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/photos");
    let path = folder.join(name);
    std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// Returns a request to classify the photograph of coffee, a JPEG file of 500x375 pixels, with the
/// built-in model.
pub(crate) fn coffee() -> Result<Request> {
    coffee_to("efficientnet_lite0")
}

/// Returns a request to classify the photograph of [`coffee`] with `model`.
pub(crate) fn coffee_to(model: &str) -> Result<Request> {
    let path = format!("/v1/classify?top_k=1&model={model}");
    let photo = photo("coffee_500x375.jpg")?;
    Ok(Request::post(&path, "application/octet-stream", &photo))
}

/// Returns requests with images of every format, as raw bodies, a form and JSON. The expected label
/// of a request is the label that the idle `server` returns for it. For photographs of coffee, this
/// label is checked: an error is returned if it is not `COFFEE_LABEL`.
pub(crate) fn valid(server: &Server) -> Result<Vec<Valid>> {
    let jpeg = photo("coffee_500x375.jpg")?;
    let png = photo("coffee.png")?;
    let coffee = Pixels::decode(&png)?;
    let files = [
        jpeg.clone(),
        coffee.webp()?,
        coffee.bmp(),
        coffee.gif()?,
        png,
        photo("chelsea.png")?,
        photo("rocket.jpg")?,
    ];
    let mut requests: Vec<(Request, usize)> = files
        .iter()
        .map(|file| (Request::classify(file), 1))
        .collect();
    requests.push((Request::classify_form(&[&jpeg, &jpeg]), 2));
    let data = STANDARD.encode(&jpeg);
    let json = serde_json::json!({ "images": [{ "data": data }] }).to_string();
    let json = Request::post("/v1/classify?top_k=1", "application/json", json.as_bytes());
    requests.push((json, 1));
    let valid = |(request, images)| learn(server, request, images);
    let valid: Vec<Valid> = requests.into_iter().map(valid).collect::<Result<_>>()?;
    for at in [0, 1, 2, 4, 7, 8] {
        let label = &valid[at].label;
        anyhow::ensure!(label == COFFEE_LABEL, "request {at}: {label} is not coffee");
    }
    Ok(valid)
}

fn learn(server: &Server, request: Request, images: usize) -> Result<Valid> {
    let response = Connection::new(server.address).send(&request)?;
    let body: serde_json::Value = serde_json::from_slice(&response.body)?;
    let label = body["results"][0]["predictions"][0]["label"].as_str();
    let label = label.with_context(|| format!("no label in {body}"))?;
    anyhow::ensure!(
        response.has_label(label, images),
        "not {label} only: {body}"
    );
    Ok(Valid {
        label: label.to_owned(),
        request,
        images,
    })
}

/// Pixels of a decoded image, `[height, width, 3] u8`.
struct Pixels {
    width: u32,
    height: u32,
    rgb: Vec<u8>,
}

impl Pixels {
    /// Decodes a PNG file, which must have RGB pixels.
    fn decode(file: &[u8]) -> Result<Self> {
        let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info()?;
        let size = reader
            .output_buffer_size()
            .context("the image is too large")?;
        let mut rgb = vec![0; size];
        let frame = reader.next_frame(&mut rgb)?;
        anyhow::ensure!(frame.color_type == png::ColorType::Rgb, "not an RGB image");
        Ok(Self {
            width: frame.width,
            height: frame.height,
            rgb,
        })
    }

    /// Encodes the pixels as a lossless WebP file.
    fn webp(&self) -> Result<Vec<u8>> {
        let mut file = Vec::new();
        WebPEncoder::new(&mut file).encode(&self.rgb, self.width, self.height, ColorType::Rgb8)?;
        Ok(file)
    }

    /// Encodes the pixels as a BMP file with 24 bits per pixel.
    fn bmp(&self) -> Vec<u8> {
        let row = self.width as usize * 3;
        let padding = vec![0; row.next_multiple_of(4) - row];
        let mut data = Vec::new();
        for row in self.rgb.chunks(row).rev() {
            for pixel in row.chunks(3) {
                data.extend(pixel.iter().rev());
            }
            data.extend_from_slice(&padding);
        }
        crate::images::bmp(self.width, self.height, 24, 0, &[], &data)
    }

    /// Encodes the pixels as a GIF file, with six levels each of red, green and blue in its
    /// palette.
    fn gif(&self) -> Result<Vec<u8>> {
        let levels = |at: usize| [at / 36 * 51, at / 6 % 6 * 51, at % 6 * 51];
        let palette: Vec<u8> = (0..216).flat_map(levels).map(|level| level as u8).collect();
        let nearest = |value: u8| (value + 25) / 51;
        let indices: Vec<u8> = self
            .rgb
            .chunks(3)
            .map(|pixel| {
                let [r, g, b] = [pixel[0], pixel[1], pixel[2]].map(|v| nearest(v.min(230)));
                r * 36 + g * 6 + b
            })
            .collect();
        let (width, height) = (self.width as u16, self.height as u16);
        crate::images::gif((width, height), (width, height), &palette, indices)
    }
}
