//! Tests with pickles written by hand, in the opcodes of `pickle.py`.

use super::{value::Node, *};

fn run(pickle: &[u8]) -> Result<String, String> {
    run_with(pickle, Persistent::Storages)
}

fn run_with(pickle: &[u8], persistent: Persistent<'_>) -> Result<String, String> {
    let pickled = load(pickle, 0, persistent).map_err(|e| e.to_string())?;
    Ok(show(&pickled.arena, pickled.root))
}

/// Formats a value. If the value is a collection, also formats its items; items that are
/// collections themselves are shown by type only.
fn show(arena: &Arena<'_>, value: Value) -> String {
    let list = |items: &[Value]| {
        let items: Vec<_> = items.iter().map(|v| small(arena, *v)).collect();
        items.join(",")
    };
    match arena.node(value) {
        Some(Node::Tuple(items)) => format!("({})", list(items)),
        Some(Node::List(items)) => format!("[{}]", list(items)),
        Some(Node::Dict(pairs) | Node::OrderedDict(pairs)) => {
            let flat: Vec<_> = pairs.iter().flat_map(|(k, v)| [*k, *v]).collect();
            format!("{{{}}}", list(&flat))
        }
        Some(Node::Tensor(t)) => {
            let (key, numel) = (&t.storage.key, t.storage.numel);
            let view = t.storage.view.as_ref();
            let view = view.map(|view| (view.offset, view.numel));
            let (dtype, offset, shape, strides) = (t.dtype, t.offset, &t.shape, &t.strides);
            format!("{dtype} {key}:{numel}{view:?}+{offset} {shape:?} {strides:?}")
        }
        _ => small(arena, value),
    }
}

fn small(arena: &Arena<'_>, value: Value) -> String {
    match value {
        Value::Int(n) => n.to_string(),
        Value::Float(x) => x.to_string(),
        Value::Bool(b) => b.to_string(),
        _ => match arena.node(value) {
            Some(Node::Text(text)) => (*text).to_owned(),
            _ => arena.describe(value).to_owned(),
        },
    }
}

/// Pickle operations that push a `torch.FloatStorage` of 12 elements with the key "7".
const STORAGE: &[u8] = b"(\x8c\x07storagectorch\nFloatStorage\n\x8c\x017\x8c\x03cpuK\x0ctQ";

#[test]
fn operations_make_data() {
    let cases: &[(&[u8], &str)] = &[
        (b"\x80\x02N.", "None"),
        (b"\x80\x05\x95\0\0\0\0\0\0\0\0\x88\x89\x86.", "(true,false)"),
        (b"(K\x01M\x00\x01J\xff\xff\xff\xfft.", "(1,256,-1)"),
        (b"(\x8a\x00\x8a\x01\x80\x8a\x02\x00\x01t.", "(0,-128,256)"),
        (
            b"\x8a\x09\x01\x02\x03\x04\x05\x06\x07\x08\x09.",
            "a large int",
        ),
        (b"G\x3f\xf8\0\0\0\0\0\0.", "1.5"),
        (b"(X\x02\0\0\0ab\x8c\x01cU\x01dC\x01et.", "(ab,c,d,bytes)"),
        (b"K\x01K\x02K\x03\x87.", "(1,2,3)"),
        (b"](K\x01K\x02eK\x03a.", "[1,2,3]"),
        (b"}\x8c\x01aK\x01s(\x8c\x01bK\x02u.", "{a,1,b,2}"),
        (b"\x8c\x01aq\x050h\x05.", "a"),
        (b"\x8c\x01a\x940j\0\0\0\0.", "a"),
        (b"(K\x01K\x021K\x03.", "3"),
        (b"ccollections\nOrderedDict\n)R}b.", "{}"),
        (
            b"ccollections\nOrderedDict\n]]\x8c\x01aaK\x01aa\x85R.",
            "{a,1}",
        ),
        (
            b"cargparse\nNamespace\n)\x81}\x8c\x01aK\x01sb.",
            "argparse.Namespace",
        ),
        (b"\x8f(K\x01\x90.", "a set"),
        (b"ctorch\nSize\nK\x01K\x02\x86\x85R.", "(1,2)"),
    ];
    for (pickle, expected) in cases {
        let shown = pickle.escape_ascii();
        assert_eq!(run(pickle).as_deref(), Ok(*expected), "{shown}");
    }
}

#[test]
fn tensors_are_described_by_storage_and_strides() {
    let v2 = [b"ctorch._utils\n_rebuild_tensor_v2\n(", STORAGE].concat();
    let v3 = [b"ctorch._utils\n_rebuild_tensor_v3\n(", STORAGE].concat();
    let old = [b"ctorch._utils\n_rebuild_tensor\n(", STORAGE].concat();
    let geometry: &[u8] = b"K\x01K\x02K\x03\x86K\x03K\x01\x86";
    let hooks: &[u8] = b"\x89ccollections\nOrderedDict\n)R";
    let view =
        b"(\x8c\x07storagectorch\nHalfStorage\n\x8c\x017\x8c\x03cpuK\x0c(\x8c\x018K\x04K\x06ttQ";
    let viewed = [&b"ctorch._utils\n_rebuild_tensor_v2\n("[..], view].concat();
    let parameter = b"ctorch._utils\n_rebuild_parameter\n(";
    let cases = [
        (
            [&v2, geometry, hooks, b"tR."].concat(),
            "f32 7:12None+1 [2, 3] [3, 1]",
        ),
        (
            [&old, geometry, b"tR."].concat(),
            "f32 7:12None+1 [2, 3] [3, 1]",
        ),
        (
            [&v3, geometry, hooks, b"ctorch\nfloat16\nNtR."].concat(),
            "f16 7:12None+1 [2, 3] [3, 1]",
        ),
        (
            [&parameter[..], &v2, geometry, hooks, b"tR", hooks, b"tR."].concat(),
            "f32 7:12None+1 [2, 3] [3, 1]",
        ),
    ];
    for (pickle, expected) in cases {
        assert_eq!(run(&pickle).as_deref(), Ok(expected));
    }
    let viewed = [&viewed, geometry, hooks, b"tR."].concat();
    let got = run_with(&viewed, Persistent::ViewedStorages);
    let expected = "f16 7:12Some((4, 6))+1 [2, 3] [3, 1]";
    assert_eq!(got.as_deref(), Ok(expected));
    // Only legacy checkpoints have views.
    assert!(run(&viewed).is_err());
}

/// Cases in which torch fails or gives other weights than a reader that ignores what it does not
/// need. Found by comparing both on mutated checkpoints.
#[test]
fn what_torch_rejects_or_reads_differently_is_rejected() {
    let v2 = [b"ctorch._utils\n_rebuild_tensor_v2\n(", STORAGE].concat();
    let geometry: &[u8] = b"K\x00K\x02\x85K\x01\x85";
    let tensor = [&v2, geometry, b"\x89NtR"].concat();
    let quantized = |class: &[u8]| {
        let id = [b"(\x8c\x07storagectorch\n", class, b"\n\x8c\x017NK\x0ctQ"].concat();
        let start = b"ctorch._utils\n_rebuild_qtensor\n(";
        let scheme = b"(ctorch\nper_tensor_affine\nG\x3f\xf0\0\0\0\0\0\0K\x00t";
        [start, &id[..], geometry, scheme, b"\x89NtR."].concat()
    };
    assert!(run(&quantized(b"QInt8Storage")).is_ok());
    let plain_of_quantized = [
        b"ctorch._utils\n_rebuild_tensor_v2\n(",
        &b"(\x8c\x07storagectorch\nQInt8Storage\n\x8c\x017NK\x0ctQ"[..],
        geometry,
        b"\x89NtR.",
    ];
    let parameter = |rest: &[u8]| {
        let start = b"ctorch._utils\n_rebuild_parameter_with_state\n(";
        [start, &tensor[..], rest].concat()
    };
    assert!(run(&parameter(b"\x89N}tR.")).is_ok());
    let cases = [
        // The state of a tensor, `(storage, offset, shape, strides)`, replaces its elements.
        (
            [&tensor, &b")b."[..]].concat(),
            "an object whose state is not needed",
        ),
        (b"}}b.".to_vec(), "an object whose state is not needed"),
        // The metadata negates the elements.
        (
            [&v2, geometry, b"\x89N}\x8c\x03neg\x88stR."].concat(),
            "a tensor without metadata",
        ),
        (plain_of_quantized.concat(), "got metadata or a quantized"),
        (quantized(b"CharStorage"), "a quantized storage"),
        (quantized(b"FloatStorage"), "a quantized storage"),
        // The state replaces the elements of the parameter.
        (
            parameter(b"\x89N}\x8c\x04dataNstR."),
            "the arguments of a parameter",
        ),
        (
            [&v2, geometry, b"K\x01NtR."].concat(),
            "False as requires_grad",
        ),
        (
            [&v2, geometry, b"\x89K\x01tR."].concat(),
            "a dictionary of hooks",
        ),
        (
            [&v2, geometry, b"\x89tR."].concat(),
            "another number of them",
        ),
        // `__new__` ignores the items, and does not call functions.
        (
            b"ccollections\nOrderedDict\n]]\x8c\x01aaK\x01aa\x85\x81.".to_vec(),
            "one list of pairs, got other arguments",
        ),
        (
            [&tensor[..tensor.len() - 1], b"\x81."].concat(),
            "a class to create",
        ),
        // A dictionary from a tuple of pairs, or from a list that is used twice.
        (
            b"ccollections\nOrderedDict\n)\x85R.".to_vec(),
            "a list of pairs, got a tuple",
        ),
        (
            b"]q\x000ccollections\nOrderedDict\nq\x01h\x00\x85R0h\x01h\x00\x85R.".to_vec(),
            "a list of pairs, got a list that another object holds",
        ),
        (b"ctorch\nSize\n}\x85R.".to_vec(), "a tuple of sizes"),
        (
            b"cnumpy\ndtype\n)R)R.".to_vec(),
            "a class or function to call",
        ),
        // Values below an open mark belong to another collection.
        (b"](K\x01a.".to_vec(), "a value on the stack"),
        (b"}(NNs.".to_vec(), "a value on the stack"),
        (b"N(q\x00.".to_vec(), "a value on the stack"),
        (b"](K\x01\x90.".to_vec(), "a set to add to"),
        (b"}]Ns.".to_vec(), "a key that Python can hash, got a list"),
        (
            b"}]\x85Ns.".to_vec(),
            "a key that Python can hash, got a tuple",
        ),
        (
            b"\x95\x02\0\0\0\0\0\0\0NJ\0\0\0\0.".to_vec(),
            "ends within its frame",
        ),
        (
            b"\x95\x0a\0\0\0\0\0\0\0\x95\x01\0\0\0\0\0\0\0N.".to_vec(),
            "a frame in a frame",
        ),
        (b"\x95\x09\0\0\0\0\0\0\0N.".to_vec(), "9 more bytes"),
    ];
    for (pickle, message) in cases {
        let got = run(&pickle).unwrap_err();
        assert!(got.contains(message), "{}: {got}", pickle.escape_ascii());
    }
}

#[test]
fn hostile_pickles_are_rejected() {
    let negative = [
        b"ctorch._utils\n_rebuild_tensor_v2\n(",
        STORAGE,
        b"K\x00J\xff\xff\xff\xff\x85K\x01\x85tR.",
    ]
    .concat();
    let quantized = |scheme: &[u8]| {
        let start = b"ctorch._utils\n_rebuild_qtensor\n(";
        let storage = b"(\x8c\x07storagectorch\nQInt8Storage\n\x8c\x017\x8c\x03cpuK\x0ctQ";
        let rest: &[u8] = b"K\x00K\x01\x85K\x01\x85";
        [start, &storage[..], rest, scheme, b"\x89NtR"].concat()
    };
    let plain = [quantized(b"ctorch\nper_tensor_affine\n"), b".".to_vec()].concat();
    // The tensor that holds the scales is itself quantized, which is invalid.
    let scales = quantized(b"(ctorch\nper_tensor_affine\nG\x3f\xf0\0\0\0\0\0\0K\x00t");
    let scheme = [b"(ctorch\nper_channel_affine\n", &scales[..], b"]K\x00t"].concat();
    let recursive = [quantized(&scheme), b".".to_vec()].concat();
    let cases: &[(&[u8], &str)] = &[
        (
            b"cposix\nsystem\n\x8c\x02id\x85R.",
            "pickle refers to `posix.system`, which weights do not need",
        ),
        (
            b"\x8c\x08builtins\x8c\x04eval\x93.",
            "pickle refers to `builtins.eval`",
        ),
        (b"c__builtin__\ngetattr\n.", "`__builtin__.getattr`"),
        (b"ca\x1b[2J\nb\n.", "pickle refers to `a\\u001b[2J.b`"),
        (
            b"(S'x'\nios\nsystem\n.",
            "expected an operation that builds plain data, got operation 0x53",
        ),
        (b"\x82\x01.", "operation 0x82"),
        (b"\x80\x01N.", "expected pickle protocol 2 to 5, got 1"),
        (b"K\x01K\x01\x86\x85R.", "expected a value on the stack"),
        (
            b"K\x01)R.",
            "expected a class or function to call, got an int",
        ),
        (b"ctorch\nFloatStorage\n)R.", "expected a function to call"),
        (
            b"ctorch._utils\n_rebuild_tensor_v2\n)R.",
            "expected arguments (storage, offset",
        ),
        (
            b"ctorch\nper_tensor_affine\n)R.",
            "expected a function to call, got a data type, a storage class or a quantization scheme",
        ),
        (
            &plain,
            "expected a quantization scheme, its scales and its zero points",
        ),
        (
            &recursive,
            "expected a quantization scheme, its scales and its zero points",
        ),
        (
            b"K\x01Q.",
            "expected the id of a storage or tensor that this pickle may refer to, got an int",
        ),
        (&negative, "got another value as the shape"),
        (b".", "expected a value on the stack, got none"),
        (b"K\x01(.", "expected a value on the stack, got none"),
        (b"t.", "expected a mark on the stack"),
        (
            b"h\x00.",
            "expected the index of a value in the memo, got 0",
        ),
        (b"K\x01K\x02a.", "expected a list to append to, got an int"),
        (b"}(K\x01u.", "expected a dictionary and pairs"),
        (
            b"X\xff\xff\xff\xff.",
            "bytes of a text must be at most 1048576, got 4294967295",
        ),
        (
            b"X\x00\x00\x10\x00.",
            "expected 1048576 more bytes at offset 5, got 1",
        ),
        (
            b"\x8e\xff\xff\xff\xff\xff\xff\xff\xff.",
            "expected 18446744073709551615 more bytes",
        ),
        (b"\x8c\x01\xff.", "expected UTF-8 text, got \\\\xff"),
        (b"cno line feed", "expected a name that ends in a line feed"),
        (b"K\x01", "expected 1 more bytes at offset 2, got 0"),
    ];
    for (pickle, message) in cases {
        let got = run(pickle).unwrap_err();
        assert!(got.contains(message), "{}: {got}", pickle.escape_ascii());
    }
}

#[test]
fn endless_pickles_exceed_a_limit() {
    let limit = |n: u64| n as usize + 2;
    let cases = [
        (vec![b'N'; limit(limits::MAX_STACK)], "values on the stack"),
        (vec![b'('; limit(limits::MAX_MARKS)], "open collections"),
        (b"N0".repeat(limit(limits::MAX_OPS)), "operations"),
        (
            b"N\x940".repeat(limit(limits::MAX_MEMO)),
            "values in the memo",
        ),
    ];
    for (pickle, what) in cases {
        let got = run(&pickle).unwrap_err();
        assert!(got.contains(what), "{got}");
    }
}

#[test]
fn deep_nesting_and_cycles_are_dropped_without_recursion() {
    let mut deep = b"N".to_vec();
    deep.extend(b"\x85".repeat(1_000_000));
    deep.push(b'.');
    assert_eq!(run(&deep).as_deref(), Ok("(a tuple)"));
    // A list that contains itself.
    assert_eq!(run(b"]q\x00h\x00a.").as_deref(), Ok("[a list]"));
}
