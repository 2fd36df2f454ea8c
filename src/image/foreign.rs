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
const RENDER: &str = "render its pages to JPEG or PNG first";
const SEND: &str = "send an image";

/// Signatures at the start of a file, each with the format's name and advice.
const SIGNATURES: &[(&[u8], &str, &str)] = &[
    (b"II\x2a\0", "TIFF or camera raw", CONVERT),
    (b"MM\0\x2a", "TIFF or camera raw", CONVERT),
    (b"II\x2b\0", "TIFF", CONVERT),
    (b"MM\0\x2b", "TIFF", CONVERT),
    (b"IIU\0", "camera raw", CONVERT),
    (b"IIRO", "camera raw", CONVERT),
    (b"FUJIFILMCCD-RAW", "camera raw", CONVERT),
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
    (b"gimp xcf", "XCF", CONVERT),
    (b"BPG\xFB", "BPG", CONVERT),
    (b"FLIF", "FLIF", CONVERT),
    (b"SIMPLE  =", "FITS", CONVERT),
    (b"\x01\0\0\0\x6C\0\0\0", "EMF", CONVERT),
    (b"\xD7\xCD\xC6\x9A", "WMF", CONVERT),
    (b"%PDF-", "PDF", RENDER),
    (b"%!PS", "PostScript", RENDER),
    (b"AT&TFORM", "DjVu", RENDER),
    (b"\x1A\x45\xDF\xA3", "a Matroska or WebM video", FRAME),
    (b"FLV\x01", "a Flash video", FRAME),
    (
        b"\x30\x26\xB2\x75\x8E\x66\xCF\x11",
        "a Windows Media file",
        FRAME,
    ),
    (b"OggS", "an Ogg file", FRAME),
    (b"\0\0\x01\xBA", "an MPEG video", FRAME),
    (b"\0\0\x01\xB3", "an MPEG video", FRAME),
    (b"ID3", "MP3 audio", SEND),
    (b"fLaC", "FLAC audio", SEND),
    (b"\x1F\x8B", "gzip data", UNPACK),
    (b"PK\x03\x04", "a ZIP archive", UNPACK),
    (b"7z\xBC\xAF\x27\x1C", "a 7z archive", UNPACK),
    (b"Rar!\x1A\x07", "a RAR archive", UNPACK),
    (b"BZh", "bzip2 data", UNPACK),
    (b"\xFD7zXZ\0", "xz data", UNPACK),
    (b"\x28\xB5\x2F\xFD", "Zstandard data", UNPACK),
    (b"\x93NUMPY", "a NumPy array", "encode it as PNG first"),
    (
        b"\x89HDF\r\n\x1A\n",
        "an HDF5 file",
        "encode its images as PNG first",
    ),
    (
        b"version https://git-lfs",
        "a Git LFS pointer",
        "run `git lfs pull` first",
    ),
    (
        b"\x89PNG\x1A",
        "a PNG without its line ends",
        "send it with curl --data-binary @FILE or curl -F image=@FILE, not with curl -d",
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

/// Recognizes ISO base media files (HEIC, AVIF, MP4) by their brands, RIFF files (AVI, WAV) by
/// their form type, and other formats whose signature is not a fixed text at the start of the file.
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
            b"WAVE" => Some(("WAV audio", SEND)),
            _ => None,
        };
    }
    if matches!(bytes.get(4..8), Some(b"moov" | b"mdat" | b"wide")) {
        return Some(("a QuickTime video", FRAME));
    }
    if let [b'P', b'1'..=b'7', b' ' | b'\t' | b'\r' | b'\n', ..] = bytes {
        return Some(("PBM, PGM or PPM", CONVERT));
    }
    // A file of this kind is an MPEG transport stream, whose packets have 188 bytes each and start
    // with the letter G.
    if bytes.first() == Some(&b'G')
        && bytes.get(188) == Some(&b'G')
        && bytes.get(376) == Some(&b'G')
    {
        return Some(("an MPEG video", FRAME));
    }
    if bytes.get(257..262) == Some(b"ustar") {
        return Some(("a tar archive", UNPACK));
    }
    (bytes.get(128..132) == Some(b"DICM")).then_some(("DICOM", CONVERT))
}

/// Recognizes text that is not an image: SVG, HTML, XML, JSON, base64 and URLs. The text may begin
/// with a byte-order mark and white space.
fn by_text(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    let head = &bytes[..bytes.len().min(1024)];
    let text = head.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(head);
    let text = text.trim_ascii_start().to_ascii_lowercase();
    let contains = |needle: &[u8]| text.windows(needle.len()).any(|part| part == needle);
    let preamble: [&[u8]; 3] = [b"<?xml", b"<!--", b"<!doctype svg"];
    let has_preamble = preamble.iter().any(|start| text.starts_with(start));
    if text.starts_with(b"<svg") || has_preamble && contains(b"<svg") {
        return Some(("SVG", "render it to PNG first"));
    }
    let html: [&[u8]; 4] = [b"<!doctype html", b"<html", b"<head", b"<body"];
    if html.iter().any(|start| text.starts_with(start)) || has_preamble && contains(b"<html") {
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
    if text.starts_with(b"http://") || text.starts_with(b"https://") {
        return Some((
            "a URL",
            "send the bytes of the image; the server downloads nothing",
        ));
    }
    // A whole text that ends like the name of an image file, which `curl -F image=photo.jpg` sends.
    let name = text.trim_ascii_end();
    let endings: [&[u8]; 6] = [b".jpg", b".jpeg", b".png", b".webp", b".gif", b".bmp"];
    (bytes.len() < 1024 && name.is_ascii() && endings.iter().any(|ending| name.ends_with(ending)))
        .then_some((
            "the name of a file",
            "send its content, for example with curl -F image=@FILE",
        ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a file of `length` bytes that has `signature` at `offset` and is zero elsewhere.
    fn at(offset: usize, signature: &[u8], length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        bytes[offset..offset + signature.len()].copy_from_slice(signature);
        bytes
    }

    /// Checks the name that is recognized for files that are commonly sent instead of a supported
    /// image.
    #[test]
    fn common_files_are_named() {
        let cases: &[(&[u8], Option<&str>)] = &[
            (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", Some("HEIC")),
            (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", Some("HEIC")),
            (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", Some("AVIF")),
            (b"\0\0\0\x1cftypavif\0\0\0\0", Some("AVIF")),
            (
                b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2",
                Some("an MP4 video"),
            ),
            (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", Some("a QuickTime video")),
            (b"\0\0\0\x08wide\0\0\0\0mdat", Some("a QuickTime video")),
            (b"\0\0\0\x08ftyp", Some("an MP4 video")),
            (b"\x1A\x45\xDF\xA3\x01", Some("a Matroska or WebM video")),
            (b"FLV\x01\x05", Some("a Flash video")),
            (b"OggS\0\x02", Some("an Ogg file")),
            (b"\0\0\x01\xBA\x44", Some("an MPEG video")),
            (b"II\x2a\0\x08\0\0\0", Some("TIFF or camera raw")),
            (b"MM\0\x2a\0\0\0\x08", Some("TIFF or camera raw")),
            (b"II\x2b\0\x08\0\0\0", Some("TIFF")),
            (b"IIU\0\x18\0\0\0", Some("camera raw")),
            (b"FUJIFILMCCD-RAW 0201", Some("camera raw")),
            (b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom", Some("camera raw")),
            (b"%PDF-1.7", Some("PDF")),
            (b"%!PS-Adobe-3.0 EPSF-3.0", Some("PostScript")),
            (b"AT&TFORM\0\0", Some("DjVu")),
            (b"\x1f\x8b\x08", Some("gzip data")),
            (b"PK\x03\x04\x14", Some("a ZIP archive")),
            (b"7z\xBC\xAF\x27\x1C\0\x04", Some("a 7z archive")),
            (b"Rar!\x1A\x07\x01\0", Some("a RAR archive")),
            (&at(257, b"ustar", 512), Some("a tar archive")),
            (b"\xFF\x0A\0\0", Some("JPEG XL")),
            (b"\0\0\0\x0CJXL \r\n\x87\n\0", Some("JPEG XL")),
            (b"\0\0\0\x0CjP  \r\n\x87\n\0", Some("JPEG 2000")),
            (b"\0\0\x01\0\x01\0", Some("ICO")),
            (b"8BPS\0\x01", Some("PSD")),
            (b"gimp xcf v011", Some("XCF")),
            (b"P6\n640 480\n255\n", Some("PBM, PGM or PPM")),
            (b"P2 2 2 255 0 0 0 0", Some("PBM, PGM or PPM")),
            (b"SIMPLE  =                    T", Some("FITS")),
            (&at(128, b"DICM", 132), Some("DICOM")),
            (b"\x93NUMPY\x01\0", Some("a NumPy array")),
            (b"RIFF\x24\0\0\0AVI LIST", Some("an AVI video")),
            (b"RIFF\x24\0\0\0WAVEfmt ", Some("WAV audio")),
            (b"RIFF\x24\0\0\0ACON", None),
            (b" \n<svg/>", Some("SVG")),
            (b"\xEF\xBB\xBF<?xml version='1.0'?>\n<svg/>", Some("SVG")),
            (b"<!-- Made by hand --><svg/>", Some("SVG")),
            (b"<!DOCTYPE svg PUBLIC ''><svg/>", Some("SVG")),
            (b"<!DOCTYPE HTML><title>403", Some("an HTML page")),
            (b"<head><title>403", Some("an HTML page")),
            (b"<!-- saved --><html>", Some("an HTML page")),
            (b"<?xml version='1.0'?><html>", Some("an HTML page")),
            (b"<?xml version='1.0'?><Error>", Some("an XML document")),
            (b"{\"message\":\"not found\"}", Some("a JSON document")),
            (b"/9j/4AAQSkZJRg", Some("a base64 text")),
            (b"https://example.org/cat.jpg", Some("a URL")),
            (b"photo.JPG\n", Some("the name of a file")),
            (b"\xFF.jpg", None),
            (b"\x89PNG\x1A\rIHDR", Some("a PNG without its line ends")),
            (
                b"version https://git-lfs.github.com/spec/v1",
                Some("a Git LFS pointer"),
            ),
            (b"BMW is a car maker", None),
            (b"P6", None),
            (b"PG rated", None),
            (b"G", None),
            (b"\0", None),
        ];
        for (bytes, expected) in cases {
            let name = recognize(bytes).map(|foreign| foreign.name);
            assert_eq!(name, *expected, "{}", bytes.escape_ascii());
        }
        let mut stream = at(0, b"G", 377);
        stream[188] = b'G';
        stream[376] = b'G';
        assert_eq!(recognize(&stream).unwrap().name, "an MPEG video");
    }

    #[test]
    fn every_kind_comes_with_advice() {
        for (signature, name, advice) in SIGNATURES {
            let found = recognize(signature).unwrap();
            assert_eq!((found.name, found.advice), (*name, *advice));
            assert!(!name.is_empty() && !advice.is_empty());
        }
    }

    #[test]
    fn files_cut_anywhere_do_not_panic() {
        for (signature, ..) in SIGNATURES {
            for cut in 0..signature.len() {
                let _ = recognize(&signature[..cut]);
            }
        }
        let box_ = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic";
        for cut in 0..box_.len() {
            let _ = recognize(&box_[..cut]);
        }
    }
}
