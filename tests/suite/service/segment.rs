//! Checks `/v1/segment` and `sightline predict` with exported segmentation networks: the masks in
//! every encoding and size, and that invalid requests are rejected.

use crate::reference;
use std::io::Cursor;
use std::path::Path;

use crate::common::{self, Reply, Server, checkpoint, form, json_body, odd, photo, run};
use crate::reference::shared::python::{self, Encoded};
use crate::reference::shared::rle;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::RgbImage;
use serde_json::Value;
use sightline::engine::Engine as _;
use sightline::image::{DecodeOptions, ImageSize, Orientation, PreparedImage, decode};
use tempfile::TempDir;

const LABELS: &str = "road\nriver\n";
const ROUTE: &str = "/v1/segment";

/// Exports LR-ASPP with two classes as the model `rivers`. Returns the models directory, a
/// temporary folder.
fn exported() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    export(&directory, "lraspp_mobilenet_v3_large", "rivers", &[]);
    directory
}

/// Exports `network` with the classes [`LABELS`] and generated weights as the model folder
/// `directory/name`. `flags` are further arguments of `sightline export`.
fn export(directory: &TempDir, network: &str, name: &str, flags: &[&str]) {
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let weights = at(&format!("{name}.safetensors"));
    let (labels, out) = (at("labels.txt"), at(name));
    checkpoint::write(network, 2, weights.as_ref());
    std::fs::write(&labels, LABELS).unwrap();
    let mut arguments = vec!["export", network, "--weights", &weights];
    arguments.extend(["--labels", &labels, "-o", &out]);
    arguments.extend(flags);
    let (code, stdout, stderr) = run(&arguments);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
}

fn segment(server: &Server, query: &str, image: &[u8]) -> Reply {
    server.post(
        &format!("{ROUTE}{query}"),
        "application/octet-stream",
        image,
    )
}

/// Sends one image to `/v1/segment` and returns its entry in `results`.
fn result(server: &Server, query: &str, image: &[u8]) -> Value {
    segment(server, query, image).results().remove(0)
}

/// Decodes a palette PNG. Returns the width and height in pixels, the palette (RGB bytes), and the
/// palette index of each pixel in row order.
fn indices(png: &[u8]) -> ((u32, u32), Vec<u8>, Vec<u8>) {
    let mut reader = png::Decoder::new(Cursor::new(png)).read_info().unwrap();
    let info = reader.info();
    assert_eq!(info.color_type, png::ColorType::Indexed);
    let size = (info.width, info.height);
    let palette = info.palette.clone().unwrap().into_owned();
    let mut indices = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut indices).unwrap();
    (size, palette, indices)
}

fn mask_of(result: &Value) -> Vec<u8> {
    let mask = &result["mask"];
    assert_eq!(mask["encoding"], "png");
    let png = STANDARD.decode(mask["data"].as_str().unwrap()).unwrap();
    let ((width, height), _, indices) = indices(&png);
    assert_eq!(mask["size"], serde_json::json!([height, width]));
    indices
}

#[test]
fn an_exported_checkpoint_returns_masks_with_its_labels() {
    let directory = exported();
    let models = directory.path().to_str().unwrap();
    let server = Server::start(&[
        "--models",
        models,
        "--model",
        "rivers,rivers@320",
        "--max-batch-size",
        "4",
    ]);
    let image = photo("coffee_500x375.jpg");
    let whole = result(&server, "", &image);
    assert_eq!(
        (&whole["width"], &whole["height"]),
        (&500.into(), &375.into())
    );
    let mask = mask_of(&whole);
    let classes = whole["classes"].as_array().unwrap();
    let labels: Vec<&str> = LABELS.lines().collect();
    for class in classes {
        let id = class["class_id"].as_u64().unwrap() as usize;
        assert_eq!(class["label"], labels[id]);
        let pixels = mask
            .iter()
            .filter(|class| usize::from(**class) == id)
            .count();
        assert_eq!(class["pixels"], pixels);
        let fraction = class["fraction"].as_f64().unwrap();
        assert!(
            (fraction - pixels as f64 / 187_500.0).abs() < 1e-6,
            "{class}"
        );
    }
    let total: u64 = classes
        .iter()
        .map(|class| class["pixels"].as_u64().unwrap())
        .sum();
    assert_eq!(total, 187_500);
    encodings(&server, &image, &mask);
    sizes(&server, &image, &mask);
    several(&server);
    rejected(&server);
}

/// Checks that the server's mask for `image` has the classes of `mask` in every encoding: PNG, run
/// lengths, and drawn into the image.
fn encodings(server: &Server, image: &[u8], mask: &[u8]) {
    let alone = server.post_accepting(ROUTE, "image/png", image);
    assert_eq!(alone.header("content-type"), "image/png");
    assert!(alone.header("server-timing").contains("encode;dur="));
    let (size, palette, pixels) = indices(&alone.body);
    assert_eq!((size, pixels.as_slice()), ((500, 375), mask));
    // The palette has one color per class: the first two colors of the Pascal VOC palette.
    assert_eq!(palette, [0, 0, 0, 128, 0, 0]);

    let runs = result(server, "?mask=rle", image);
    assert_eq!(runs["mask"]["encoding"], "rle");
    let runs = runs["mask"]["data"].as_array().unwrap();
    for run in runs {
        assert_eq!(run["size"], serde_json::json!([375, 500]));
        let columns = rle::decode(run["counts"].as_str().unwrap());
        let class = run["class_id"].as_u64().unwrap();
        let inside = |at: usize| columns[(at % 500) * 375 + at / 500];
        let mut pixels = mask.iter().enumerate();
        let same = pixels.all(|(at, pixel)| (u64::from(*pixel) == class) == inside(at));
        assert!(columns.len() == mask.len() && same, "class {class}");
    }
    let all = Encoded::new([375, 500], mask, &alone.body, runs);
    python::agrees("segment", &[all]);
    let none = result(server, "?mask=none", image);
    assert!(none.get("mask").is_none() && !none["classes"].as_array().unwrap().is_empty());

    let drawn = format!("{ROUTE}?annotate=true");
    let png = server.post_accepting(&drawn, "image/png", image);
    let shown = image::load_from_memory(&png.body).unwrap().into_rgb8();
    assert_eq!(shown.dimensions(), (500, 375));
    drawn_in(&shown, image, mask);
    let coarse = server.post_accepting(&format!("{drawn}&size=logits"), "image/png", image);
    let coarse = image::load_from_memory(&coarse.body).unwrap().into_rgb8();
    assert_eq!(coarse.dimensions(), (500, 375));
    assert_ne!(coarse, shown);
    let any = server.post(&drawn, "image/jpeg", image);
    assert_eq!(any.header("content-type"), "image/png");
    assert_eq!(any.body, png.body);
    let jpeg = server.post_accepting(&drawn, "image/jpeg", image);
    assert_eq!(jpeg.header("content-type"), "image/jpeg");
    assert!(jpeg.body.starts_with(&[0xFF, 0xD8]));
}

/// The color of class 1 in the Pascal VOC palette.
const RED: [u8; 3] = [128, 0, 0];

/// Checks `shown`, the mask drawn into the image. Below the legend, pixels of rivers (class 1) must
/// be tinted and pixels of roads (class 0) unchanged. The legend must show the color of rivers.
fn drawn_in(shown: &RgbImage, image: &[u8], mask: &[u8]) {
    const LEGEND_ROWS: u32 = 60;
    let options = DecodeOptions {
        max_pixels: 1 << 20,
        orientation: Orientation::Apply,
    };
    let image = decode(image, &options).unwrap();
    let (mut tinted, mut outlines) = (0, 0);
    let pixels = shown.enumerate_pixels().zip(image.pixels()).zip(mask);
    for (((x, y, shown), original), class) in pixels.filter(|((at, _), _)| at.1 >= LEGEND_ROWS) {
        let mix = |channel: usize| {
            let (from, to) = (f32::from(original[channel]), f32::from(RED[channel]));
            from + (to - from) * 0.55
        };
        // Areas have an opaque outline inside.
        if *class == 1 && shown.0 == RED {
            outlines += 1;
            continue;
        }
        for channel in 0..3 {
            let expected = match class {
                0 => f32::from(original[channel]),
                _ => mix(channel),
            };
            let difference = (f32::from(shown[channel]) - expected).abs();
            let allowed = f32::from(*class) * 1.5;
            assert!(
                difference <= allowed,
                "class {class} at {x}, {y}: {shown:?}"
            );
        }
        tinted += u32::from(*class);
    }
    assert!(tinted > 100 && tinted < 500 * 315 - 100, "{tinted}");
    assert!(outlines > 0 && outlines < tinted, "{outlines} of {tinted}");
    let count = |image: &RgbImage| {
        let corner = image::imageops::crop_imm(image, 0, 0, 250, LEGEND_ROWS);
        let corner = corner.to_image();
        corner.pixels().filter(|pixel| pixel.0 == RED).count()
    };
    assert!(count(shown) >= 64 && count(&image) == 0, "{}", count(shown));
}

/// Checks the size of masks at the resolution of the logits (`size=logits`), for the model and for
/// its variant `320`, which has a smaller input. Also checks that the variant's mask differs from
/// `mask`.
fn sizes(server: &Server, image: &[u8], mask: &[u8]) {
    let logits = result(server, "?size=logits", image);
    // The network's input has a width of 693 and a height of 520 pixels; the output stride is 8.
    assert_eq!(logits["mask"]["size"], serde_json::json!([65, 87]));
    assert_eq!(
        (&logits["width"], &logits["height"]),
        (&500.into(), &375.into())
    );
    let small = segment(server, "?model=rivers@320&size=logits", image);
    assert_eq!(small.json()["variant"], "320");
    // The input of the variant has a width of 426 and a height of 320 pixels.
    assert_eq!(
        small.results()[0]["mask"]["size"],
        serde_json::json!([40, 54])
    );
    let small = result(server, "?model=rivers@320", image);
    assert_ne!(mask_of(&small), mask);
    let first = segment(server, "?model=rivers", image);
    assert_eq!(first.json()["variant"], "fp32");
}

/// Checks that images have the same results in three cases: each image in its own request, all
/// images in one request, and all requests at the same time.
fn several(server: &Server) {
    let images = [
        photo("coffee_500x375.jpg"),
        photo("chelsea.png"),
        odd("exif_6.jpg"),
        photo("coffee_500x375.jpg"),
    ];
    let alone: Vec<Value> = images
        .iter()
        .map(|image| result(server, "", image))
        .collect();
    let parts: Vec<(&str, &[u8])> = images.iter().map(|p| ("image", p.as_slice())).collect();
    let (kind, body) = form(&parts);
    assert_eq!(server.post(ROUTE, kind, &body).results(), alone);
    let bodies: Vec<&[u8]> = images.iter().map(Vec::as_slice).collect();
    let json = json_body(&bodies);
    assert_eq!(
        server.post(ROUTE, "application/json", &json).results(),
        alone
    );
    std::thread::scope(|scope| {
        for (image, expected) in images.iter().zip(&alone).chain(images.iter().zip(&alone)) {
            scope.spawn(move || assert_eq!(&result(server, "", image), expected));
        }
    });
}

fn rejected(server: &Server) {
    let image = photo("chelsea.png");
    for (query, field) in [
        ("?mask=jpeg", "mask"),
        ("?size=both", "size"),
        ("?annotate=yes", "annotate"),
        ("?top_k=3", "top_k"),
    ] {
        let reply = segment(server, query, &image);
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (400, "bad_parameter"),
            "{query}"
        );
        assert_eq!(reply.json()["field"], field, "{query}");
    }
    for (path, accept) in [
        ("/v1/segment", "text/html"),
        ("/v1/segment", "image/jpeg"),
        ("/v1/segment?annotate=true", "application/json"),
    ] {
        let reply = server.post_accepting(path, accept, &image);
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (400, "bad_parameter"),
            "{accept}"
        );
        assert_eq!(reply.json()["field"], "accept");
    }
    let conflict = server.post_accepting("/v1/segment?mask=rle", "image/png", &image);
    assert_eq!(conflict.json()["field"], "mask");
    let (kind, body) = form(&[("image", &image), ("image", &image)]);
    let several = server.post("/v1/segment?annotate=true", kind, &body);
    assert_eq!(
        (several.status, several.code().as_str()),
        (400, "bad_parameter")
    );
    shapes(server);
    for (route, model, status, code) in [
        (ROUTE, "rivers@int8", 404, "unknown_model"),
        ("/v1/classify", "rivers", 404, "wrong_task"),
        ("/v1/classify", "", 404, "no_model"),
    ] {
        let query = if model.is_empty() {
            String::new()
        } else {
            format!("?model={model}")
        };
        let reply = server.post(&format!("{route}{query}"), "image/png", &image);
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (status, code),
            "{route} {model}"
        );
    }
    assert!(server.metric("sightline_stage_duration_seconds_count{stage=\"encode\"") > 0.0);
}

/// Checks that the masks of tiny images have the size of the image, and that images that are too
/// elongated, too large or damaged are rejected.
fn shapes(server: &Server) {
    let encode = |width, height| {
        let image = image::RgbImage::from_pixel(width, height, image::Rgb([9, 99, 199]));
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        bytes.into_inner()
    };
    for (width, height) in [(1, 1), (1, 5), (5, 1), (3, 2)] {
        let answer = result(server, "", &encode(width, height));
        assert_eq!(answer["mask"]["size"], serde_json::json!([height, width]));
        assert_eq!(mask_of(&answer).len(), (width * height) as usize);
    }
    for (width, height) in [(1, 4000), (4000, 1)] {
        let reply = segment(server, "", &encode(width, height));
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (413, "image_too_elongated")
        );
        assert_eq!(reply.json()["field"], "images[0]");
    }
    let reply = segment(server, "", &odd("huge.png"));
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (413, "too_many_pixels")
    );
    let reply = segment(server, "", &odd("truncated.jpg"));
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (422, "damaged_image")
    );
}

#[test]
fn an_auxiliary_head_does_not_change_the_result() {
    let directory = tempfile::tempdir().unwrap();
    let network = "fcn_mobilenet_v3_large";
    export(&directory, network, "with", &["--aux"]);
    export(&directory, network, "without", &[]);
    let outputs = |name: &str| {
        let model = std::fs::read(directory.path().join(name).join("model.onnx")).unwrap();
        let size = ImageSize {
            width: 64,
            height: 48,
        };
        let batch = vec![PreparedImage::whole(size, vec![0.0; 3 * 64 * 48])];
        let mut session = reference::runtime().prepare(&model).unwrap().session();
        session
            .as_mut()
            .unwrap()
            .run(batch)
            .unwrap()
            .remove(0)
            .len()
    };
    assert_eq!((outputs("with"), outputs("without")), (2, 1));
    let models = directory.path().to_str().unwrap();
    let server = Server::start(&["--models", models, "--model", "with@320,without@320"]);
    let image = photo("coffee_500x375.jpg");
    for query in ["size=input", "size=logits", "mask=rle"] {
        let answer = |name: &str| result(&server, &format!("?model={name}@320&{query}"), &image);
        assert_eq!(answer("with"), answer("without"), "{query}");
    }
}

/// Checks that a drawing replaces a symbolic link of its name and leaves the file behind the link
/// unchanged, that a named pipe of its name is an error, and that abandoned files are removed.
fn links_are_replaced(model: &str, out: &Path, image: &str) {
    let drawing = out.join("coffee_500x375.png");
    let victim = out.join("victim");
    std::fs::write(&victim, "precious").unwrap();
    std::fs::remove_file(&drawing).unwrap();
    std::os::unix::fs::symlink("victim", &drawing).unwrap();
    let abandoned = out.join(".sightline-stage-0");
    std::fs::create_dir(&abandoned).unwrap();
    std::fs::write(abandoned.join("half.png"), "half").unwrap();
    let args = ["predict", "--model", model, "--annotate"];
    let args = [&args[..], &[out.to_str().unwrap(), image]].concat();
    let (code, _, stderr) = run(&args);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(drawing.symlink_metadata().unwrap().is_file());
    assert_eq!(image::open(&drawing).unwrap().width(), 500);
    assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
    assert!(!abandoned.exists());

    std::fs::remove_file(&drawing).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&drawing).status();
    assert!(made.unwrap().success());
    let (code, _, stderr) = run(&args);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("a named pipe has this name"), "{stderr}");
    std::fs::remove_file(&drawing).unwrap();
}

#[test]
fn predict_draws_masks() {
    let directory = exported();
    let model = directory.path().join("rivers/model.toml");
    let (model, out) = (model.to_str().unwrap(), directory.path().join("drawn"));
    let coffee = common::path("photos/coffee_500x375.jpg");
    let coffee = coffee.to_str().unwrap();
    let out_arg = out.to_str().unwrap();
    let (code, stdout, stderr) = run(&[
        "predict",
        "--model",
        model,
        "--annotate",
        out_arg,
        "--json",
        coffee,
    ]);
    assert_eq!(code, Some(0), "{stderr}");
    let line: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(line["image"], coffee);
    assert_eq!(
        (&line["width"], &line["height"]),
        (&500.into(), &375.into())
    );
    let drawn = image::open(out.join("coffee_500x375.png")).unwrap();
    assert_eq!((drawn.width(), drawn.height()), (500, 375));
    links_are_replaced(model, &out, coffee);
    let (code, _, stderr) = run(&[
        "predict",
        "--model",
        model,
        "--annotate",
        out_arg,
        coffee,
        coffee,
    ]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("would both be drawn to"), "{stderr}");
    let own = directory.path().join("own.png");
    std::fs::copy(common::path("photos/chelsea.png"), &own).unwrap();
    let (here, own_arg) = (directory.path().to_str().unwrap(), own.to_str().unwrap());
    let (code, _, stderr) = run(&["predict", "--model", model, "--annotate", here, own_arg]);
    assert_eq!(code, Some(1));
    assert!(
        stderr.contains("would be replaced by a drawing"),
        "{stderr}"
    );
    assert_eq!(std::fs::read(&own).unwrap(), common::photo("chelsea.png"));
    let (code, _, stderr) = run(&["predict", "--annotate", out_arg, coffee]);
    assert_eq!(code, Some(1));
    assert!(
        stderr.contains("`--annotate` draws boxes and masks"),
        "{stderr}"
    );
    let (code, _, stderr) = run(&["predict", "--model", &format!("{model}@9"), coffee]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("must be one of fp32, 320"), "{stderr}");
    let weights = directory.path().join("rivers.safetensors");
    let (code, _, stderr) = run(&[
        "export",
        "lraspp_mobilenet_v3_large",
        "--weights",
        weights.to_str().unwrap(),
        "--aux",
        "-o",
        out_arg,
    ]);
    assert_eq!(code, Some(1));
    assert!(
        stderr.contains("`--aux` applies to DeepLabV3 and FCN"),
        "{stderr}"
    );
}
