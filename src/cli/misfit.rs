//! Errors of checkpoints that do not fit the network to export: what the checkpoint is instead, and how
//! to export it.

use std::path::Path;

use onnx_export::BuildError;
use onnx_export::architecture::{Architecture, Head};
use onnx_export::fit::{self, AlmostFits};
use onnx_export::graph::StateDictError;
use onnx_export::qat::Layout;
use onnx_export::text::shown;
use onnx_export::weights::StateDict;
use sightline::catalogue;
use sightline::manifest::ModelManifest;

/// Start of the names of a backbone's tensors in segmentation networks and detectors.
const BACKBONE: &str = "backbone.";

/// An export that failed because the checkpoint does not fit.
pub(super) struct Attempt<'a> {
    /// Name of the network in the catalogue.
    pub(super) name: &'a str,
    pub(super) weights: &'a Path,
    pub(super) out: &'a Path,
    pub(super) architecture: &'a Architecture,
    pub(super) state: &'a StateDict,
    /// Whether the number of classes is the number of lines in the file of `--labels`.
    pub(super) by_labels: bool,
}

/// A network of the catalogue whose tensors have the names of the checkpoint's.
struct Sibling {
    name: String,
    /// Whether the shapes are also those of the checkpoint.
    fits: bool,
    /// Number of classes of the checkpoint, if it is not the catalogue's.
    classes: Option<usize>,
}

impl Attempt<'_> {
    /// Returns the context of the error: the network and the checkpoint.
    pub(super) fn what(&self) -> String {
        format!("cannot build {} from {}", self.name, self.weights.display())
    }

    /// Adds the names of the network and the checkpoint to an error of the builder, and how to
    /// correct it. An error with a remedy does not list the tensors.
    pub(super) fn explain(&self, error: BuildError) -> anyhow::Error {
        let what = self.what();
        let BuildError::StateDict(found) = &error else {
            return anyhow::Error::new(error).context(what);
        };
        if let Some(classes) = found.num_classes_hint(self.architecture.num_classes) {
            let hint = if self.by_labels {
                format!(
                    ": the checkpoint has {classes} classes, so the file of `--labels` must have {classes} lines"
                )
            } else {
                format!(" (try --num-classes {classes})")
            };
            return anyhow::Error::new(error).context(format!("{what}{hint}"));
        }
        if found.has_all_names() || Layout::of(self.state).is_some() {
            return anyhow::Error::new(error).context(what);
        }
        let siblings = self.siblings();
        let remedy = self.remedy().or_else(|| self.sibling_remedy(&siblings));
        if let Some(remedy) = remedy {
            return anyhow::anyhow!("{what}: {remedy}");
        }
        let named = siblings.first().map_or_else(String::new, |sibling| {
            format!(
                " (the tensors have the names of {}, but other shapes)",
                sibling.name
            )
        });
        anyhow::Error::new(error).context(format!("{what}{named}"))
    }

    /// Returns why the checkpoint almost fits the network, and how to save it so that it fits.
    fn remedy(&self) -> Option<String> {
        Some(match fit::almost(self.state, self.architecture).ok()?? {
            AlmostFits::Others { prefix, other } => {
                let (prefix, other) = (shown(&prefix), shown(&other));
                format!(
                    "the tensors named `{prefix}...` fit, but others such as `{other}` are not part of the network; \
                     save the former alone in Python: torch.save({{k.removeprefix(\"{prefix}\"): v for k, v in \
                     model.state_dict().items() if k.startswith(\"{prefix}\")}}, \"weights.pth\")"
                )
            }
            AlmostFits::Nested { module, expected } => {
                let (module, expected) = (shown(&module), shown(&expected));
                format!(
                    "`{expected}` is named `{module}`, so it is part of a Sequential in the checkpoint; if the other \
                     modules of the Sequential do nothing in inference, as Dropout, rename the tensors in Python: \
                     torch.save({{k.replace(\"{module}.\", \"{expected}.\"): v for k, v in \
                     model.state_dict().items()}}, \"weights.pth\")"
                )
            }
        })
    }

    /// Returns the other networks of the catalogue whose tensors have the names of the checkpoint's,
    /// those with the same shapes first.
    fn siblings(&self) -> Vec<Sibling> {
        let has_backbone = self.state.names().any(|name| name.starts_with(BACKBONE));
        let manifests = catalogue::manifests().unwrap_or_default();
        let found = manifests
            .iter()
            .filter(|manifest| manifest.name != self.name);
        let mut found: Vec<Sibling> = found
            .filter_map(|manifest| self.sibling(manifest, has_backbone))
            .collect();
        found.sort_by_key(|sibling| !sibling.fits);
        found
    }

    fn sibling(&self, manifest: &ModelManifest, has_backbone: bool) -> Option<Sibling> {
        let mut architecture = manifest.architecture.clone()?;
        // This check saves the walk over most networks.
        if has_backbone == matches!(architecture.head, Head::Classifier) {
            return None;
        }
        let found = fit::differences(self.state, &architecture).ok()?;
        if !found.has_all_names() {
            return None;
        }
        let classes = found.num_classes_hint(architecture.num_classes);
        let mut fits = found == StateDictError::default();
        if let Some(classes) = classes {
            architecture.num_classes = classes;
            fits = fit::differences(self.state, &architecture).ok()? == StateDictError::default();
        }
        Some(Sibling {
            name: manifest.name.clone(),
            fits,
            classes: classes.filter(|_| fits),
        })
    }

    /// Returns which other networks the checkpoint fits, and the command that exports the first.
    fn sibling_remedy(&self, siblings: &[Sibling]) -> Option<String> {
        let fitting: Vec<&Sibling> = siblings.iter().filter(|sibling| sibling.fits).collect();
        let Sibling { name, classes, .. } = fitting.first()?;
        let names: Vec<&str> = fitting
            .iter()
            .map(|sibling| sibling.name.as_str())
            .collect();
        let classes = classes.map_or_else(String::new, |n| format!(" --num-classes {n}"));
        let (weights, out) = (self.weights.display(), self.out.display());
        Some(format!(
            "these weights fit {}: sightline export {name} --weights {weights}{classes} -o {out}",
            names.join(" and ")
        ))
    }
}
