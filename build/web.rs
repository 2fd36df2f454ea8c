//! Embeds the web pages: writes `web.rs` with a table of the files in `web/`, each with its media type, its entity tag
//! and, if that is smaller, its gzip form. Adds `openapi.json`, which is `openapi.yaml` as JSON for the page of the
//! reference, and the form of the status page for the admin listener.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::path::Path;

use flate2::{Compression, GzBuilder};

/// The mark in `status.html` that states the listener, and its form on the admin listener.
const LISTENER: [&str; 2] = ["data-listener=\"public\"", "data-listener=\"admin\""];

/// Media types by the extension of a file.
const MEDIA_TYPES: [(&str, &str); 6] = [
    ("css", "text/css; charset=utf-8"),
    ("html", "text/html; charset=utf-8"),
    ("jpg", "image/jpeg"),
    ("js", "text/javascript; charset=utf-8"),
    ("json", "application/json"),
    ("svg", "image/svg+xml"),
];

/// Writes `out/web.rs` and the files that it includes.
///
/// # Errors
/// If a file cannot be read or written, if `openapi.yaml` is not YAML, or if a file has no known extension.
pub(super) fn embed(root: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    let (web, contract) = (root.join("web"), root.join("openapi.yaml"));
    println!("cargo::rerun-if-changed={}", web.display());
    println!("cargo::rerun-if-changed={}", contract.display());
    let mut files = Vec::new();
    for folder in [&web, &web.join("samples")] {
        let paths = super::sorted(folder)?;
        for path in paths.iter().filter(|path| path.is_file()) {
            println!("cargo::rerun-if-changed={}", path.display());
            files.push((super::file_name(path), fs::read(path)?));
        }
    }
    let contract: serde_json::Value = serde_yaml_ng::from_str(&fs::read_to_string(contract)?)?;
    files.push(("openapi.json".to_owned(), serde_json::to_vec(&contract)?));
    let status = fs::read_to_string(web.join("status.html"))?;
    if !status.contains(LISTENER[0]) {
        return Err(format!("status.html: expected the attribute {}", LISTENER[0]).into());
    }
    let admin = status.replace(LISTENER[0], LISTENER[1]);
    files.push(("status-admin.html".to_owned(), admin.into_bytes()));
    let folder = out.join("web");
    fs::create_dir_all(&folder)?;
    let mut code = String::from("static ASSETS: &[Asset] = &[\n");
    for (name, content) in files {
        write(&mut code, &folder, &name, &content)?;
    }
    code.push_str("];\n");
    fs::write(out.join("web.rs"), code)?;
    Ok(())
}

/// Writes the file `name` and its gzip form into `folder`, and appends its entry of the table to `code`.
fn write(
    code: &mut String,
    folder: &Path,
    name: &str,
    content: &[u8],
) -> Result<(), Box<dyn Error>> {
    let extension = name.rsplit('.').next().unwrap_or_default();
    let known = MEDIA_TYPES.iter().find(|(known, _)| *known == extension);
    let (_, media_type) =
        known.ok_or_else(|| format!("{name}: the extension has no media type"))?;
    let path = folder.join(name);
    fs::write(&path, content)?;
    let mut encoder = GzBuilder::new().write(Vec::new(), Compression::best());
    encoder.write_all(content)?;
    let compressed = encoder.finish()?;
    let gzip = if compressed.len() < content.len() * 9 / 10 {
        let path = folder.join(format!("{name}.gz"));
        fs::write(&path, compressed)?;
        format!("Some(include_bytes!({:?}))", path.display())
    } else {
        "None".to_owned()
    };
    let mut hash = DefaultHasher::new();
    content.hash(&mut hash);
    let tag = hash.finish();
    writeln!(
        code,
        "    Asset {{ name: {name:?}, media_type: {media_type:?}, tag: \"{tag:016x}\", \
         content: include_bytes!({:?}), gzip: {gzip} }},",
        path.display()
    )?;
    Ok(())
}
