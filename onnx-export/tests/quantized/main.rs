//! Quantized tensors in checkpoints written by hand, valid and damaged.

#![expect(
    clippy::unwrap_used,
    reason = "a panic in a helper of a test is the report"
)]

mod pickled;

use onnx_export::weights::{StateDict, Tensor};
use pickled::{
    HOOKS, Scheme, Stored, float, int, legacy_of, open_tensor, quantized, text, vector, zip, zip_of,
};
use proptest::prelude::*;

const BYTES: &[u8] = &[0, 1, 2, 253, 254, 255];

fn doubles(values: &[f64]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn longs(values: &[i64]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn read(bytes: &[u8]) -> Result<Tensor, String> {
    let state = StateDict::from_bytes(bytes).map_err(|e| e.to_string())?;
    Ok(state.get("w").unwrap().clone())
}

#[test]
fn every_quantization_scheme_is_read_from_every_container() {
    let (scales, zero_points) = (doubles(&[0.5, 2.0]), longs(&[0, -1]));
    let held = Scheme::Held(
        Stored("DoubleStorage", "1", &scales),
        Stored("LongStorage", "2", &zero_points),
        0,
    );
    let listed = || Scheme::Listed(&[0.5, 2.0], &[0, -1], 0);
    let signed = || Stored("QInt8Storage", "0", BYTES);
    let unsigned = Stored("QUInt8Storage", "0", BYTES);
    let by_rows = [0.0, 0.5, 1.0, -4.0, -2.0, 0.0];
    let cases = [
        (zip_of(&signed(), &[2, 3], &held), by_rows),
        (zip_of(&signed(), &[2, 3], &listed()), by_rows),
        (legacy_of(&signed(), &[2, 3], &listed()), by_rows),
        (
            zip_of(&unsigned, &[3, 2], &Scheme::PerTensor(0.5, 2)),
            [-1.0, -0.5, 0.0, 125.5, 126.0, 126.5],
        ),
    ];
    for (bytes, expected) in cases {
        assert_eq!(read(&bytes).unwrap().to_f32().unwrap(), expected);
    }
    let tensor = read(&zip_of(&signed(), &[2, 3], &held)).unwrap();
    let quantizer = tensor.quantizer().unwrap();
    assert_eq!(quantizer.scales(), [0.5, 2.0]);
    assert_eq!(quantizer.zero_points(), [0, -1]);
    assert_eq!(quantizer.axis(), Some(0));
    let wide = [7_i32, i32::MIN].map(i32::to_le_bytes).concat();
    let wide = Stored("QInt32Storage", "0", &wide);
    let wide = read(&zip_of(&wide, &[2], &Scheme::PerTensor(1.0, 0))).unwrap();
    assert_eq!(wide.to_f32().unwrap(), [7.0, -2_147_483_648.0]);
}

#[test]
fn invalid_quantizers_are_rejected() {
    let (scales, zero_points) = (doubles(&[0.5, 2.0]), longs(&[0, 300]));
    let held = |class: &'static str| {
        Scheme::Held(
            Stored(class, "1", &scales),
            Stored("LongStorage", "2", &zero_points),
            0,
        )
    };
    let cases = [
        (
            Scheme::PerTensor(-0.5, 0),
            "`w`: expected a finite scale greater than 0, got -0.5",
        ),
        (Scheme::PerTensor(f64::NAN, 0), "got NaN"),
        (
            Scheme::PerTensor(1.0, 128),
            "`w`: expected a zero point within the range of the data type, got 128 for i8",
        ),
        (held("DoubleStorage"), "got 300 for i8"),
        (
            held("LongStorage"),
            "expected floating-point scales, got i64",
        ),
        (
            Scheme::Listed(&[1.0; 3], &[0; 3], 0),
            "`w`: expected a scale per index of the axis, got 3 scales for axis 0 of shape [2, 3]",
        ),
        (
            Scheme::Listed(&[1.0; 2], &[0; 2], 2),
            "`w`: expected an axis of the tensor, got axis 2 for shape [2, 3]",
        ),
        (
            Scheme::Listed(&[1.0; 2], &[0; 1], 0),
            "`w`: expected as many zero points as scales, got 1 zero points for 2 scales",
        ),
        (
            Scheme::Other("float32"),
            "expected a quantization scheme, its scales and its zero points, got another value",
        ),
        (
            Scheme::Other("per_tensor_symmetric"),
            "pickle refers to `torch.per_tensor_symmetric`, an unsupported quantization",
        ),
    ];
    for (scheme, expected) in cases {
        let bytes = zip_of(&Stored("QInt8Storage", "0", BYTES), &[2, 3], &scheme);
        let error = read(&bytes).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    let floats = Stored("FloatStorage", "0", &[0; 8]);
    let error = read(&zip_of(&floats, &[2], &Scheme::PerTensor(1.0, 0))).unwrap_err();
    let expected = "expected a quantized storage, got a storage of another data type";
    assert!(error.contains(expected), "{error}");
}

#[test]
fn a_list_of_scales_shared_by_many_tensors_exceeds_the_memory_limit() {
    // One empty tensor with 30,000 listed scales, stored under 30,000 names.
    let n = 30_000;
    let mut pickle = b"\x80\x02}".to_vec();
    let stored = Stored("QInt8Storage", "0", &[]);
    open_tensor(&mut pickle, "_rebuild_qtensor", &stored, &[]);
    pickle.truncate(pickle.len() - 4);
    pickle.push(b'(');
    int(&mut pickle, n);
    pickle.extend(b"K\x00t(K\x00K\x00t(ctorch\nper_channel_affine\n](");
    (0..n).for_each(|_| float(&mut pickle, 1.0));
    pickle.extend(b"e](");
    (0..n).for_each(|_| pickle.extend(b"K\x00"));
    pickle.extend(b"eK\x00t");
    pickle.extend(HOOKS);
    pickle.extend(b"q\x000");
    for name in 0..n {
        text(&mut pickle, &name.to_string());
        pickle.extend(b"h\x00s");
    }
    pickle.push(b'.');
    let bytes = zip(&[("data.pkl", &pickle), ("data/0", &[])]);
    let error = StateDict::from_bytes(&bytes).unwrap_err().to_string();
    assert!(
        error.contains("bytes of all tensors must be at most"),
        "{error}"
    );
}

#[test]
fn packed_layers_of_every_version_become_weight_and_bias() {
    let stored = Stored("QInt8Storage", "0", BYTES);
    let tensor = |out: &mut Vec<u8>| quantized(out, &stored, &[6], &Scheme::PerTensor(0.5, 0));
    let bias = Stored("FloatStorage", "1", &[0; 8]);
    let mut pickle = b"\x80\x02}".to_vec();
    // Layer `a` has a bias, layer `b` has none, and layer `c` has the names of the second version
    // of torch's format.
    text(&mut pickle, "a._packed_params._packed_params");
    tensor(&mut pickle);
    vector(&mut pickle, &bias);
    pickle.extend(b"\x86s");
    text(&mut pickle, "module.b._packed_params._packed_params");
    tensor(&mut pickle);
    pickle.extend(b"N\x86s");
    for name in ["c._packed_params.weight", "c._packed_params.bias"] {
        text(&mut pickle, name);
        vector(&mut pickle, &bias);
        pickle.push(b's');
    }
    text(&mut pickle, "a._packed_params.dtype");
    pickle.extend(b"ctorch\nqint8\ns.");
    let file = zip(&[
        ("data.pkl", &pickle),
        ("data/0", BYTES),
        ("data/1", &[0; 8]),
    ]);
    let state = StateDict::from_bytes(&file).unwrap();
    let names: Vec<_> = state.names().collect();
    let expected = [
        "a.bias",
        "a.weight",
        "c.bias",
        "c.weight",
        "module.b.weight",
    ];
    assert_eq!(names, expected);
    assert_eq!(state.get("a.bias").unwrap().shape(), [2]);
    assert!(state.get("module.b.weight").unwrap().quantizer().is_some());
}

/// Returns small valid checkpoints with a quantized tensor `w`: a zip for each way of storing scales, and a legacy
/// file.
fn samples() -> Vec<Vec<u8>> {
    let signed = Stored("QInt8Storage", "0", BYTES);
    let (scales, zero_points) = (doubles(&[0.5, 2.0]), longs(&[0, -1]));
    let held = Scheme::Held(
        Stored("DoubleStorage", "1", &scales),
        Stored("LongStorage", "2", &zero_points),
        0,
    );
    let listed = Scheme::Listed(&[0.5, 2.0], &[0, -1], 0);
    vec![
        zip_of(&signed, &[2, 3], &Scheme::PerTensor(0.5, 2)),
        zip_of(&signed, &[2, 3], &held),
        zip_of(&signed, &[2, 3], &listed),
        legacy_of(&signed, &[2, 3], &listed),
    ]
}

#[test]
fn truncated_files_are_rejected() {
    for bytes in samples() {
        assert!(read(&bytes).is_ok());
        for n in 0..bytes.len() {
            assert!(StateDict::from_bytes(&bytes[..n]).is_err(), "cut at {n}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(1000)
    })]

    #[test]
    fn corrupted_bytes_never_panic(
        sample in 0_usize..4,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = samples().swap_remove(sample);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(state) = StateDict::from_bytes(&bytes) {
            for (_, tensor) in state.iter() {
                let _ = tensor.to_f32();
            }
        }
    }
}
