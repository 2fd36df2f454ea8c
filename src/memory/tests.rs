use super::*;

const MIB: u64 = 1 << 20;

/// Returns the demand of the tensors of `models` models, each with inputs of 1.5 megapixels.
fn tensors(models: u64) -> Demand {
    let model = Demand::new(19 * MIB, 38 * MIB, TENSOR_BYTES_PER_MODEL);
    Demand::sum((0..models).map(|_| model))
}

fn demands(threads: usize, models: u64) -> Demands {
    Demands::new(&Limits::default(), threads, tensors(models))
}

#[test]
fn the_parts_add_up_to_at_most_the_budget() {
    for limit in [512, 640, 768, 1000, 1024, 2048, 3000, 4096, 16_384, 262_144] {
        for (threads, models) in [(1, 1), (1, 2), (2, 2), (4, 1), (8, 3), (64, 12)] {
            let case = format!("{limit} MiB, {threads} threads, {models} models");
            let demands = demands(threads, models);
            let budget = default_budget(limit * MIB);
            let plan = match MemoryPlan::new(budget, &demands, PartSizes::default()) {
                Ok(plan) => plan,
                Err(MemoryPlanError::Budget { needed, .. }) => {
                    assert!(needed > budget && limit < 1024, "{case}");
                    continue;
                }
                Err(error) => panic!("{case}: {error}"),
            };
            assert!(plan.total() <= budget, "{case}");
            assert!(plan.total() <= limit * MIB * 60 / 100, "{case}");
            let parts = [
                (plan.bodies, demands.bodies),
                (plan.small_pixels, demands.small_pixels),
                (plan.large_pixels, demands.large_pixels),
                (plan.tensors, demands.tensors),
                (plan.responses, demands.responses),
            ];
            for (size, demand) in parts {
                assert!(size >= demand.floor, "{case}: {size} {demand:?}");
                assert!(size.is_multiple_of(UNIT), "{case}");
            }
        }
    }
}

#[test]
fn a_large_machine_gets_the_sizes_that_it_wants() {
    let demands = demands(8, 2);
    let plan = MemoryPlan::new(64 << 30, &demands, PartSizes::default()).unwrap();
    assert_eq!(plan, MemoryPlan::unlimited(&demands));
    assert_eq!(plan.bodies, BODY_BYTES);
    assert_eq!(plan.tensors, 2 * TENSOR_BYTES_PER_MODEL);
    // Eight progressive JPEG files of 12 megapixels, one per thread, can be decoded while eight
    // images of 4 megapixels hold memory; each takes 17 bytes per pixel.
    assert!(plan.large_pixels >= 8 * 17 * 12_000_000);
    assert!(plan.small_pixels >= 8 * 17 * 4_000_000);
}

#[test]
fn a_container_of_one_gibibyte_decodes_the_largest_usual_image() {
    let budget = default_budget(1 << 30);
    let plan = MemoryPlan::new(budget, &demands(2, 2), PartSizes::default()).unwrap();
    assert!(plan.large_pixels >= 50_000_000 * 71 / 10);
    assert!(plan.responses >= 3 * 25_000_000);
}

#[test]
fn parts_that_are_set_keep_their_size() {
    let set = PartSizes {
        bodies: Some(100 * MIB),
        pixels: Some(2048 * MIB),
        ..PartSizes::default()
    };
    let demands = demands(1, 1);
    let plan = MemoryPlan::new(2600 * MIB, &demands, set).unwrap();
    assert_eq!((plan.bodies, plan.pixels()), (100 * MIB, 2048 * MIB));
    assert!(plan.total() <= 2600 * MIB);
    // Small images have their maximum, so the remainder of the fixed size is for large images.
    assert_eq!(plan.small_pixels, demands.small_pixels.want);
}

#[test]
fn small_limits_need_small_budgets() {
    let limits = Limits {
        max_body_bytes: MIB as usize,
        max_pixels: 1_000_000,
        ..Limits::default()
    };
    let demands = Demands::new(&limits, 4, Demand::fixed(MIB));
    let plan = MemoryPlan::new(24 * MIB, &demands, PartSizes::default()).unwrap();
    assert_eq!(plan.large_pixels, 0);
    assert!(plan.bodies >= MIB);
    assert!(plan.total() <= 24 * MIB);
    let set = PartSizes {
        pixels: Some(200 * MIB),
        ..PartSizes::default()
    };
    let plan = MemoryPlan::new(224 * MIB, &demands, set).unwrap();
    assert_eq!((plan.small_pixels, plan.large_pixels), (200 * MIB, 0));
}

#[test]
fn errors_name_the_smallest_size_that_works() {
    let demands = demands(1, 1);
    let error = MemoryPlan::new(100 * MIB, &demands, PartSizes::default()).unwrap_err();
    let MemoryPlanError::Budget { needed, floors, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(floors.iter().sum::<u64>(), *needed);
    let message = error.to_string();
    for text in [
        &*needed.to_string(),
        "`memory_budget`",
        "`max_pixels`",
        "`max_body_bytes`",
    ] {
        assert!(message.contains(text), "{message}");
    }
    assert!(MemoryPlan::new(*needed, &demands, PartSizes::default()).is_ok());
    let bodies = |bytes| PartSizes {
        bodies: Some(bytes),
        ..PartSizes::default()
    };
    let error = MemoryPlan::new(1 << 40, &demands, bodies(1000)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`body_memory_bytes`: expected at least 33554432 with the other settings, got 1000"
    );
    let error = MemoryPlan::new(100 * MIB, &demands, bodies(200 * MIB)).unwrap_err();
    assert!(matches!(error, MemoryPlanError::Budget { .. }), "{error}");
}
