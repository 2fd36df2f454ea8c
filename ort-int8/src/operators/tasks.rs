//! Division of an operator's output into tasks, which the session's threads run in parallel.

use std::sync::Mutex;

use ort::operator::ComputeContext;

use super::{guarded, lock};

/// Minimum number of output elements per task: computing fewer elements is not worth waking a
/// thread.
const MIN_TASK: usize = 32 * 1024;

/// Sizes that determine how one image's output is divided into tasks: each task computes `len`
/// elements, the last one possibly fewer. `len` is a multiple of `unit`, the number of elements of
/// a row or pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TaskSize {
    unit: usize,
    pub(super) len: usize,
}

/// A task: one part of an image's output, which one thread computes.
pub(super) struct Task<'a, T> {
    /// All elements of the input image.
    pub(super) image: &'a [T],
    /// Index, in the image's output, of the first unit (row or pixel) that the task computes.
    pub(super) first_unit: usize,
    /// The elements of the output that the task writes.
    pub(super) output: &'a mut [u8],
}

impl TaskSize {
    /// Divides `length` output elements among up to `threads` tasks. Each task computes whole units
    /// of `unit` elements.
    pub(super) fn new(length: usize, unit: usize, threads: usize) -> Self {
        Self::for_work(length, length, unit, threads)
    }

    /// Divides `length` output elements like [`TaskSize::new`], if they take as long as `work`
    /// elements of an operator that multiplies each of its elements a few times.
    pub(super) fn for_work(work: usize, length: usize, unit: usize, threads: usize) -> Self {
        let tasks = threads.min(work / MIN_TASK).max(1);
        let unit = unit.max(1);
        let len = length.div_ceil(tasks).next_multiple_of(unit).max(unit);
        Self { unit, len }
    }

    /// Returns the tasks of a batch of images. `inputs` yields the elements of one input image at a
    /// time, and `outputs` the elements of its output.
    pub(super) fn tasks<'a, T>(
        self,
        inputs: std::slice::Chunks<'a, T>,
        outputs: std::slice::ChunksMut<'a, u8>,
    ) -> impl Iterator<Item = Task<'a, T>> {
        let units = self.len / self.unit;
        inputs.zip(outputs).flat_map(move |(image, output)| {
            let parts = output.chunks_mut(self.len).enumerate();
            parts.map(move |(index, output)| Task {
                image,
                first_unit: index * units,
                output,
            })
        })
    }
}

/// Calls `work` with every task on the session's threads and waits for all of them.
///
/// # Errors
/// Fails with the error of one of the failed tasks; a panic in a task counts as an error.
pub(super) fn run_parallel<T: Send>(
    context: &ComputeContext,
    tasks: impl IntoIterator<Item = T>,
    work: impl Fn(&mut T) -> ort::Result<()> + Sync + Send,
) -> ort::Result<()> {
    let mut tasks: Vec<_> = tasks.into_iter().collect();
    if let [task] = tasks.as_mut_slice() {
        return work(task);
    }
    let tasks: Vec<_> = tasks.into_iter().map(Mutex::new).collect();
    let failed = Mutex::new(None);
    context.par_for(tasks.len(), tasks.len(), |index| {
        // Each task is run by one thread only, so its lock is always free.
        let done = guarded(|| work(&mut lock(&tasks[index])));
        if let Err(error) = done {
            *lock(&failed) = Some(error);
        }
    })?;
    let failed = lock(&failed).take();
    failed.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_whole_units_for_every_thread() {
        struct Case {
            length: usize,
            unit: usize,
            threads: usize,
            expected: usize,
        }
        let case = |length, unit, threads, expected| Case {
            length,
            unit,
            threads,
            expected,
        };
        let cases = [
            case(1_000_000, 1000, 4, 250_000),
            case(1_000_000, 300_000, 4, 300_000),
            case(1000, 10, 4, 1000),
            case(100_000, 7, 8, 33_334),
            case(0, 0, 2, 1),
        ];
        for case in cases {
            let size = TaskSize::new(case.length, case.unit, case.threads);
            assert_eq!(
                size.len, case.expected,
                "{} elements, unit {}",
                case.length, case.unit
            );
        }
    }

    #[test]
    fn tasks_count_units_within_their_image() {
        let (input, mut output) = ([1_u8, 2], [0_u8; 12]);
        let size = TaskSize { unit: 2, len: 4 };
        let tasks = size.tasks(input.chunks(1), output.chunks_mut(6));
        let tasks = tasks.map(|task| (task.image[0], task.first_unit, task.output.len()));
        let expected = [(1, 0, 4), (1, 2, 2), (2, 0, 4), (2, 2, 2)];
        assert_eq!(tasks.collect::<Vec<_>>(), expected);
    }
}
