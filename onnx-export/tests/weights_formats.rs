//! Tests that read checkpoints written by torch, checkpoints written by hand, and damaged checkpoints.
//!
//! The four `mobilenet_v3_small` files in `tests/golden/` were written by torch 2.15 (`containers.py`) and
//! hold the weights of [`onnx_export::formula`]: as a zip, as a legacy stream, inside a training checkpoint,
//! and in half precision.

#![expect(
    clippy::unwrap_used,
    reason = "a panic in a helper of a test is the report"
)]

use std::{
    collections::BTreeMap,
    io::{Cursor, Write},
    path::{Path, PathBuf},
};

use onnx_export::{
    formula,
    weights::{DType, StateDict, Tensor},
};
use proptest::prelude::*;
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

// === Fixtures ===

fn golden(kind: &str) -> PathBuf {
    let name = format!("mobilenet_v3_small-width_mult_0.25-num_classes_10.{kind}.pth");
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

fn shapes(state: &StateDict) -> BTreeMap<String, Vec<usize>> {
    let shape = |(name, t): (&str, &Tensor)| (name.to_owned(), t.shape().to_vec());
    state.iter().map(shape).collect()
}

fn message(bytes: &[u8]) -> String {
    match StateDict::from_bytes(bytes) {
        Ok(state) => format!("read {} tensors", state.names().count()),
        Err(error) => error.to_string(),
    }
}

#[test]
fn every_container_gives_bit_identical_tensors() {
    let zip = StateDict::read(&golden("zip")).unwrap();
    assert_eq!(zip.names().count(), 244);
    let expected = formula::state_dict(&shapes(&zip), &[]).unwrap();
    assert_eq!(expected.names().count(), 210);
    for kind in ["zip", "legacy", "checkpoint"] {
        let state = StateDict::read(&golden(kind)).unwrap();
        assert!(state.names().eq(zip.names()), "{kind}");
        for (name, tensor) in expected.iter() {
            assert_eq!(state.get(name), Some(tensor), "{kind}: {name}");
        }
        for (name, tensor) in state.iter().filter(|(_, t)| t.dtype() == DType::I64) {
            assert_eq!(Some(tensor), zip.get(name), "{kind}: {name}");
            assert!(name.ends_with("num_batches_tracked"), "{kind}: {name}");
        }
    }
}

#[test]
fn half_precision_differs_by_rounding_only() {
    let half = StateDict::read(&golden("fp16")).unwrap();
    let floats = half.iter().filter(|(_, t)| t.dtype().is_float());
    let mut count = 0;
    for (name, tensor) in floats {
        count += 1;
        assert_eq!(tensor.dtype(), DType::F16, "{name}");
        let expected = formula::fill(name, tensor.shape());
        for (got, expected) in tensor.to_f32().unwrap().iter().zip(&expected) {
            // f16 has 11 significant bits, so rounding changes a value by at most half a unit of
            // its last bit. Below 2^-14 this unit is constant.
            let allowed = expected.abs().max(2.0_f32.powi(-14)) * 2.0_f32.powi(-11);
            assert!(
                (got - expected).abs() <= allowed,
                "{name}: got {got}, expected {expected}"
            );
        }
    }
    assert_eq!(count, 210);
}

#[test]
fn the_digest_is_the_sha256_of_the_file() {
    // The expected digests are from the command `sha256sum`.
    let cases = [
        (
            "zip",
            "b7c3f45b37186610fd84139abdfd83c5c96277f04b406fe61f39295f52d6a07a",
        ),
        (
            "legacy",
            "2d5e2c9bd68c145f441a65418f8a9d0ce650b40ea638e82910bb3cf215bc4599",
        ),
    ];
    for (kind, expected) in cases {
        let state = StateDict::read(&golden(kind)).unwrap();
        assert_eq!(state.sha256(), expected, "{kind}");
    }
}

#[test]
fn safetensors_round_trip_without_loss() {
    let state = StateDict::read(&golden("zip")).unwrap();
    let packed = state.to_half().without_suffix("num_batches_tracked");
    let again = StateDict::from_bytes(&packed.to_safetensors().unwrap()).unwrap();
    assert!(again.iter().eq(packed.iter()));
    assert_eq!(again.names().count(), 210);
    assert_eq!(again.metadata()["source_sha256"], state.sha256());
    let dtype = |name| again.get(name).unwrap().dtype();
    assert_eq!(dtype("classifier.0.weight"), DType::F16);
    assert_eq!(
        again.get("classifier.0.bias"),
        state.get("classifier.0.bias")
    );
}

#[test]
fn the_prefixes_of_wrappers_are_removed_from_safetensors() {
    let tensor = || Tensor::from_f32(&[1], &[0.5]).unwrap();
    let cases: [(&[&str], &[&str]); 3] = [
        (&["module.a.w", "module.b.w"], &["a.w", "b.w"]),
        (&["_orig_mod.module.w"], &["w"]),
        (&["module.a", "b"], &["b", "module.a"]),
    ];
    for (names, expected) in cases {
        let tensors = names.iter().map(|name| ((*name).to_owned(), tensor()));
        let state = StateDict::from_tensors(tensors.collect());
        let again = StateDict::from_bytes(&state.to_safetensors().unwrap()).unwrap();
        let got: Vec<_> = again.names().collect();
        assert_eq!(got, expected);
    }
}

// === Checkpoints by hand ===

/// Returns a pickle of `{name: tensor}`. The f32 tensor has the given shape and strides and refers
/// to the storage `key` of `numel` elements.
fn dict_pickle(name: &str, key: &str, numel: i32, shape: &[u8], strides: &[u8]) -> Vec<u8> {
    let mut out = b"\x80\x02}".to_vec();
    text(&mut out, name);
    out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
    text(&mut out, "storage");
    out.extend(b"ctorch\nFloatStorage\n");
    text(&mut out, key);
    text(&mut out, "cpu");
    out.push(b'J');
    out.extend(numel.to_le_bytes());
    out.extend(b"tQK\x00");
    for sizes in [shape, strides] {
        out.push(b'(');
        out.extend(sizes.iter().flat_map(|&n| [b'K', n]));
        out.push(b't');
    }
    out.extend(b"\x89ccollections\nOrderedDict\n)RtRs.");
    out
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend([0x8c, text.len() as u8]);
    out.extend(text.as_bytes());
}

fn zip_of(entries: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(method);
    for (name, data) in entries {
        zip.start_file(*name, options).unwrap();
        zip.write_all(data).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn stored(entries: &[(&str, &[u8])]) -> Vec<u8> {
    zip_of(entries, CompressionMethod::Stored)
}

/// Returns the bytes of the f32 values 0, 1, .. `n` - 1.
fn counting(n: u8) -> Vec<u8> {
    (0..n).flat_map(|v| f32::from(v).to_le_bytes()).collect()
}

/// Returns the members of a tar as torch 0.1.9 writes it, by name. Storage 5 holds the values 0 to
/// 5, and storage 6 is a view of the last three. Tensor 1 (`a`) is all of storage 5 in Fortran
/// order; tensor 2 (`b`) is the last two elements of storage 6.
fn tar_members() -> Vec<(&'static str, Vec<u8>)> {
    let mut storages = b"\x80\x02K\x01.\x80\x02(K\x05\x8c\x03cpuctorch\nFloatStorage\nt.".to_vec();
    storages.extend(6_i64.to_le_bytes());
    storages.extend(counting(6));
    storages.extend(b"\x80\x02](K\x06K\x05K\x03K\x03ta.");
    let mut tensors = b"\x80\x02K\x02.".to_vec();
    // For each tensor: its key, its storage's key, and a list of shape, strides and offset.
    let geometry: [(u8, u8, &[i64]); 2] = [(1, 5, &[2, 3, 1, 2, 0]), (2, 6, &[2, 1, 1])];
    for (key, storage, numbers) in geometry {
        tensors.extend([b'(', b'K', key, b'K', storage]);
        tensors.extend(b"ctorch\nFloatTensor\nt.");
        tensors.extend((numbers.len() as u32 / 2).to_le_bytes());
        tensors.extend([0; 4]);
        tensors.extend(numbers.iter().flat_map(|n| n.to_le_bytes()));
    }
    let mut object = b"\x80\x02ccollections\nOrderedDict\n]".to_vec();
    for (name, id) in [("a", &b"K\x01Q"[..]), ("b", b"\x8c\x012Q")] {
        object.push(b']');
        text(&mut object, name);
        object.push(b'a');
        object.extend(id);
        object.extend(b"aa");
    }
    object.extend(b"\x85R.");
    let machine = b"\x80\x02}\x8c\x0dlittle_endian\x88s.".to_vec();
    vec![
        ("sys_info", machine),
        ("pickle", object),
        ("tensors", tensors),
        ("storages", storages),
    ]
}

fn tar_of(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, data) in members {
        let mut header = tar::Header::new_ustar();
        header.set_size(data.len() as u64);
        tar.append_data(&mut header, name, data.as_slice()).unwrap();
    }
    tar.into_inner().unwrap()
}

#[test]
fn a_tar_checkpoint_is_read() {
    let state = StateDict::from_bytes(&tar_of(&tar_members())).unwrap();
    let (a, b) = (state.get("a").unwrap(), state.get("b").unwrap());
    assert_eq!(a.shape(), [2, 3]);
    assert_eq!(a.to_f32().unwrap(), [0.0, 2.0, 4.0, 1.0, 3.0, 5.0]);
    assert_eq!(b.shape(), [2]);
    assert_eq!(b.to_f32().unwrap(), [4.0, 5.0]);
}

#[test]
fn damaged_tars_are_rejected() {
    let cases: [(&str, &[u8], &str); 4] = [
        (
            "sys_info",
            b"\x80\x02}\x8c\x0dlittle_endian\x89s.",
            "expected little-endian values, got big-endian values",
        ),
        (
            "storages",
            b"\x80\x02J\xff\xff\xff\x7f.",
            "expected 1 more bytes",
        ),
        (
            "tensors",
            b"\x80\x02K\x01.\x80\x02(K\x01K\x09Nt.",
            "expected the key of a storage in the file, got 9",
        ),
        (
            "pickle",
            b"\x80\x02K\x09Q.",
            "expected the id of a storage or tensor",
        ),
    ];
    for (name, data, expected) in cases {
        let mut members = tar_members();
        let damaged = members.iter_mut().find(|m| m.0 == name).unwrap();
        damaged.1 = data.to_vec();
        let got = message(&tar_of(&members));
        assert!(got.contains(expected), "{name}: {got}");
    }
    let without = message(&tar_of(&tar_members()[..3]));
    assert_eq!(
        without,
        "tar checkpoint, entry `storages`: expected a member of this name, got none"
    );
    let twice = [tar_members(), tar_members()].concat();
    assert!(message(&tar_of(&twice)).contains("expected distinct names"));
}

#[test]
fn deflated_and_strided_zips_are_read() {
    let (data, pickle) = (counting(6), dict_pickle("w", "0", 6, &[2, 3], &[1, 2]));
    let entries: [(&str, &[u8]); 3] = [
        ("x/data.pkl", &pickle),
        ("x/byteorder", b"little"),
        ("x/data/0", &data),
    ];
    for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
        let state = StateDict::from_bytes(&zip_of(&entries, method)).unwrap();
        let values = state.get("w").unwrap().to_f32().unwrap();
        assert_eq!(values, [0.0, 2.0, 4.0, 1.0, 3.0, 5.0], "{method:?}");
    }
}

#[test]
fn damaged_zips_are_rejected() {
    let data = [0; 24];
    let good = dict_pickle("w", "0", 6, &[2, 3], &[3, 1]);
    let long = dict_pickle("w", "0", i32::MAX, &[2, 3], &[3, 1]);
    let wide = dict_pickle("w", "0", 6, &[255; 4], &[0; 4]);
    let outside = dict_pickle("w", "../../etc/passwd", 6, &[6], &[1]);
    let with =
        |pickle: &[u8], rest: &[(&str, &[u8])]| stored(&[&[("x/data.pkl", pickle)], rest].concat());
    let storage = ("x/data/0", &data[..]);
    let short = ("x/data/0", &data[..23]);
    let cases: [(Vec<u8>, &str); 10] = [
        (
            with(&good, &[("x/byteorder", b"big"), storage]),
            "expected little-endian values, got big",
        ),
        (with(&good, &[]), "`x/data/0`: "),
        (
            stored(&[storage]),
            "`data.pkl`: expected one entry of this name, got none",
        ),
        (
            with(&good, &[("y/data.pkl", &good)]),
            "expected one entry of this name, got several",
        ),
        (
            with(&good, &[short]),
            "expected a storage as long as the pickle states, got 23 bytes",
        ),
        (
            with(&long, &[storage]),
            "expected a storage as long as the pickle states",
        ),
        (
            with(&wide, &[storage]),
            "bytes of all tensors must be at most",
        ),
        (
            with(&outside, &[("../../etc/passwd", &data)]),
            "`x/data/../../etc/passwd`: ",
        ),
        (
            b"PK\x03\x04 and no more".to_vec(),
            "zip checkpoint is cut short",
        ),
        (
            stored(&[storage])[..60].to_vec(),
            "zip checkpoint is cut short: its directory",
        ),
    ];
    for (bytes, expected) in cases {
        let got = message(&bytes);
        assert!(got.contains(expected), "{expected}: {got}");
    }
}

#[test]
fn the_last_of_equal_keys_wins_also_if_it_is_not_a_tensor() {
    let mut pickle = dict_pickle("w", "0", 6, &[6], &[1]);
    pickle.truncate(pickle.len() - 1);
    text(&mut pickle, "w");
    pickle.extend(b"K\x01s.");
    let got = message(&stored(&[("x/data.pkl", &pickle), ("x/data/0", &[0; 24])]));
    assert!(got.starts_with("no state dict found"), "{got}");
}

#[test]
fn damaged_tensors_are_rejected_also_if_they_are_not_weights() {
    let with = |rest: &[u8]| {
        let mut pickle = dict_pickle("w", "0", 6, &[6], &[1]);
        pickle.truncate(pickle.len() - 1);
        // The key of the item is an integer; the names of weights are texts.
        pickle.extend(b"K\x07");
        pickle.extend(rest);
        message(&stored(&[("x/data.pkl", &pickle), ("x/data/0", &[0; 24])]))
    };
    // Dictionaries without their first bytes: the protocol, an empty dictionary and a key.
    let outside = dict_pickle("v", "0", 6, &[7], &[1]);
    let shorter = dict_pickle("v", "0", 5, &[5], &[1]);
    let cases = [
        (
            &outside[6..],
            "expected a storage that contains its tensors",
        ),
        (
            &shorter[6..],
            "expected one size and type in all references",
        ),
    ];
    for (rest, expected) in cases {
        let got = with(rest);
        assert!(got.contains(expected), "{expected}: {got}");
    }
}

#[test]
fn equal_names_in_a_zip_are_rejected() {
    let pickle = dict_pickle("w", "0", 6, &[6], &[1]);
    let mut bytes = stored(&[
        ("x/data.pkl", &pickle),
        ("x/data/0", &[0; 24]),
        ("x/data/1", &[1; 24]),
    ]);
    while let Some(at) = bytes.windows(8).position(|w| w == b"x/data/1") {
        bytes[at + 7] = b'0';
    }
    let got = message(&bytes);
    assert!(
        got.contains("expected distinct names, got one name twice"),
        "{got}"
    );
}

#[test]
fn a_zip_bomb_is_rejected_before_it_inflates() {
    let zeros = vec![0; 32 << 20];
    let pickle = dict_pickle("w", "0", 8 << 20, &[1], &[1]);
    let entries: [(&str, &[u8]); 2] = [("x/data.pkl", &pickle), ("x/data/0", &zeros)];
    let bomb = zip_of(&entries, CompressionMethod::Deflated);
    assert!(bomb.len() < 100_000);
    let got = message(&bomb);
    assert!(
        got.contains("inflated bytes of an entry must be at most"),
        "{got}"
    );
}

#[test]
fn files_without_a_state_dict_are_rejected_with_their_content() {
    let zip = |pickle: &[u8]| stored(&[("x/data.pkl", pickle)]);
    let model = "such as a whole model, instead of weights alone: load it in Python, and save the \
                 weights with torch.save(model.state_dict(), path)";
    let cases: [(Vec<u8>, &str); 13] = [
        (zip(b"ctorchvision.models.resnet\nResNet\n)\x81."), model),
        (
            zip(b"}\x8c\x05modelc__main__\nBirds\n)\x81s."),
            "an object of the class `__main__.Birds`, such as a whole model",
        ),
        (
            stored(&[
                ("x/data.pkl", b"N."),
                ("x/constants.pkl", b")."),
                ("x/code/m.py", b""),
            ]),
            "not a checkpoint but a TorchScript model: load it with torch.jit.load, and save",
        ),
        (
            zip(b"c__torch__.net\nNet\n)\x81."),
            "not a checkpoint but a TorchScript model",
        ),
        (
            b"{\"err\": {\"code\": 404}}".to_vec(),
            "not a checkpoint but a JSON document",
        ),
        (
            tar_of(&[("weights/best.pth", vec![0; 9])]),
            "not a checkpoint but a tar archive that torch.save did not write: unpack it",
        ),
        (
            zip(b"}(\x8c\x05epochK\x03\x8c\x05model}u."),
            "no state dict found: the top level of the checkpoint holds `epoch` (an int), `model` (a dict);",
        ),
        (zip(b"}."), "holds an empty dict"),
        (zip(b"K\x01."), "holds an int"),
        (
            zip(b"cposix\nsystem\n\x8c\x02id\x85R."),
            "pickle refers to `posix.system`, which weights do not need",
        ),
        (
            b"GIF89a\x01\0\x01\0\0".to_vec(),
            "not a checkpoint: expected a safetensors file or one that torch.save wrote (zip, pickle or \
             tar), got a file that starts with [47, 49",
        ),
        (
            Vec::new(),
            "not a checkpoint but an empty file: download or copy the file again",
        ),
        (
            b"\x80\x02K\x01.".to_vec(),
            "not a checkpoint but a pickle that torch.save did not write: load it in Python",
        ),
    ];
    for (bytes, expected) in cases {
        let got = message(&bytes);
        assert!(got.contains(expected), "{expected}: {got}");
    }
    let folder = tempfile::tempdir().unwrap();
    let whole = StateDict::read(folder.path()).unwrap_err().to_string();
    assert!(
        whole.starts_with("not a checkpoint but a folder: "),
        "{whole}"
    );
    std::fs::write(folder.path().join("data.pkl"), b"}.").unwrap();
    let unpacked = StateDict::read(folder.path()).unwrap_err().to_string();
    assert!(
        unpacked.contains("the folder of an unpacked checkpoint: pack"),
        "{unpacked}"
    );
    let missing = StateDict::read(Path::new("no/such/file")).unwrap_err();
    let missing = missing.to_string();
    assert!(
        missing.starts_with("cannot read no/such/file: "),
        "{missing}"
    );
}

#[test]
fn the_state_dict_of_a_training_checkpoint_is_found() {
    // Returns a zip checkpoint of `{outer: {inner: tensor}, "decoy": tensor}`.
    let nest = |outer: &str, inner: &str| {
        let mut pickle = b"\x80\x02}".to_vec();
        text(&mut pickle, outer);
        let held = dict_pickle(inner, "0", 6, &[6], &[1]);
        pickle.extend(&held[2..held.len() - 1]);
        pickle.push(b's');
        // The first three bytes of the second pickle, the protocol and the opcode of an empty
        // dictionary, are skipped to continue the first dictionary.
        pickle.extend(&dict_pickle("decoy", "0", 6, &[1], &[1])[3..]);
        stored(&[("x/data.pkl", &pickle), ("x/data/0", &[0; 24])])
    };
    let cases = [
        ("model", "w", "w"),
        ("state_dict", "module.w", "w"),
        ("net", "_orig_mod.module.w", "w"),
        ("ema", "module._orig_mod.w", "w"),
        ("elsewhere", "w", "decoy"),
    ];
    for (outer, inner, expected) in cases {
        let state = StateDict::from_bytes(&nest(outer, inner)).unwrap();
        let names: Vec<_> = state.names().collect();
        assert_eq!(names, [expected], "{outer}");
    }
}

// === Random damage ===

/// Returns the name and the bytes of small valid checkpoints in every container.
fn samples() -> Vec<(&'static str, Vec<u8>)> {
    let (data, pickle) = (counting(6), dict_pickle("w", "0", 6, &[2, 3], &[3, 1]));
    let entries: [(&str, &[u8]); 3] = [
        ("x/data.pkl", &pickle),
        ("x/byteorder", b"little"),
        ("x/data/0", &data),
    ];
    let mut legacy = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.".to_vec();
    legacy.extend(b"\x80\x02M\xe9\x03.\x80\x02}\x8c\x0dlittle_endian\x88s.");
    // The ids of storages in a legacy checkpoint end with a view.
    let id = pickle.windows(2).position(|op| op == b"tQ").unwrap();
    legacy.extend([&pickle[..id], b"N", &pickle[id..]].concat());
    legacy.extend(b"\x80\x02]\x8c\x010a.");
    legacy.extend(6_i64.to_le_bytes());
    legacy.extend(&data);
    let tensor = Tensor::from_f32(&[2, 3], &[0.5; 6]).unwrap();
    let state = StateDict::from_tensors(BTreeMap::from([("w".to_owned(), tensor)]));
    vec![
        ("stored", stored(&entries)),
        ("deflated", zip_of(&entries, CompressionMethod::Deflated)),
        ("legacy", legacy),
        ("tar", tar_of(&tar_members())),
        ("safetensors", state.to_safetensors().unwrap()),
    ]
}

#[test]
fn truncated_files_are_rejected() {
    for (kind, bytes) in samples() {
        let whole = message(&bytes);
        assert!(whole.starts_with("read "), "{kind}: {whole}");
        // A tar ends in blocks of zeros; a reader does not need them, so only cuts before them must
        // fail.
        let needed = match kind {
            "tar" => bytes.iter().rposition(|b| *b != 0).unwrap(),
            _ => bytes.len(),
        };
        for n in 0..needed {
            let cut = StateDict::from_bytes(&bytes[..n]);
            assert!(cut.is_err(), "{kind} cut at {n}");
        }
    }
    for kind in ["zip", "legacy"] {
        let bytes = std::fs::read(golden(kind)).unwrap();
        for n in (0..bytes.len()).step_by(bytes.len() / 60) {
            let cut = StateDict::from_bytes(&bytes[..n]);
            assert!(cut.is_err(), "{kind} cut at {n}");
        }
    }
}

fn config() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(200)
    }
}

/// A random change of a file: a flipped bit at the offset `at`, a byte `value` inserted there, or a
/// copy of the bytes from `at` to the end of the file to the lower offset `from`.
#[derive(Debug)]
struct Mutation {
    kind: u8,
    at: prop::sample::Index,
    from: prop::sample::Index,
    value: u8,
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let parts = (
        0_u8..3,
        any::<prop::sample::Index>(),
        any::<prop::sample::Index>(),
        any::<u8>(),
    );
    parts.prop_map(|(kind, at, from, value)| Mutation {
        kind,
        at,
        from,
        value,
    })
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn corrupted_bytes_never_panic(
        sample in 0_usize..5,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let (_, mut bytes) = samples().swap_remove(sample);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let _ = StateDict::from_bytes(&bytes);
    }

    #[test]
    fn mutated_files_never_panic(
        sample in 0_usize..5,
        changes in prop::collection::vec(mutation(), 1..9),
    ) {
        let (_, mut bytes) = samples().swap_remove(sample);
        for Mutation { kind, at, from, value } in changes {
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] ^= 1 << (value % 8),
                1 => bytes.insert(at, value),
                _ => bytes.copy_within(at.., from.index(at + 1)),
            }
        }
        let _ = StateDict::from_bytes(&bytes);
    }

    #[test]
    fn pickles_of_any_bytes_never_panic(pickle in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = StateDict::from_bytes(&stored(&[("x/data.pkl", &pickle)]));
    }

    #[test]
    fn strided_tensors_equal_the_slow_reference(
        shape in prop::collection::vec(0_u8..4, 0..4),
        strides in prop::collection::vec(0_u8..5, 4),
    ) {
        let strides = &strides[..shape.len()];
        let (data, pickle) = (counting(40), dict_pickle("w", "0", 40, &shape, strides));
        let state = StateDict::from_bytes(&stored(&[("x/data.pkl", &pickle), ("x/data/0", &data)]));
        let got = state.unwrap().get("w").unwrap().to_f32().unwrap();
        let mut expected = vec![0.0_f32];
        for (&n, &stride) in shape.iter().zip(strides) {
            let along = |start: &f32| {
                let start = *start;
                (0..n).map(move |i| start + f32::from(i) * f32::from(stride))
            };
            expected = expected.iter().flat_map(along).collect();
        }
        prop_assert_eq!(got, expected);
    }
}
