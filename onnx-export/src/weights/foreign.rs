//! Recognition of files that are not checkpoints, so that an error can say what a file is and what
//! to do with it.

use std::path::Path;

use super::WeightsError;

/// Name of a kind of file, with an article, and advice on how to get a checkpoint that can be read.
type Kind = (&'static str, &'static str);

const AGAIN: &str = "download or copy the file again";
const ADDRESS: &str = "check the address that it was downloaded from, and whether it needs a login";
const UNPACK: &str = "unpack it, and give the path of the checkpoint in it";
const CONVERT: &str = "load it with its own framework, and save its weights under torchvision's names as .safetensors";
const SAVE: &str =
    "load it in Python, and save the weights with torch.save(model.state_dict(), path)";

const TENSORFLOW: Kind = ("a TensorFlow SavedModel", CONVERT);
const KERAS: Kind = ("a Keras model", CONVERT);
const TORCHSCRIPT: Kind = (
    "a TorchScript model",
    "load it with torch.jit.load, and save the weights with torch.save(model.state_dict(), path)",
);
const PLAIN_PICKLE: Kind = ("a pickle that torch.save did not write", SAVE);
const PLAIN_TAR: Kind = ("a tar archive that torch.save did not write", UNPACK);
const PLAIN_ZIP: Kind = ("a zip archive that torch.save did not write", UNPACK);
const FOLDER: Kind = (
    "a folder",
    "give the path of the checkpoint file in it, such as a .pth or .safetensors file",
);
const UNPACKED: Kind = (
    "the folder of an unpacked checkpoint",
    "pack the folder as a zip archive (zip -r NAME.pth FOLDER), or download the file again",
);

/// Signatures of files: offset, bytes, and the kind of file.
const SIGNATURES: &[(usize, &[u8], Kind)] = &[
    (
        0,
        b"version https://git-lfs",
        (
            "a Git LFS pointer",
            "run `git lfs pull` to download the file that it points to",
        ),
    ),
    (
        0,
        b"\x1F\x8B",
        (
            "gzip data",
            "unpack it with gunzip, or with tar if it is a .tar.gz",
        ),
    ),
    (0, b"BZh", ("bzip2 data", UNPACK)),
    (0, b"\xFD7zXZ\0", ("xz data", UNPACK)),
    (0, b"\x28\xB5\x2F\xFD", ("Zstandard data", UNPACK)),
    (0, b"7z\xBC\xAF\x27\x1C", ("a 7z archive", UNPACK)),
    (0, b"Rar!\x1A\x07", ("a RAR archive", UNPACK)),
    (0, b"PK\x05\x06", ("an empty zip archive", AGAIN)),
    (
        0,
        b"\x89HDF\r\n\x1A\n",
        ("an HDF5 file, such as Keras writes", CONVERT),
    ),
    (0, b"\x93NUMPY", ("a NumPy array", CONVERT)),
    (0, b"MATLAB 5.0 MAT-file", ("a MATLAB file", CONVERT)),
    (4, b"TFL3", ("a TensorFlow Lite model", CONVERT)),
    (0, b"GGUF", ("a GGUF file", CONVERT)),
    (0, b"(dp", ("a pickle of protocol 0", SAVE)),
    (0, b"ccopy_reg\n", ("a pickle of protocol 0", SAVE)),
];

impl WeightsError {
    pub(super) fn foreign((name, advice): Kind) -> Self {
        Self::Foreign { name, advice }
    }

    /// Returns the error for a pickle without torch's magic number.
    pub(super) fn plain_pickle() -> Self {
        Self::foreign(PLAIN_PICKLE)
    }

    /// Returns the error for a tar archive without the members of a tar checkpoint.
    pub(super) fn plain_tar() -> Self {
        Self::foreign(PLAIN_TAR)
    }

    /// Returns the error for a pickle that names classes of a `TorchScript` model.
    pub(super) fn torchscript() -> Self {
        Self::foreign(TORCHSCRIPT)
    }

    /// Returns the error for the folder at `path`.
    pub(super) fn folder(path: &Path) -> Self {
        let has = |name: &str| path.join(name).is_file();
        Self::foreign(if has("data.pkl") || has("archive/data.pkl") {
            UNPACKED
        } else if has("saved_model.pb") {
            TENSORFLOW
        } else {
            FOLDER
        })
    }
}

/// Recognizes a file that starts with none of the signatures of checkpoints. `None` if its format
/// is not known.
pub(super) fn recognize(bytes: &[u8]) -> Option<Kind> {
    if bytes.is_empty() {
        return Some(("an empty file", AGAIN));
    }
    let signed = SIGNATURES.iter().find(|(at, signature, _)| {
        bytes
            .get(*at..)
            .is_some_and(|rest| rest.starts_with(signature))
    });
    signed
        .map(|(.., kind)| *kind)
        .or_else(|| by_protobuf(bytes))
        .or_else(|| by_text(bytes))
}

/// Recognizes models that are protobuf messages, which have no signature, by their first fields: a
/// version, then a name, a description or a graph.
fn by_protobuf(bytes: &[u8]) -> Option<Kind> {
    let [0x08, version, key, rest @ ..] = bytes else {
        return None;
    };
    // The name that an ONNX file has in this field is text; other formats have a message.
    let is_text = rest.get(1).is_none_or(|byte| *byte >= b' ');
    match (version, key) {
        (1, 0x12) => Some(TENSORFLOW),
        (3..=32, 0x12) if !is_text => Some(("a Core ML model", CONVERT)),
        (3..=32, 0x12 | 0x1a | 0x22 | 0x28 | 0x32 | 0x3a | 0x42) => Some((
            "an ONNX file",
            "it needs no export: put a model.toml beside it, and serve that",
        )),
        _ => None,
    }
}

/// Recognizes text: pages and documents that a server sent instead of the file, and JSON files that
/// belong to a checkpoint. The text may begin with a byte-order mark and white space.
fn by_text(bytes: &[u8]) -> Option<Kind> {
    let head = &bytes[..bytes.len().min(4096)];
    if head.iter().all(|byte| *byte == 0) {
        return Some(("a file of zeros", AGAIN));
    }
    let text = match str::from_utf8(head) {
        Ok(text) => text,
        // The head may end within a character.
        Err(error) if error.error_len().is_none() => {
            str::from_utf8(&head[..error.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    let text = text.trim_start_matches('\u{feff}').trim_start();
    if text.chars().any(|c| c.is_control() && !c.is_whitespace()) {
        return None;
    }
    let lower = text.to_ascii_lowercase();
    Some(match lower.as_bytes() {
        [b'{' | b'[', ..] if lower.contains("\"weight_map\"") => (
            "the index of a sharded checkpoint",
            "load all shards in Python, and save them as one file with torch.save(state_dict, path)",
        ),
        [b'{' | b'[', ..] => ("a JSON document", ADDRESS),
        [b'<', ..] if lower.contains("<html") || lower.starts_with("<!doctype html") => {
            ("a web page", ADDRESS)
        }
        [b'<', ..] => ("an XML document", ADDRESS),
        _ => ("a text file", ADDRESS),
    })
}

/// Recognizes a zip archive by the names of its entries. `None` if it may be a checkpoint.
pub(super) fn in_zip(names: &[impl AsRef<str>]) -> Option<Kind> {
    let any = |holds: fn(&str) -> bool| names.iter().any(|name| holds(name.as_ref()));
    let is_torchscript =
        |name: &str| name.ends_with("/constants.pkl") || name.contains("/code/__torch__");
    if any(is_torchscript) {
        return Some(TORCHSCRIPT);
    }
    if any(|name| name == "data.pkl" || name.ends_with("/data.pkl") || name.contains("/data/")) {
        return None;
    }
    Some(
        if any(|name| name.contains("exported_program") || name.ends_with("/archive_format")) {
            (
                "a program of torch.export",
                "load it with torch.export.load, and save its state_dict with torch.save",
            )
        } else if any(|name| name.ends_with("/.data/extern_modules")) {
            ("a package of torch.package", SAVE)
        } else if any(|name| name == "model.weights.h5") {
            KERAS
        } else if any(|name| {
            Path::new(name)
                .extension()
                .is_some_and(|extension| extension == "npy")
        }) {
            ("an archive of NumPy arrays", CONVERT)
        } else if any(|name| name.ends_with("/model.json")) {
            TORCHSCRIPT
        } else {
            PLAIN_ZIP
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_files_are_named() {
        let cases: &[(&[u8], Option<&str>)] = &[
            (b"", Some("an empty file")),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", Some("a Git LFS pointer")),
            (b"\x1F\x8B\x08\0", Some("gzip data")),
            (b"BZh91AY", Some("bzip2 data")),
            (b"PK\x05\x06\0\0", Some("an empty zip archive")),
            (b"\x89HDF\r\n\x1A\n\0", Some("an HDF5 file, such as Keras writes")),
            (b"\x93NUMPY\x01\0", Some("a NumPy array")),
            (b"\x1c\0\0\0TFL3", Some("a TensorFlow Lite model")),
            (b"(dp0\nS'w'\n", Some("a pickle of protocol 0")),
            (b"\x08\x08\x12\x07pytorch\x1a\x052.4.0:\0", Some("an ONNX file")),
            (b"\x08\x0a:\x05", Some("an ONNX file")),
            (b"\x08\x04\x12\x30\x0a\x10", Some("a Core ML model")),
            (b"\x08\x01\x12\x80\x01", Some("a TensorFlow SavedModel")),
            (b"\x08\x99\x12\x01", None),
            (b"\x08", None),
            (b"<!DOCTYPE html>\n<title>Sign in", Some("a web page")),
            (b"\xEF\xBB\xBF \r\n<HTML>", Some("a web page")),
            (b"<?xml version='1.0'?><html>", Some("a web page")),
            (b"<?xml version='1.0'?><Error><Code>AccessDenied", Some("an XML document")),
            (
                b"{\"metadata\": {}, \"weight_map\": {\"a\": \"model-00001-of-00002.safetensors\"}}",
                Some("the index of a sharded checkpoint"),
            ),
            (b"{\"error\": \"Invalid username or password.\"}", Some("a JSON document")),
            (b"{\"e\":   {\"code\": 404}}", Some("a JSON document")),
            (b"Entry not found", Some("a text file")),
            ("größer".as_bytes(), Some("a text file")),
            (&[0; 4096], Some("a file of zeros")),
            (b"GIF89a\x01\0", None),
            (b"\xFF\xFE<\0", None),
        ];
        for (bytes, expected) in cases {
            let name = recognize(bytes).map(|(name, _)| name);
            assert_eq!(name, *expected, "{}", bytes.escape_ascii());
        }
        let long = "ä".repeat(4000);
        assert_eq!(
            recognize(&long.as_bytes()[..4097]).unwrap().0,
            "a text file"
        );
        assert_eq!(
            recognize(&[b"x", long.as_bytes()].concat()).unwrap().0,
            "a text file"
        );
    }

    #[test]
    fn zip_archives_are_named_by_their_entries() {
        let cases: &[(&[&str], Option<&str>)] = &[
            (&["archive/data.pkl", "archive/data/0"], None),
            (&["data.pkl"], None),
            (&["x/data/0"], None),
            (
                &["x/data.pkl", "x/constants.pkl", "x/code/__torch__/m.py"],
                Some("a TorchScript model"),
            ),
            (
                &["x/model.json", "x/code/x.py"],
                Some("a TorchScript model"),
            ),
            (
                &["x/models/model.json", "x/archive_format"],
                Some("a program of torch.export"),
            ),
            (
                &["serialized_exported_program.json"],
                Some("a program of torch.export"),
            ),
            (
                &["p/.data/extern_modules"],
                Some("a package of torch.package"),
            ),
            (&["config.json", "model.weights.h5"], Some("a Keras model")),
            (&["arr_0.npy"], Some("an archive of NumPy arrays")),
            (
                &["weights/best.pth"],
                Some("a zip archive that torch.save did not write"),
            ),
            (&[], Some("a zip archive that torch.save did not write")),
        ];
        for (names, expected) in cases {
            let name = in_zip(names).map(|(name, _)| name);
            assert_eq!(name, *expected, "{names:?}");
        }
    }

    #[test]
    fn files_cut_anywhere_do_not_panic() {
        let files: &[&[u8]] = &[
            b"\x08\x08\x12\x07pytorch\x1a\x052.4.0:\0",
            "\u{feff}<ä>".as_bytes(),
            b"version https://git-lfs.github.com/spec/v1",
        ];
        for file in files {
            for end in 0..file.len() {
                let _ = recognize(&file[..end]);
            }
        }
    }
}
