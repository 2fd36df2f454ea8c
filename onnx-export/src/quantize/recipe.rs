//! Recipes, which say how a network is quantized. They are stored in a small JSON file, the ranges
//! file.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{QuantizeError, Range};
use crate::stages::{Role, Stage, Stages};

/// Version of the ranges file's format; files of other versions are rejected.
const FORMAT: u32 = 2;

/// The kind of CPU for which an int8 network is quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// CPUs whose instructions add int8 products in 32 bits: AVX-512 VNNI, AVX-VNNI, Arm's dot
    /// product. Rounded weights are -127 to 127, trained weights -128 to 127.
    Vnni,
    /// CPUs whose instructions add pairs of int8 products in 16 bits with saturation: AVX2. Rounded
    /// weights are -64 to 64, so that no sum saturates.
    Avx2,
}

impl Target {
    /// Returns the largest absolute value of a rounded weight. With 64 for `Avx2`, the sum of two
    /// products with the largest activation, 2 * 255 * 64, fits 16 bits.
    pub(super) fn weight_limit(self) -> i8 {
        match self {
            Self::Vnni => 127,
            Self::Avx2 => 64,
        }
    }

    /// Returns the factor by which the scales of trained weights are multiplied, and the smallest
    /// and the largest rounded weight. Trained weights use the whole range of int8. `Avx2` has room
    /// for half of that range, so its scales are doubled.
    pub(super) fn trained_weights(self) -> (f32, (i8, i8)) {
        match self {
            Self::Vnni => (1.0, (i8::MIN, i8::MAX)),
            Self::Avx2 => (2.0, (-64, 64)),
        }
    }

    /// Returns the name of the target on the command line and in ranges files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Vnni => "vnni",
            Self::Avx2 => "avx2",
        }
    }
}

/// How one network is quantized. Values, weights and layers are identified by their names in the
/// fp32 file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The activation range of each quantized value, by the value's name.
    pub ranges: BTreeMap<String, Range>,
    /// Exact trained scales by the value's name, only for values whose scale would differ in the
    /// last bit if it were recomputed from `ranges`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub scales: BTreeMap<String, f32>,
    /// Names of the layers that are kept in fp32.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub float_layers: BTreeSet<String>,
    /// Trained scales of weights by the weight's name: one scale for the whole weight, or one per
    /// output channel. Empty for a network that was not trained for int8.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub weight_scales: BTreeMap<String, Vec<f32>>,
    /// Measured mean of each channel of a layer's input, by the name of the input. With these
    /// means, the layer's bias is corrected for the error that rounding the weights adds to the
    /// mean of the result. A layer without them keeps its bias.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub channel_means: BTreeMap<String, Vec<f32>>,
    /// Whether the activation ranges come from quantization-aware training and are used exactly. If
    /// `false`, the range of a hard sigmoid's operand is changed to begin at -3.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub trained: bool,
}

/// The recipes of a model's stages: the contents of a ranges file.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipes {
    /// The kind of CPU for which the recipes were chosen.
    pub target: Target,
    /// Recipe of each stage of the model. A stage without a recipe stays in fp32.
    pub stages: Stages<Recipe>,
}

/// The JSON form of [`Recipes`], the content of a ranges file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecipesFile {
    format: u32,
    target: Target,
    stages: Vec<StageRecipe>,
}

/// The JSON form of one stage's recipe.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StageRecipe {
    role: Role,
    recipe: Recipe,
}

impl Recipes {
    /// Parses and checks a ranges file.
    ///
    /// # Errors
    /// [`QuantizeError::Recipe`] if the text is not JSON, or a field is missing, unknown or out of range.
    pub fn parse(text: &str) -> Result<Self, QuantizeError> {
        let file: RecipesFile =
            serde_json::from_str(text).map_err(|error| QuantizeError::Recipe(error.to_string()))?;
        if file.format != FORMAT {
            let got = file.format;
            let text = format!("field `format`: expected version {FORMAT}, got {got}");
            return Err(QuantizeError::Recipe(text));
        }
        let roles: Vec<&str> = file.stages.iter().map(|s| s.role.as_str()).collect();
        let roles = roles.join(", ");
        let stages = file.stages.into_iter().map(|stage| Stage {
            role: stage.role,
            content: stage.recipe,
        });
        let stages = Stages::from_list(stages).ok_or_else(|| {
            let text =
                format!("field `stages`: expected role network first and once, got [{roles}]");
            QuantizeError::Recipe(text)
        })?;
        let recipes = Self {
            target: file.target,
            stages,
        };
        recipes.check()?;
        Ok(recipes)
    }

    fn check(&self) -> Result<(), QuantizeError> {
        self.stages
            .iter()
            .try_for_each(|stage| stage.content.check())
    }

    /// Returns the text of a ranges file (JSON) with these recipes.
    ///
    /// # Errors
    /// [`QuantizeError::Recipe`] for values that [`Recipes::parse`] rejects.
    pub fn to_json(&self) -> Result<String, QuantizeError> {
        self.check()?;
        let stages = self.stages.iter().map(|stage| StageRecipe {
            role: stage.role,
            recipe: stage.content.clone(),
        });
        let file = RecipesFile {
            format: FORMAT,
            target: self.target,
            stages: stages.collect(),
        };
        serde_json::to_string(&file).map_err(|error| QuantizeError::Recipe(error.to_string()))
    }
}

impl Recipe {
    fn check(&self) -> Result<(), QuantizeError> {
        let bad = |field: &str, expected: &str, got: String| {
            let text = format!("field `{field}`: expected {expected}, got {got}");
            Err(QuantizeError::Recipe(text))
        };
        for (value, Range { min, max }) in &self.ranges {
            // The difference is finite only if both ends of the range are.
            if !((max - min).is_finite() && min <= max) {
                let got = format!("[{min}, {max}] for value `{value}`");
                return bad(
                    "ranges",
                    "an activation range [min, max] with min <= max and a finite max - min",
                    got,
                );
            }
        }
        for (value, scale) in &self.scales {
            // The inverse of the scale, by which inputs are multiplied, must be finite, too. The
            // inverse of a subnormal scale may not be.
            if !(scale.is_normal() && *scale > 0.0) {
                return bad(
                    "scales",
                    "a finite scale of at least 1.2e-38",
                    format!("{scale} for value `{value}`"),
                );
            }
        }
        for (weight, scales) in &self.weight_scales {
            if !scales.iter().all(|scale| scale.is_finite() && *scale > 0.0) {
                let got = format!("{scales:?} for weight `{weight}`");
                return bad("weight_scales", "finite scales above 0", got);
            }
        }
        for (value, means) in &self.channel_means {
            if !means.iter().all(|mean| mean.is_finite()) {
                let got = format!("NaN or infinity for value `{value}`");
                return bad("channel_means", "finite channel means", got);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formula;

    #[test]
    fn a_file_is_written_again_byte_by_byte() {
        let values: Vec<f32> = formula::uniform("ranges", 30_000).collect();
        let range = |pair: &[f32]| Range {
            min: pair[0].min(pair[1]) * 1e-3,
            max: pair[0].max(pair[1]) * 1e7,
        };
        let named = values.chunks(2).enumerate();
        let ranges = named.map(|(index, pair)| (format!("value {index}"), range(pair)));
        let recipe = Recipe {
            ranges: ranges.filter(|(_, range)| range.min <= range.max).collect(),
            scales: BTreeMap::from([("y".to_owned(), 0.1), ("x".to_owned(), f32::MIN_POSITIVE)]),
            float_layers: BTreeSet::from(["/a/Conv".to_owned(), "\"".to_owned()]),
            weight_scales: BTreeMap::from([("w".to_owned(), vec![f32::MIN_POSITIVE, 1e-45])]),
            channel_means: BTreeMap::from([("x".to_owned(), vec![f32::MAX, -0.0, 0.1])]),
            trained: true,
        };
        assert!(recipe.ranges.len() > 10_000);
        let one = Stages::new(recipe.clone());
        for stages in [
            one.clone(),
            one.clone().with(Role::BoxHead, recipe.clone()),
            one.with(Role::BoxHead, Recipe::default()),
        ] {
            let recipes = Recipes {
                target: Target::Avx2,
                stages,
            };
            let text = recipes.to_json().unwrap();
            let read = Recipes::parse(&text).unwrap();
            assert_eq!(read, recipes);
            assert_eq!(read.to_json().unwrap(), text);
        }
    }

    #[test]
    fn the_smallest_file() {
        let text =
            r#"{"format":2,"target":"vnni","stages":[{"role":"network","recipe":{"ranges":{}}}]}"#;
        let recipes = Recipes::parse(text).unwrap();
        let expected = Recipes {
            target: Target::Vnni,
            stages: Stages::new(Recipe::default()),
        };
        assert_eq!(recipes, expected);
        assert_eq!(recipes.to_json().unwrap(), text);
        for target in [Target::Vnni, Target::Avx2] {
            let name = serde_json::to_value(target).unwrap();
            assert_eq!(name, target.as_str());
        }
    }

    #[test]
    fn errors_name_the_field() {
        let cases = [
            ("", "not a ranges file"),
            ("[]", "not a ranges file"),
            (r#"{"format":2}"#, "`target`"),
            (r#"{"format":2,"target":"vnni"}"#, "`stages`"),
            (r#"{"format":2,"target":"neon","stages":[]}"#, "neon"),
            (
                r#"{"format":1,"target":"vnni","stages":[]}"#,
                "`format`: expected version 2, got 1",
            ),
            (r#"{"format":2,"target":"vnni","stages":[],"x":1}"#, "`x`"),
            (
                r#"{"format":2,"target":"vnni","stages":[]}"#,
                "`stages`: expected role network first and once, got []",
            ),
            (
                r#"{"format":2,"target":"vnni","stages":[{"role":"box_head","recipe":{"ranges":{}}}]}"#,
                "`stages`: expected role network first and once, got [box_head]",
            ),
            (
                r#"{"format":2,"target":"vnni","stages":[{"role":"head","recipe":{"ranges":{}}}]}"#,
                "unknown variant `head`",
            ),
        ];
        let inside = [
            ("", "`ranges`"),
            (r#""ranges":{},"layers":[]"#, "`layers`"),
            (r#""ranges":{"a":[0]}"#, "length 1"),
            (r#""ranges":{"a":[1,0]}"#, "`ranges`"),
            (r#""ranges":{"a":[0,1e39]}"#, "`ranges`"),
            (r#""ranges":{"a":[-3e38,3e38]}"#, "`ranges`"),
            (r#""ranges":{"a":[0,null]}"#, "null"),
            (r#""ranges":{},"scales":{"a":0}"#, "`scales`"),
            (r#""ranges":{},"scales":{"a":1e-45}"#, "`scales`"),
            (
                r#""ranges":{},"weight_scales":{"w":[0]}"#,
                "`weight_scales`",
            ),
            (
                r#""ranges":{},"weight_scales":{"w":[1,-1]}"#,
                "`weight_scales`",
            ),
            (
                r#""ranges":{},"channel_means":{"x":[1e39]}"#,
                "`channel_means`",
            ),
        ];
        let stage = |role, recipe| format!(r#"{{"role":"{role}","recipe":{{{recipe}}}}}"#);
        let file = |stages: &[String]| {
            let stages = stages.join(",");
            format!(r#"{{"format":2,"target":"vnni","stages":[{stages}]}}"#)
        };
        let network = |inside| file(&[stage("network", inside)]);
        let head = |inside| {
            let first = stage("network", r#""ranges":{}"#);
            file(&[first, stage("box_head", inside)])
        };
        let whole = cases.map(|(text, expected)| (text.to_owned(), expected));
        let inside = inside.into_iter();
        let inside =
            inside.flat_map(|(text, expected)| [(network(text), expected), (head(text), expected)]);
        for (text, expected) in whole.into_iter().chain(inside) {
            let message = Recipes::parse(&text).unwrap_err().to_string();
            assert!(message.starts_with("not a ranges file: "), "{message}");
            assert!(message.contains(expected), "{text}: {message}");
        }
    }

    #[test]
    fn values_that_parse_rejects_are_not_written() {
        let range = Range {
            min: 0.0,
            max: f32::INFINITY,
        };
        let recipe = Recipe {
            ranges: BTreeMap::from([("a".to_owned(), range)]),
            ..Recipe::default()
        };
        let recipes = Recipes {
            target: Target::Vnni,
            stages: Stages::new(recipe),
        };
        let message = recipes.to_json().unwrap_err();
        assert!(message.to_string().contains("`ranges`"), "{message}");
    }
}
