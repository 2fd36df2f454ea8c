//! Which checkpoints to pull: the names on the command line, looked up in the catalogue.

use anyhow::{Result, bail};
use clap::ValueEnum;
use onnx_export::text::cut;
use sightline::catalogue;
use sightline::manifest::{ModelManifest, Task, WeightsFile};
use sightline::nearest::{did_you_mean, nearest};
use sightline::store::{FP32, INT8, ModelRef};

/// Number of bytes of a parameter in an official checkpoint, with a quarter more for the values that are not
/// parameters.
const BYTES_PER_PARAMETER: u64 = 5;
/// Size of the rest of a checkpoint at most: names, shapes and the container.
const OVERHEAD: u64 = 8 << 20;

/// A task, as the flag `--all` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum TaskName {
    Classification,
    Detection,
    Segmentation,
}

impl TaskName {
    fn task(self) -> Task {
        match self {
            Self::Classification => Task::Classification,
            Self::Detection => Task::Detection,
            Self::Segmentation => Task::Segmentation,
        }
    }
}

/// A network of the catalogue, and which of its checkpoints is pulled.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) name: String,
    /// `None` if the network is built in and needs no checkpoint.
    pub(super) checkpoint: Option<Checkpoint>,
    /// Whether the model is quantized to int8, too.
    pub(super) int8: bool,
}

/// A published checkpoint with a URL.
#[derive(Debug)]
pub(super) struct Checkpoint {
    pub(super) url: String,
    pub(super) weights: WeightsFile,
}

impl Checkpoint {
    /// Returns the maximum size of the file in bytes.
    pub(super) fn max_bytes(&self) -> u64 {
        let parameters = self.weights.parameters;
        parameters
            .saturating_mul(BYTES_PER_PARAMETER)
            .saturating_add(OVERHEAD)
    }
}

impl Wanted {
    /// Looks the network that `reference` names up in the catalogue. `version` is the name of one of its checkpoints;
    /// `None` stands for the newest one.
    ///
    /// # Errors
    /// If the catalogue has no such network, variant or checkpoint.
    pub(super) fn find(reference: &ModelRef, version: Option<&str>) -> Result<Self> {
        let name = cut(&reference.name, 64);
        let Some(manifest) = catalogue::manifest(&reference.name)? else {
            let meant = did_you_mean(nearest(name, catalogue::names()));
            bail!(
                "the catalogue has no network `{name}`{meant}; `sightline models` lists the networks"
            );
        };
        let int8 = match reference.variant.as_deref() {
            None | Some(FP32) => false,
            Some(INT8) => true,
            // Variants of the catalogue exist as soon as the model is exported.
            Some(other) if manifest.variants.contains_key(other) => false,
            Some(other) => {
                let other = cut(other, 64);
                bail!("`{name}` has no variant `{other}`: expected {name} or {name}@{INT8}");
            }
        };
        let built_in = manifest
            .weights
            .iter()
            .any(|weights| weights.file.is_some());
        let checkpoint = if built_in {
            None
        } else {
            Some(choose(&manifest, version)?)
        };
        Ok(Self {
            name: manifest.name,
            checkpoint,
            int8,
        })
    }

    /// Returns all networks of a task that have an official checkpoint.
    pub(super) fn all(task: TaskName) -> Result<Vec<Self>> {
        let mut wanted = Vec::new();
        for manifest in catalogue::manifests()? {
            let has_url = manifest.weights.iter().any(|weights| weights.url.is_some());
            if manifest.task == task.task() && has_url {
                let checkpoint = Some(choose(&manifest, None)?);
                wanted.push(Self {
                    name: manifest.name,
                    checkpoint,
                    int8: false,
                });
            }
        }
        Ok(wanted)
    }
}

/// Returns the checkpoint `version` of `manifest`, or the newest one.
fn choose(manifest: &ModelManifest, version: Option<&str>) -> Result<Checkpoint> {
    let published = manifest.weights.iter().rev();
    let published = published.filter_map(|weights| {
        let url = weights.url.clone()?;
        Some(Checkpoint {
            url,
            weights: weights.clone(),
        })
    });
    let mut published: Vec<Checkpoint> = published.collect();
    if published.is_empty() {
        bail!(
            "`{0}` has no official checkpoint: `sightline export {0} --weights FILE` converts your own",
            manifest.name
        );
    }
    let names: Vec<String> = published
        .iter()
        .map(|one| one.weights.name.clone())
        .collect();
    let index = match version {
        None => Some(0),
        Some(version) => names.iter().position(|name| name == version),
    };
    match index {
        Some(index) => Ok(published.swap_remove(index)),
        None => bail!(
            "`{}` has no checkpoint `{}`: expected {}",
            manifest.name,
            cut(version.unwrap_or_default(), 64),
            names.join(" or ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(name: &str, version: Option<&str>) -> Result<Wanted> {
        Wanted::find(&name.parse().unwrap(), version)
    }

    #[test]
    fn the_newest_checkpoint_is_pulled_unless_another_is_named() {
        let name = |wanted: Wanted| wanted.checkpoint.unwrap().weights.name;
        assert_eq!(name(find("resnet50", None).unwrap()), "IMAGENET1K_V2");
        let first = find("resnet50", Some("IMAGENET1K_V1")).unwrap();
        assert_eq!(name(first), "IMAGENET1K_V1");
        assert!(find("resnet50@int8", None).unwrap().int8);
        assert!(!find("lraspp_mobilenet_v3_large@320", None).unwrap().int8);
        assert!(
            find("efficientnet_lite0", None)
                .unwrap()
                .checkpoint
                .is_none()
        );
    }

    #[test]
    fn unknown_names_are_errors_that_say_what_to_do() {
        for (name, version, expected) in [
            ("resnet51", None, "did you mean `resnet50`"),
            ("resnet50@int4", None, "resnet50@int8"),
            ("resnet50", Some("V3"), "IMAGENET1K_V2 or IMAGENET1K_V1"),
            ("fcn_mobilenet_v3_large", None, "sightline export"),
        ] {
            let error = find(name, version).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn every_official_checkpoint_fits_its_limit() {
        for task in [
            TaskName::Classification,
            TaskName::Detection,
            TaskName::Segmentation,
        ] {
            for wanted in Wanted::all(task).unwrap() {
                let checkpoint = wanted.checkpoint.unwrap();
                // fp32 weights, and up to a tenth for the statistics of batch norm.
                let size = checkpoint.weights.parameters * 44 / 10;
                assert!(size < checkpoint.max_bytes(), "{}", wanted.name);
                assert_eq!(checkpoint.weights.sha256_prefix.len(), 8, "{}", wanted.name);
            }
        }
    }
}
