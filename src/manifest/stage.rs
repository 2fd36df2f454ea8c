//! The ONNX files of a model, one for each stage.

use std::path::{Path, PathBuf};

use onnx_export::{Role, Stage, Stages};
use serde::{Deserialize, Serialize};

/// The ONNX file of one stage of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageFile {
    /// Role of the stage in the model: `network` or `box_head`.
    pub role: Role,
    /// ONNX file in the manifest's folder.
    pub file: PathBuf,
    /// SHA-256 of the file, 64 hexadecimal digits. `None` if the file is not checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

impl StageFile {
    /// Returns the `stages` entries of a manifest for these ONNX files, without their SHA-256.
    pub fn list<P: AsRef<Path>>(files: &Stages<P>) -> Vec<Self> {
        let files = files.iter().map(|stage| Self {
            role: stage.role,
            file: stage.content.as_ref().to_path_buf(),
            sha256: None,
        });
        files.collect()
    }

    /// Returns the stages that a checked manifest lists, or `None` if it lists none.
    pub fn stages(list: &[Self]) -> Option<Stages<&Path>> {
        Stages::from_list(list.iter().map(|stage| Stage {
            role: stage.role,
            content: stage.file.as_path(),
        }))
    }
}

/// Joins roles for an error message, such as `network, box_head`.
pub(super) fn show_roles(roles: impl IntoIterator<Item = Role>) -> String {
    let roles: Vec<&str> = roles.into_iter().map(Role::as_str).collect();
    if roles.is_empty() {
        return "none".to_owned();
    }
    roles.join(", ")
}
