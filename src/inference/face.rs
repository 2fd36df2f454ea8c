//! The names under which a served variant is found, and the face that each name stands for.

use std::sync::Arc;

use crate::error::ServeError;
use crate::parameters::cut;
use crate::registry::{Entry, Snapshot};

/// The only version of every model.
pub const VERSION: &str = "1";

/// End of the model's part of a name that stands for the image face.
const IMAGE: &str = "_image";

/// What a model's name stands for. Requests to either name may send either input, which decides what their default
/// outputs are; metadata and configurations list one input only, because most clients require that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Face {
    /// The input `input`, `[N, 3, H, W] f32` as the network reads it, and the network's own outputs.
    Tensor,
    /// The input `image`, `[N]` or `[N, 1]` encoded images, and the results of the model's task.
    Image,
}

impl Face {
    /// Both faces.
    pub(super) const ALL: [Self; 2] = [Self::Tensor, Self::Image];

    /// Returns the name of the face's only input.
    pub fn input(self) -> &'static str {
        match self {
            Self::Tensor => "input",
            Self::Image => "image",
        }
    }
}

/// A served variant, and the face that the client has named.
#[derive(Clone)]
pub struct Target {
    /// The variant.
    pub entry: Arc<Entry>,
    /// The face.
    pub face: Face,
    /// The name that the client has used.
    pub name: String,
}

impl Target {
    /// Returns the served variant that `name` stands for: `MODEL` or `MODEL@VARIANT` for its tensor face, `MODEL_image` or
    /// `MODEL_image@VARIANT` for its image face. A served model whose own name ends in `_image` has precedence.
    /// `version` is the version that the client states; `None` or an empty text stands for the latest.
    ///
    /// # Errors
    /// [`ServeError::UnknownModel`] if no served model has the name, [`ServeError::UnknownVersion`] if `version` is not
    /// [`VERSION`].
    pub fn find(
        snapshot: &Snapshot,
        name: &str,
        version: Option<&str>,
    ) -> Result<Self, ServeError> {
        let (entry, face) = match snapshot.named(name) {
            Ok(entry) => (entry, Face::Tensor),
            Err(unknown) => {
                let base = without_suffix(name);
                let entry = base.and_then(|base| snapshot.named(&base).ok());
                (entry.ok_or(unknown)?, Face::Image)
            }
        };
        let target = Self {
            entry: Arc::clone(entry),
            face,
            name: name.to_owned(),
        };
        match version {
            None | Some("" | VERSION) => Ok(target),
            Some(version) => Err(ServeError::UnknownVersion {
                model: entry.id(),
                version: cut(version),
            }),
        }
    }

    /// Returns every name that [`Target::find`] finds and that lists of models show, in the order of the configuration.
    /// The first variant of a model is shown without its own name.
    pub(super) fn all(snapshot: &Snapshot) -> Vec<Self> {
        let targets = snapshot.entries().iter().flat_map(|entry| {
            let first = snapshot.named(entry.name());
            let first = first.is_ok_and(|first| Arc::ptr_eq(first, entry));
            Face::ALL.map(|face| Self {
                entry: Arc::clone(entry),
                face,
                name: name_of(entry, face, first),
            })
        });
        // A model whose own name ends in `_image` hides the face of another one.
        let visible = targets.filter(|target| {
            let found = Self::find(snapshot, &target.name, None);
            found.is_ok_and(|found| {
                found.face == target.face && Arc::ptr_eq(&found.entry, &target.entry)
            })
        });
        visible.collect()
    }
}

/// Returns the name of the model or variant that the name of a face belongs to: `name` itself, or the name without
/// `_image` if only that is served.
pub fn base_name(snapshot: &Snapshot, name: &str) -> String {
    let base = without_suffix(name).filter(|base| snapshot.named(base).is_ok());
    match (snapshot.named(name), base) {
        (Err(_), Some(base)) => base,
        _ => name.to_owned(),
    }
}

/// Returns `name` without the end that stands for the image face. `None` if it does not have this end.
fn without_suffix(name: &str) -> Option<String> {
    match name.split_once('@') {
        Some((model, variant)) => {
            let model = model.strip_suffix(IMAGE)?;
            Some(format!("{model}@{variant}"))
        }
        None => name.strip_suffix(IMAGE).map(str::to_owned),
    }
}

/// Returns the name that lists show for `face` of `entry`, which is the `first` variant of its model or another one.
fn name_of(entry: &Entry, face: Face, first: bool) -> String {
    let mut name = entry.name().to_owned();
    if face == Face::Image {
        name.push_str(IMAGE);
    }
    if !first {
        name.push('@');
        name.push_str(&entry.source().variant);
    }
    name
}
