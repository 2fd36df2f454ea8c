//! Which variants of the models are served, and which of them a model's name selects without a
//! variant.

use crate::config::PrecisionChoice;
use crate::cpu::has_int8_dot;
use crate::manifest::{ModelManifest, Precision};
use crate::store::{FP32, INT8, ModelRef, ModelSource, ModelStore, StoreError};

/// Returns the variant that the name of the model selects without a variant. This rule is the same
/// for `serve`, `predict` and `bench`: `--precision` if it is set, else the manifest's `default`,
/// else `fp32`. Only `--precision auto` depends on the CPU.
pub fn default_variant(manifest: &ModelManifest, choice: Option<PrecisionChoice>) -> &str {
    default_variant_on(manifest, choice, has_int8_dot())
}

fn default_variant_on(
    manifest: &ModelManifest,
    choice: Option<PrecisionChoice>,
    has_int8_dot: bool,
) -> &str {
    match choice.map(|choice| choice.preferred(has_int8_dot)) {
        Some(Precision::Int8) if manifest.variants.contains_key(INT8) => INT8,
        Some(_) => FP32,
        None => manifest.default.as_deref().unwrap_or(FP32),
    }
}

/// Finds the model that `reference` names in `store`; [`default_variant`] chooses the variant of a
/// name without one.
///
/// # Errors
/// As [`ModelStore::find`].
pub fn find(
    store: &ModelStore,
    reference: &ModelRef,
    choice: Option<PrecisionChoice>,
) -> Result<ModelSource, StoreError> {
    let source = store.find(reference)?;
    Ok(match reference.variant {
        Some(_) => source,
        None => select(source, choice)?,
    })
}

/// Returns the variant of `model` that [`default_variant`] chooses. Logs a warning if
/// `--precision int8` is set but the model has no int8 variant, or if `--precision` chooses a variant
/// that was made from other weights; the model itself is returned then.
///
/// # Errors
/// [`StoreError::Stale`] if the manifest's `default` was made from other weights.
pub fn select(
    model: ModelSource,
    choice: Option<PrecisionChoice>,
) -> Result<ModelSource, StoreError> {
    warn_without_int8(&model.manifest, choice);
    let variant = usable_default(&model, choice, &model.stale())?.to_owned();
    let reference = ModelRef {
        name: model.manifest.name.clone(),
        variant: Some(variant),
    };
    model.with_variant(&reference)
}

/// Returns the variant that [`default_variant`] chooses, or fp32 with a warning if `--precision`
/// chooses one of the variants `stale`.
///
/// # Errors
/// The entry of `stale` for the manifest's own `default`: the manifest asks for this variant.
fn usable_default<'m>(
    model: &'m ModelSource,
    choice: Option<PrecisionChoice>,
    stale: &[StoreError],
) -> Result<&'m str, StoreError> {
    let default = default_variant(&model.manifest, choice);
    let is_default = |error: &&StoreError| matches!(error, StoreError::Stale { variant, .. } if variant == default);
    match (stale.iter().find(is_default), choice) {
        (None, _) => Ok(default),
        (Some(StoreError::Stale { path, variant }), None) => Err(StoreError::Stale {
            path: path.clone(),
            variant: variant.clone(),
        }),
        (Some(error), _) => {
            let model = &model.manifest.name;
            tracing::warn!(model, %error, "int8 variant is stale, loading fp32");
            Ok(FP32)
        }
    }
}

fn warn_without_int8(manifest: &ModelManifest, choice: Option<PrecisionChoice>) {
    if choice == Some(PrecisionChoice::Int8) && !manifest.variants.contains_key(INT8) {
        let model = &manifest.name;
        tracing::warn!(model, "model has no int8 variant, loading fp32");
    }
}

/// A variant of a model that the server serves.
#[derive(Debug, Clone, PartialEq)]
pub struct Served {
    /// The variant, which is not loaded yet.
    pub source: ModelSource,
    /// Whether the variant is loaded at start. Other variants are loaded when they are first
    /// requested.
    pub at_start: bool,
}

impl Served {
    /// Returns a variant that is loaded at start.
    pub fn at_start(source: ModelSource) -> Self {
        Self {
            source,
            at_start: true,
        }
    }

    /// Returns all variants of `model`, which must be in fp32. The first is the variant that [`select`]
    /// returns; it alone is loaded at start. Logs a warning as [`select`] does, and for each variant
    /// that was made from other weights, which is not served.
    ///
    /// # Errors
    /// [`StoreError::Stale`] if the manifest's `default` was made from other weights.
    pub fn variants(
        model: &ModelSource,
        choice: Option<PrecisionChoice>,
    ) -> Result<Vec<Self>, StoreError> {
        warn_without_int8(&model.manifest, choice);
        let (fresh, stale): (Vec<_>, Vec<_>) =
            model.variants().into_iter().partition(Result::is_ok);
        let stale: Vec<StoreError> = stale.into_iter().filter_map(Result::err).collect();
        let default = usable_default(model, choice, &stale)?;
        for error in &stale {
            let model = &model.manifest.name;
            tracing::warn!(model, %error, "stale variant is skipped");
        }
        let served = fresh.into_iter().flatten().map(|source| Self {
            at_start: source.variant == default,
            source,
        });
        let mut served: Vec<Self> = served.collect();
        served.sort_by_key(|variant| !variant.at_start);
        Ok(served)
    }

    /// Returns `served` without duplicates, with the variants of each model next to each other. The
    /// first variant of a model is the one that [`default_variant`] chooses, if it is served, or fp32
    /// if the precision chooses one that is not served; a model's name selects the first one.
    /// `precision` returns the precision that is set for the model of a name.
    pub fn merged(
        served: Vec<Self>,
        precision: impl Fn(&str) -> Option<PrecisionChoice>,
    ) -> Vec<Self> {
        let mut merged: Vec<Self> = Vec::with_capacity(served.len());
        for item in served {
            match merged.iter_mut().find(|other| other.source == item.source) {
                Some(other) => other.at_start |= item.at_start,
                None => merged.push(item),
            }
        }
        let mut names: Vec<String> = Vec::new();
        for item in &merged {
            if !names.contains(&item.source.manifest.name) {
                names.push(item.source.manifest.name.clone());
            }
        }
        merged.sort_by_key(|item| {
            let ModelSource {
                manifest, variant, ..
            } = &item.source;
            let model = names.iter().position(|name| *name == manifest.name);
            let choice = precision(&manifest.name);
            let is_default = default_variant(manifest, choice) == variant;
            // A stale variant that `--precision` chooses is not served.
            let is_second = choice.is_some() && variant == FP32;
            (model, !is_default, !is_second)
        });
        merged
    }
}

#[cfg(test)]
mod tests {
    use onnx_export::Role;

    use super::*;
    use crate::manifest::StageFile;

    const AUTO: Option<PrecisionChoice> = Some(PrecisionChoice::Auto);
    const INTEGERS: Option<PrecisionChoice> = Some(PrecisionChoice::Int8);
    const FLOATS: Option<PrecisionChoice> = Some(PrecisionChoice::Fp32);

    /// Returns the built-in model, which has an int8 variant, with `default` in its manifest.
    fn model(default: Option<&str>) -> ModelSource {
        let mut model = ModelSource::embedded().unwrap();
        model.manifest.default = default.map(str::to_owned);
        model
    }

    #[test]
    fn only_auto_depends_on_the_cpu() {
        // Columns: `--precision`, the manifest's `default`, and the variants that the bare name
        // selects on a CPU without and with int8 dot-product instructions.
        let cases = [
            (None, None, ["fp32", "fp32"]),
            (None, Some("int8"), ["int8", "int8"]),
            (None, Some("fp32"), ["fp32", "fp32"]),
            (FLOATS, Some("int8"), ["fp32", "fp32"]),
            (INTEGERS, None, ["int8", "int8"]),
            (INTEGERS, Some("fp32"), ["int8", "int8"]),
            (AUTO, None, ["fp32", "int8"]),
            (AUTO, Some("int8"), ["fp32", "int8"]),
        ];
        for (choice, default, expected) in cases {
            let manifest = model(default).manifest;
            let got = [false, true].map(|dot| default_variant_on(&manifest, choice, dot));
            assert_eq!(got, expected, "{choice:?} {default:?}");
        }
        let mut without = model(None).manifest;
        without.variants.clear();
        assert_eq!(default_variant_on(&without, INTEGERS, true), "fp32");
    }

    fn shown(served: &[Served]) -> Vec<String> {
        let show = |item: &Served| {
            let mark = if item.at_start { "" } else { " later" };
            format!("{}{mark}", item.source.id())
        };
        served.iter().map(show).collect()
    }

    #[test]
    fn the_default_variant_comes_first_and_is_loaded_at_start() {
        let (fp32, int8) = ("efficientnet_lite0@fp32", "efficientnet_lite0@int8");
        let cases = [
            (None, None, [fp32, "efficientnet_lite0@int8 later"]),
            (INTEGERS, None, [int8, "efficientnet_lite0@fp32 later"]),
            (None, Some("int8"), [int8, "efficientnet_lite0@fp32 later"]),
        ];
        for (choice, default, expected) in cases {
            assert_eq!(
                shown(&Served::variants(&model(default), choice).unwrap()),
                expected,
                "{choice:?}"
            );
        }
    }

    #[test]
    fn a_stale_variant_stops_only_a_manifest_that_names_it() {
        let stale = |default| {
            let mut model = model(default);
            let stage = |sha256: &str| StageFile {
                role: Role::Network,
                file: "model.onnx".into(),
                sha256: Some(sha256.to_owned()),
            };
            model.path = Some("model.toml".into());
            model.manifest.stages = vec![stage("aa")];
            let int8 = model.manifest.variants.get_mut(INT8).unwrap();
            int8.stages = vec![stage("cc")];
            int8.source_sha256 = vec!["bb".to_owned()];
            model
        };
        for (choice, default) in [(None, None), (INTEGERS, None), (INTEGERS, Some("int8"))] {
            let model = stale(default);
            let served = Served::variants(&model, choice).unwrap();
            assert_eq!(shown(&served), ["efficientnet_lite0@fp32"], "{choice:?}");
            assert_eq!(select(model, choice).unwrap().variant, FP32);
        }
        let model = stale(Some("int8"));
        assert!(Served::variants(&model, None).is_err());
        assert!(select(model, None).is_err());
    }

    #[test]
    fn named_variants_are_loaded_at_start_and_served_alone_without_the_name() {
        let both = model(None);
        let int8 = || Served::at_start(both.variant("int8").unwrap());
        let fp32 = || Served::at_start(both.clone());
        let all = || Served::variants(&both, None).unwrap();
        let other = || {
            let mut other = both.clone();
            other.manifest.name = "other".to_owned();
            Served::at_start(other)
        };
        let cases = [
            (vec![int8()], None, vec!["efficientnet_lite0@int8"]),
            (
                [vec![int8(), other()], all()].concat(),
                None,
                vec![
                    "efficientnet_lite0@fp32",
                    "efficientnet_lite0@int8",
                    "other@fp32",
                ],
            ),
            (
                vec![fp32(), int8(), int8()],
                INTEGERS,
                vec!["efficientnet_lite0@int8", "efficientnet_lite0@fp32"],
            ),
        ];
        for (served, choice, expected) in cases {
            assert_eq!(shown(&Served::merged(served, |_| choice)), expected);
        }
    }
}
