//! Writes checkpoints with quantized tensors, in the opcodes of `pickle.py`.

use std::io::{Cursor, Write};

use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

/// A storage of a checkpoint: its class, such as `QInt8Storage`, its key and its bytes.
pub(crate) struct Stored<'a>(pub(crate) &'a str, pub(crate) &'a str, pub(crate) &'a [u8]);

/// How the pickle describes the scales and zero points of a quantized tensor.
pub(crate) enum Scheme<'a> {
    PerTensor(f64, i32),
    /// `per_channel_affine`: the storage of the scales, the storage of the zero points, and the
    /// axis.
    Held(Stored<'a>, Stored<'a>, u8),
    /// `per_channel_affine`: the scales and the zero points, which the pickle lists, and the axis.
    Listed(&'a [f64], &'a [i32], u8),
    Other(&'a str),
}

pub(crate) fn text(out: &mut Vec<u8>, text: &str) {
    out.extend([0x8c, text.len() as u8]);
    out.extend(text.as_bytes());
}

pub(crate) fn int(out: &mut Vec<u8>, n: i32) {
    out.push(b'J');
    out.extend(n.to_le_bytes());
}

pub(crate) fn float(out: &mut Vec<u8>, x: f64) {
    out.push(b'G');
    out.extend(x.to_be_bytes());
}

/// Returns the size in bytes of an element of the storage class `class`.
fn width(class: &str) -> usize {
    match class {
        "DoubleStorage" | "LongStorage" => 8,
        "FloatStorage" | "QInt32Storage" => 4,
        _ => 1,
    }
}

/// Writes the pickle operations of the unfinished call `function(storage, 0, shape, strides, ` for
/// a contiguous tensor. The caller writes further arguments and closes the call.
pub(crate) fn open_tensor(out: &mut Vec<u8>, function: &str, stored: &Stored<'_>, shape: &[u8]) {
    let Stored(class, key, bytes) = stored;
    out.extend(format!("ctorch._utils\n{function}\n((").bytes());
    text(out, "storage");
    out.extend(format!("ctorch\n{class}\n").bytes());
    text(out, key);
    text(out, "cpu");
    int(out, (bytes.len() / width(class)) as i32);
    out.extend(b"tQK\x00(");
    out.extend(shape.iter().flat_map(|&n| [b'K', n]));
    out.extend(b"t(");
    for axis in 0..shape.len() {
        out.extend([b'K', shape[axis + 1..].iter().product()]);
    }
    out.push(b't');
}

pub(crate) const HOOKS: &[u8] = b"\x89ccollections\nOrderedDict\n)RtR";

pub(crate) fn vector(out: &mut Vec<u8>, stored: &Stored<'_>) {
    let n = stored.2.len() / width(stored.0);
    open_tensor(out, "_rebuild_tensor_v2", stored, &[n as u8]);
    out.extend(HOOKS);
}

pub(crate) fn quantized(out: &mut Vec<u8>, stored: &Stored<'_>, shape: &[u8], scheme: &Scheme<'_>) {
    open_tensor(out, "_rebuild_qtensor", stored, shape);
    match scheme {
        Scheme::PerTensor(scale, zero_point) => {
            out.extend(b"(ctorch\nper_tensor_affine\n");
            float(out, *scale);
            int(out, *zero_point);
        }
        Scheme::Held(scales, zero_points, axis) => {
            out.extend(b"(ctorch\nper_channel_affine\n");
            vector(out, scales);
            vector(out, zero_points);
            out.extend([b'K', *axis]);
        }
        Scheme::Listed(scales, zero_points, axis) => {
            out.extend(b"(ctorch\nper_channel_affine\n](");
            scales.iter().for_each(|x| float(out, *x));
            out.extend(b"e](");
            zero_points.iter().for_each(|n| int(out, *n));
            out.extend([b'e', b'K', *axis]);
        }
        Scheme::Other(name) => out.extend(format!("(ctorch\n{name}\nK\x01").bytes()),
    }
    out.push(b't');
    out.extend(HOOKS);
}

/// Returns a zip checkpoint of `{"w": tensor}`.
pub(crate) fn zip_of(stored: &Stored<'_>, shape: &[u8], scheme: &Scheme<'_>) -> Vec<u8> {
    let mut pickle = b"\x80\x02}".to_vec();
    text(&mut pickle, "w");
    quantized(&mut pickle, stored, shape, scheme);
    pickle.extend(b"s.");
    let mut entries = vec![stored];
    if let Scheme::Held(scales, zero_points, _) = scheme {
        entries.extend([scales, zero_points]);
    }
    let names: Vec<_> = entries
        .iter()
        .map(|entry| format!("data/{}", entry.1))
        .collect();
    let mut files = vec![("data.pkl", pickle.as_slice())];
    files.extend(
        names
            .iter()
            .zip(&entries)
            .map(|(name, entry)| (name.as_str(), entry.2)),
    );
    zip(&files)
}

pub(crate) fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, data) in files {
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        zip.start_file(format!("x/{name}"), options).unwrap();
        zip.write_all(data).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// Returns `pickle` with the ids of storages of legacy checkpoints, which end with a view.
fn with_views(pickle: &[u8]) -> Vec<u8> {
    let Some(at) = pickle.windows(2).position(|op| op == b"tQ") else {
        return pickle.to_vec();
    };
    let (start, rest) = pickle.split_at(at);
    [start, b"NtQ", &with_views(&rest[2..])].concat()
}

/// Returns a legacy checkpoint of `{"w": tensor}`. Only schemes whose scales are in the pickle are supported.
pub(crate) fn legacy_of(stored: &Stored<'_>, shape: &[u8], scheme: &Scheme<'_>) -> Vec<u8> {
    let mut out = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.".to_vec();
    out.extend(b"\x80\x02M\xe9\x03.\x80\x02}\x8c\x0dlittle_endian\x88s.\x80\x02}");
    text(&mut out, "w");
    let mut tensor = Vec::new();
    quantized(&mut tensor, stored, shape, scheme);
    out.extend(with_views(&tensor));
    out.extend(b"s.\x80\x02]");
    text(&mut out, stored.1);
    out.extend(b"a.");
    out.extend((stored.2.len() as i64).to_le_bytes());
    out.extend(stored.2);
    out
}
