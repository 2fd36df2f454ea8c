//! Reads label files from arbitrary bytes. The fuzz target `labels` and the test below call the
//! function.

use super::labels::{MAX_LABEL_BYTES, MAX_LABELS, parse};

/// Maximum number of characters of an error message, which must not copy unlimited input.
const MAX_MESSAGE: usize = 300;

/// Reads `bytes` as a label file. Returns whether the file is valid.
///
/// # Panics
/// If there are too many labels, if a label is too long, has a control character or ends with white
/// space, if the labels together are longer than the file, or if a message is too long or has
/// control characters.
pub fn read_labels(bytes: &[u8]) -> bool {
    match parse(bytes) {
        Ok(labels) => {
            assert!(labels.len() <= MAX_LABELS);
            for label in &labels {
                assert!(label.len() <= MAX_LABEL_BYTES);
                assert!(label.trim_end() == label, "{label:?}");
                let is_control = |c: char| c.is_control() && c != '\t';
                assert!(!label.contains(is_control), "{label:?}");
            }
            let total: usize = labels.iter().map(String::len).sum();
            assert!(total <= bytes.len());
            true
        }
        Err(error) => {
            let message = error.to_string();
            assert!(message.chars().count() <= MAX_MESSAGE, "{message}");
            assert!(!message.contains(char::is_control), "{message:?}");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::read_labels;
    use crate::testing::fuzz::check;

    #[test]
    fn mutated_label_files() {
        check("labels", read_labels);
    }
}
