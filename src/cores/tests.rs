use super::*;

fn cores(total: usize, performance: Performance, images: usize) -> Arc<Cores> {
    Arc::new(Cores::new(total, performance, move || images))
}

#[test]
fn a_run_takes_the_cores_that_the_others_leave() {
    use Performance::{Auto, Latency, Throughput};
    let cases = [
        // Performance, cores, runs of one thread, threads on images, most threads.
        (Auto, 2, 0, 0, 2),
        (Auto, 2, 1, 0, 1),
        (Auto, 2, 0, 1, 1),
        (Auto, 16, 0, 0, 16),
        (Auto, 16, 1, 1, 7),
        (Auto, 16, 20, 0, 1),
        (Latency, 2, 0, 2, 2),
        (Latency, 2, 1, 0, 1),
        (Latency, 16, 6, 4, 10),
        (Throughput, 16, 0, 0, 1),
        (Auto, 0, 0, 0, 1),
    ];
    for (performance, total, running, images, expected) in cases {
        let cores = cores(total, performance, images);
        let _others: Vec<Lease> = (0..running).map(|_| cores.begin(1)).collect();
        let most = cores.begin(1).most();
        assert_eq!(
            most, expected,
            "{performance:?}, {total}: {running} + {images}"
        );
    }
}

#[test]
fn a_lease_returns_what_it_took() {
    let cores = cores(4, Performance::Auto, 0);
    let mut wide = cores.begin(1);
    wide.widen(4);
    assert_eq!(wide.threads(), 4);
    assert!(wide.is_undisturbed());
    let narrow = cores.begin(1);
    assert_eq!(narrow.most(), 1);
    assert!(!wide.is_undisturbed() && !narrow.is_undisturbed());
    drop(narrow);
    assert!(wide.is_undisturbed());
    drop(wide);
    assert_eq!(cores.begin(1).most(), 4);
}

#[test]
fn widths_are_parts_of_the_machine_above_the_own_threads() {
    let widths = |total, threads| cores(total, Performance::Auto, 0).widths(threads);
    assert_eq!(widths(1, 1), [] as [usize; 0]);
    assert_eq!(widths(2, 1), [2]);
    assert_eq!(widths(6, 1), [3, 6]);
    assert_eq!(widths(64, 8), [16, 32, 64]);
    assert_eq!(widths(4, 4), [] as [usize; 0]);
    let none = cores(8, Performance::Throughput, 0).widths(1);
    assert_eq!(none, [] as [usize; 0]);
}
