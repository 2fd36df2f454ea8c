use std::path::Path;

use super::*;
use crate::manifest::Precision;

#[test]
fn a_flag_wins_over_the_file() {
    let flags = Settings {
        max_images: Some(2),
        ..Settings::default()
    };
    let file = "memory_budget = \"1GiB\"\nbody_memory_bytes = 77\nmax_images = 4\nmax_pixels = 9\nmodel = [\"a\"]\nprecision = \"int8\"";
    let config = flags
        .over(file, Path::new("test"))
        .unwrap()
        .resolve()
        .unwrap();
    assert_eq!(config.models, ["a".parse().unwrap()]);
    assert_eq!(config.precision.preferred(), Precision::Int8);
    assert_eq!((config.limits.max_images, config.limits.max_pixels), (2, 9));
    assert_eq!(config.max_connections, 1024);
    let memory = (config.memory_budget, config.parts.bodies);
    assert_eq!(memory, (Some(1 << 30), Some(77)));
}

#[test]
fn bad_values_name_their_setting() {
    let cases = [
        ("max_images = 0", "`max_images`: expected 1 to 1024, got 0"),
        (
            "memory_budget = 0",
            "`memory_budget`: expected 1 to 1099511627776, got 0",
        ),
        (
            "tensor_memory_bytes = \"2TiB\"",
            "`tensor_memory_bytes`: expected 1 to 1099511627776, got 2199023255552",
        ),
        ("threads = 100000", "`threads`: expected 1 to 1024"),
    ];
    for (text, expected) in cases {
        let settings: Settings = toml::from_str(text).unwrap();
        let message = settings.resolve().unwrap_err().to_string();
        assert!(message.starts_with(expected), "{message}");
    }
    assert!(toml::from_str::<Settings>("max_imagse = 1").is_err());
    assert!(toml::from_str::<Settings>("precision = \"int4\"").is_err());
    assert!(toml::from_str::<Settings>("memory_budget = \"1GB\"").is_err());
}
