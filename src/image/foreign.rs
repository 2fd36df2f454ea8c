//! Recognition of files in formats that cannot be decoded, so that an error can name the format.

/// A file in a format that is recognized but cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForeignFile {
    /// Name of the format, with an article where a sentence needs one: `HEIC`, `a ZIP archive`.
    pub name: &'static str,
    /// How the sender gets an image that can be decoded.
    pub advice: &'static str,
}

const CONVERT: &str = "convert it to JPEG or PNG first";
const FRAME: &str = "send single frames as JPEG or PNG";
const UNPACK: &str = "unpack it first";
const ADDRESS: &str = "check the address or path that the file was read from";
const BINARY: &str = "send the bytes as they are in the file";

/// Signatures at the start of a file, each with the format's name and advice.
const SIGNATURES: [(&[u8], &str, &str); 28] = [
    (b"II\x2a\0", "TIFF or camera raw", CONVERT),
    (b"MM\0\x2a", "TIFF or camera raw", CONVERT),
    (b"II\x2b\0", "TIFF", CONVERT),
    (b"MM\0\x2b", "TIFF", CONVERT),
    (b"II\xBC", "JPEG XR", CONVERT),
    (b"\xFF\x0A", "JPEG XL", CONVERT),
    (b"\0\0\0\x0CJXL \r\n\x87\n", "JPEG XL", CONVERT),
    (b"\0\0\0\x0CjP  \r\n\x87\n", "JPEG 2000", CONVERT),
    (b"\xFF\x4F\xFF\x51", "JPEG 2000", CONVERT),
    (b"\0\0\x01\0", "ICO", CONVERT),
    (b"\0\0\x02\0", "CUR", CONVERT),
    (b"8BPS", "PSD", CONVERT),
    (b"qoif", "QOI", CONVERT),
    (b"DDS ", "DDS", CONVERT),
    (b"icns", "ICNS", CONVERT),
    (b"v/1\x01", "OpenEXR", CONVERT),
    (b"#?RADIANCE", "Radiance HDR", CONVERT),
    (b"%PDF-", "PDF", "render its pages to JPEG or PNG first"),
    (
        b"%!PS",
        "PostScript",
        "render its pages to JPEG or PNG first",
    ),
    (b"\x1A\x45\xDF\xA3", "a Matroska or WebM video", FRAME),
    (b"\x1F\x8B", "gzip data", UNPACK),
    (b"PK\x03\x04", "a ZIP archive", UNPACK),
    (b"BZh", "bzip2 data", UNPACK),
    (b"\xFD7zXZ\0", "xz data", UNPACK),
    (b"\x28\xB5\x2F\xFD", "Zstandard data", UNPACK),
    (b"\x93NUMPY", "a NumPy array", "encode it as PNG first"),
    (
        b"version https://git-lfs",
        "a Git LFS pointer",
        "run `git lfs pull` first",
    ),
    (
        b"\xEF\xBF\xBD\xEF\xBF\xBD",
        "binary data that was read as UTF-8 text",
        BINARY,
    ),
];

/// Recognizes a file by its first bytes. `None` if the format is not in the tables of this module.
pub(super) fn recognize(bytes: &[u8]) -> Option<ForeignFile> {
    let (name, advice) = by_signature(bytes)
        .or_else(|| by_container(bytes))
        .or_else(|| by_text(bytes))?;
    Some(ForeignFile { name, advice })
}

fn by_signature(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    SIGNATURES
        .iter()
        .find(|(signature, ..)| bytes.starts_with(signature))
        .map(|(_, name, advice)| (*name, *advice))
}

/// Recognizes ISO base media files by their brands, RIFF files by their form type, and DICOM.
fn by_container(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    if bytes.get(4..8) == Some(b"ftyp") {
        let end = bytes.len().min(64);
        let mut brands = bytes[8..end].as_chunks::<4>().0.iter();
        // Of the 4-byte words after `ftyp`, the second is a version and no brand. It is not
        // skipped, because a version never equals one of the wanted brands.
        let has = |wanted: &[&[u8; 4]]| brands.clone().any(|brand| wanted.contains(&brand));
        return Some(if has(&[b"avif", b"avis"]) {
            ("AVIF", CONVERT)
        } else if has(&[b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"]) {
            ("HEIC", CONVERT)
        } else if has(&[b"mif1", b"msf1"]) {
            ("HEIF", CONVERT)
        } else if has(&[b"crx "]) {
            ("camera raw", CONVERT)
        } else if brands.next() == Some(b"qt  ") {
            ("a QuickTime video", FRAME)
        } else {
            ("an MP4 video", FRAME)
        });
    }
    if bytes.starts_with(b"RIFF") {
        return match bytes.get(8..12)? {
            b"AVI " => Some(("an AVI video", FRAME)),
            b"WAVE" => Some(("WAV audio", "send an image")),
            _ => None,
        };
    }
    (bytes.get(128..132) == Some(b"DICM")).then_some(("DICOM", CONVERT))
}

/// Recognizes markup, JSON and base64, also after white space and a byte-order mark.
fn by_text(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    let head = &bytes[..bytes.len().min(1024)];
    let text = head.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(head);
    let text = text.trim_ascii_start().to_ascii_lowercase();
    let contains = |needle: &[u8]| text.windows(needle.len()).any(|part| part == needle);
    if text.starts_with(b"<svg") || text.starts_with(b"<?xml") && contains(b"<svg") {
        return Some(("SVG", "render it to PNG first"));
    }
    if text.starts_with(b"<!doctype html") || text.starts_with(b"<html") {
        return Some(("an HTML page", ADDRESS));
    }
    if text.starts_with(b"<?xml") {
        return Some(("an XML document", ADDRESS));
    }
    if text.starts_with(b"{") || text.starts_with(b"[") {
        return Some((
            "a JSON document",
            "send JSON with `content-type: application/json`",
        ));
    }
    if text.starts_with(b"data:image/")
        || text.starts_with(b"/9j/")
        || text.starts_with(b"ivborw0kgg")
    {
        return Some((
            "a base64 text",
            "decode it, or send it as `data` in a JSON body",
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_files_are_named() {
        let cases: [(&[u8], Option<&str>); 20] = [
            (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", Some("HEIC")),
            (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", Some("HEIC")),
            (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", Some("AVIF")),
            (b"\0\0\0\x1cftypavif\0\0\0\0", Some("AVIF")),
            (
                b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2",
                Some("an MP4 video"),
            ),
            (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", Some("a QuickTime video")),
            (b"\0\0\0\x08ftyp", Some("an MP4 video")),
            (b"II\x2a\0\x08\0\0\0", Some("TIFF or camera raw")),
            (b"%PDF-1.7", Some("PDF")),
            (b"\x1f\x8b\x08", Some("gzip data")),
            (b"\xFF\x0A\0\0", Some("JPEG XL")),
            (b"RIFF\x24\0\0\0AVI LIST", Some("an AVI video")),
            (b"RIFF\x24\0\0\0ACON", None),
            (b" \n<svg/>", Some("SVG")),
            (b"\xEF\xBB\xBF<?xml version='1.0'?>\n<svg/>", Some("SVG")),
            (b"<!DOCTYPE HTML><title>403", Some("an HTML page")),
            (b"{\"message\":\"not found\"}", Some("a JSON document")),
            (b"/9j/4AAQSkZJRg", Some("a base64 text")),
            (b"BMW is a car maker", None),
            (b"\0", None),
        ];
        for (bytes, expected) in cases {
            let name = recognize(bytes).map(|foreign| foreign.name);
            assert_eq!(name, expected, "{}", bytes.escape_ascii());
        }
    }
}
