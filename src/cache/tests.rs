use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use onnx_export::{DetachedFile, Role, Stages, WeightTensor};
use tempfile::TempDir;

use super::*;
use crate::engine::{OnnxRuntime, OptimizedGraph, find_library};

const KEY: [u8; 32] = [7; 32];

fn stages() -> Stages<OptimizedGraph> {
    let stage = |seed: u8| {
        let weight = |name: &str, shape: Vec<i64>| {
            let count = shape.iter().product::<i64>();
            let data = (0..count)
                .map(|index| index as f32 + f32::from(seed))
                .collect();
            let name = name.to_owned();
            WeightTensor { name, shape, data }
        };
        let weights = vec![
            weight("a", vec![2, 3]),
            weight("b", vec![0, 5]),
            weight("c", vec![7]),
        ];
        OptimizedGraph {
            file: DetachedFile {
                graph: vec![seed; 40],
                weights,
            },
            fixed_batch: (seed > 1).then_some(1),
            own_operators: usize::from(seed),
            has_embedding: seed % 2 == 1,
        }
    };
    Stages::new(stage(1)).with(Role::BoxHead, stage(2))
}

fn networks() -> Networks {
    let runtime = OnnxRuntime::load(&find_library(None).unwrap()).unwrap();
    // Faster R-CNN's stages are checked against a detector, so only the first is joined here.
    let first = Stages::new(stages().network().clone());
    Networks::prepare_optimized(first, None, &runtime).unwrap()
}

/// Returns a folder with an entry, the path of the entry, and its content.
fn entry() -> (TempDir, PathBuf, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let key = Key::of(KEY);
    store(folder.path(), &key, &networks(), 42).unwrap();
    let path = folder.path().join(file_name(&key));
    let content = fs::read(&path).unwrap();
    (folder, path, content)
}

fn load_from(folder: &Path) -> Result<Stored, CacheError> {
    let key = Key::of(KEY);
    load(folder, &file_name(&key), &key).map(|(stored, _)| stored)
}

#[test]
fn an_entry_is_read_as_it_was_written() {
    let (folder, path, _) = entry();
    let stored = load_from(folder.path()).unwrap();
    assert_eq!(stored.stages.network(), stages().network());
    assert_eq!(stored.worker_bytes, 42);
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let cache = Cache::new(Some(folder.path().to_path_buf()));
    assert_eq!(cache.get(&Key::of(KEY), "model"), Some(stored));
    assert_eq!(cache.get(&Key::of([8; 32]), "model"), None);
    assert_eq!(Cache::off().get(&Key::of(KEY), "model"), None);
}

#[test]
fn damaged_entries_are_rejected_wherever_a_bit_is_flipped() {
    let (folder, path, content) = entry();
    for index in 0..content.len() {
        let mut damaged = content.clone();
        damaged[index] ^= 1 << (index % 8);
        fs::write(&path, &damaged).unwrap();
        assert!(load_from(folder.path()).is_err(), "byte {index}");
    }
    for length in 0..content.len() {
        fs::write(&path, &content[..length]).unwrap();
        assert!(load_from(folder.path()).is_err(), "length {length}");
    }
    fs::write(&path, [&content[..], b"x"].concat()).unwrap();
    assert!(load_from(folder.path()).is_err());
    // An entry with the name of another one.
    fs::write(&path, &content).unwrap();
    let other = Key::of([8; 32]);
    fs::rename(&path, folder.path().join(file_name(&other))).unwrap();
    let error = load(folder.path(), &file_name(&other), &other)
        .err()
        .unwrap();
    assert!(matches!(error, CacheError::Damaged("head")), "{error}");
}

#[test]
fn sizes_beyond_the_file_are_rejected_before_memory_is_allocated() {
    let stage = |graph: u64, shape: &str| {
        format!(
            r#"{{"stages":[{{"role":"network","graph_bytes":{graph},"weights":[["w",{shape}]],"fixed_batch":null,"own_operators":0,"has_embedding":false}}],"worker_bytes":0}}"#
        )
    };
    let cases = [
        stage(1 << 60, "[1]"),
        stage(1, "[1152921504606846976]"),
        stage(1, "[4611686018427387904, 4]"),
        stage(u64::MAX, "[1]"),
        stage(1, "[-1]"),
        r#"{"stages":[],"worker_bytes":0}"#.to_owned(),
    ];
    for head in cases {
        let mut bytes = u32::try_from(head.len()).unwrap().to_le_bytes().to_vec();
        bytes.extend(head.as_bytes());
        bytes.extend([0; 64]);
        let error = read(&mut &bytes[..], bytes.len() as u64).unwrap_err();
        assert!(matches!(error, StoredError::Size), "{head}: {error}");
    }
    let error = read(&mut &[0xFF; 8][..], 8).unwrap_err();
    assert!(matches!(error, StoredError::Size), "{error}");
}

#[test]
fn files_that_others_could_have_written_are_ignored() {
    let (folder, path, content) = entry();
    let set = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    for mode in [0o777, 0o770, 0o702] {
        set(folder.path(), mode);
        let error = load_from(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains(&format!("folder has mode {mode:o}")),
            "{error}"
        );
        assert!(store(folder.path(), &Key::of(KEY), &networks(), 0).is_err());
    }
    set(folder.path(), 0o755);
    set(&path, 0o666);
    assert!(
        load_from(folder.path())
            .unwrap_err()
            .to_string()
            .contains("file has mode 666")
    );
    set(&path, 0o444);
    load_from(folder.path()).unwrap();

    let elsewhere = folder.path().join("elsewhere");
    fs::rename(&path, &elsewhere).unwrap();
    symlink(&elsewhere, &path).unwrap();
    assert!(
        load_from(folder.path())
            .unwrap_err()
            .to_string()
            .contains("not a regular file")
    );
    // A new entry replaces the link, and not the file that it leads to.
    store(folder.path(), &Key::of(KEY), &networks(), 1).unwrap();
    assert_eq!(fs::read(&elsewhere).unwrap(), content);
    assert!(path.symlink_metadata().unwrap().is_file());
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(
        load_from(folder.path())
            .unwrap_err()
            .to_string()
            .contains("not a regular file")
    );
    fs::remove_dir(&path).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::RUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &path, fifo, mode, 0).unwrap();
    assert!(
        load_from(folder.path())
            .unwrap_err()
            .to_string()
            .contains("not a regular file")
    );
}

#[test]
fn the_entries_that_were_not_used_for_the_longest_time_are_evicted() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::create(folder.path()).unwrap();
    for (index, name) in ["old", "used", "new"].into_iter().enumerate() {
        let path = folder.path().join(format!("{name}{}", place::SUFFIX));
        fs::write(&path, [0; 100]).unwrap();
        let file = fs::File::options().append(true).open(&path).unwrap();
        let age = Duration::from_secs(1000 - index as u64);
        file.set_modified(SystemTime::now() - age).unwrap();
    }
    fs::write(folder.path().join("other file"), [0; 1000]).unwrap();
    let exists = |name: &str| {
        folder
            .path()
            .join(format!("{name}{}", place::SUFFIX))
            .exists()
    };
    place.touch(format!("used{}", place::SUFFIX).as_ref());
    place.evict(300);
    assert!(exists("old") && exists("used") && exists("new"));
    place.evict(250);
    assert!(!exists("old") && exists("used") && exists("new"));
    place.evict(100);
    assert!(exists("used") && !exists("new"));
    assert!(folder.path().join("other file").exists());
}

#[test]
fn abandoned_files_of_dead_writers_are_removed_and_failed_ones_leave_nothing() {
    let (folder, path, content) = entry();
    let abandoned = folder.path().join(".new-0000000000000000");
    fs::write(&abandoned, b"half").unwrap();
    let young = folder.path().join(".new-0000000000000001");
    fs::write(&young, b"half").unwrap();
    let file = fs::File::options().append(true).open(&abandoned).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_mins(2))
        .unwrap();
    let place = Place::open(folder.path()).unwrap();
    let failed = place.write(path.file_name().unwrap(), |_| {
        Err::<(), _>(CacheError::Io(io::ErrorKind::StorageFull.into()))
    });
    assert!(failed.is_err() && !abandoned.exists() && young.exists());
    assert_eq!(fs::read(&path).unwrap(), content);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn writers_of_one_entry_do_not_disturb_each_other_or_readers() {
    let (folder, ..) = entry();
    let networks = networks();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20 {
                    store(folder.path(), &Key::of(KEY), &networks, 42).unwrap();
                    assert_eq!(load_from(folder.path()).unwrap().worker_bytes, 42);
                }
            });
        }
    });
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}
