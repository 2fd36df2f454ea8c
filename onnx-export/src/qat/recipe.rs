//! Converts a checkpoint's trained scales to the [`Recipe`] of the fp32 network built from the same
//! checkpoint: the scale and zero point of each value, and which layers run in int8.
//!
//! The graph is walked from its input, and the module that computes each node is found by name. The
//! name of a layer's weight starts with the path of its module. A node without weights is computed
//! by a module near the last layer before it, so it is looked up relative to that layer's path.

use std::collections::BTreeMap;

use super::{INPUT, QatError, Trained};
use crate::proto::NodeProto;
use crate::quantize::{Affine, Layer, Network, Recipe};

/// Names of the modules that add in torchvision's quantized residual blocks. These modules hold the
/// scale of the sum.
const SUMS: &[&str] = &["skip_add", "add_relu", "skip_add_relu"];
/// Names of the modules that multiply in torchvision's quantized squeeze-and-excitation blocks.
/// These modules hold the scale of the product.
const PRODUCTS: &[&str] = &["skip_mul"];
/// Scale and zero point that torch always uses for the result of a quantized hard sigmoid.
const GATE: Affine = Affine {
    scale: 1.0 / 256.0,
    zero_point: 0,
};

impl Trained {
    /// Returns the recipe with which `network`, the fp32 network built from [`Trained::state`], becomes the int8
    /// network that was trained: with the trained scales and zero points, and every layer in int8.
    ///
    /// # Errors
    /// [`QatError::NoScale`] if the checkpoint has no scale for a value of the network.
    pub fn recipe(&self, network: &Network) -> Result<Recipe, QatError> {
        let mut walk = Walk {
            trained: self,
            network,
            known: BTreeMap::new(),
        };
        let mut recipe = Recipe {
            trained: true,
            ..Recipe::default()
        };
        if let Some(affine) = self.activations.get(INPUT) {
            for input in network.inputs() {
                walk.know(input, *affine, None);
            }
        }
        for (index, node) in network.nodes().iter().enumerate() {
            walk.node(index, node)?;
        }
        let ranges = walk.known.iter();
        recipe.ranges = ranges
            .map(|(value, known)| ((*value).to_owned(), known.affine.range()))
            .collect();
        for (value, Known { affine, .. }) in &walk.known {
            if Affine::covering(affine.range()) != *affine {
                recipe.scales.insert((*value).to_owned(), affine.scale);
            }
        }
        for layer in network.layers() {
            if let Some(quantizer) = self.weights.get(path(layer)) {
                let scales = quantizer.scales().iter();
                let scales = scales.map(|scale| *scale as f32).collect();
                recipe.weight_scales.insert(layer.weight.clone(), scales);
            }
        }
        Ok(recipe)
    }
}

/// Returns the state dict path of a layer, the name of the layer's weight without `.weight`.
fn path(layer: &Layer) -> &str {
    let weight = layer.weight.as_str();
    weight.strip_suffix(".weight").unwrap_or(weight)
}

/// The trained scale and zero point of a value, and the last layer on which the value depends.
#[derive(Debug, Clone, Copy)]
struct Known<'a> {
    affine: Affine,
    /// The last layer on which the value depends. `None` if the value depends on no layer but only
    /// on the network's input.
    layer: Option<&'a Layer>,
}

/// State of the walk through the network: the scales and zero points of the values visited so far.
struct Walk<'a> {
    trained: &'a Trained,
    network: &'a Network,
    known: BTreeMap<&'a str, Known<'a>>,
}

impl<'a> Walk<'a> {
    fn know(&mut self, value: &'a str, affine: Affine, layer: Option<&'a Layer>) {
        self.known.insert(value, Known { affine, layer });
    }

    fn node(&mut self, index: usize, node: &'a NodeProto) -> Result<(), QatError> {
        let operands = node.input.iter();
        let known: Vec<Known<'_>> = operands
            .filter_map(|value| self.known.get(value.as_str()).copied())
            .collect();
        let last = known.iter().filter_map(|known| known.layer);
        let last = last.max_by_key(|layer| layer.node);
        let (Some(output), Some(first)) = (node.output.first(), known.first()) else {
            return Ok(());
        };
        if let Some(layer) = self.network.layer_of(index) {
            let affine = self.trained.activations.get(path(layer)).copied();
            self.know(output, affine.ok_or_else(|| no_scale(node))?, Some(layer));
            return Ok(());
        }
        let affine = match node.op_type.as_str() {
            // torch fuses an activation into the module before it, whose output then has the
            // activation's scale; pooling and flattening keep the scale of their input.
            "Relu" | "Clip" | "Flatten" | "MaxPool" | "GlobalAveragePool" | "ReduceMean" => {
                Some(first.affine)
            }
            // The result of a hard sigmoid inside a hard swish has no scale: torch rounds only the
            // result of the hard swish.
            "HardSigmoid" if self.network.is_swish(node) => return Ok(()),
            "HardSigmoid" => Some(GATE),
            "Add" => last.and_then(|layer| self.around(layer, SUMS)),
            "Mul"
                if self
                    .gate_of(node)
                    .is_some_and(|gate| self.network.is_swish(gate)) =>
            {
                last.and_then(|layer| self.after(layer))
            }
            "Mul" => last.and_then(|layer| self.around(layer, PRODUCTS)),
            _ => None,
        };
        self.know(output, affine.ok_or_else(|| no_scale(node))?, last);
        Ok(())
    }

    /// Returns the hard sigmoid that computes a factor of `product`. `None` if no hard sigmoid
    /// computes a factor.
    fn gate_of(&self, product: &NodeProto) -> Option<&'a NodeProto> {
        let factors = product.input.iter();
        let producers = factors.filter_map(|value| self.network.producer(value));
        let mut nodes = producers.map(|index| &self.network.nodes()[index]);
        nodes.find(|node| node.op_type == "HardSigmoid")
    }

    /// Returns the trained scale and zero point of a module that adds or multiplies near `layer`.
    ///
    /// The modules that enclose the layer are searched from the innermost to the outermost for a
    /// child called one of `names`, in the order of `names`. Returns `None` if no such child has a
    /// scale.
    fn around(&self, layer: &Layer, names: &[&str]) -> Option<Affine> {
        let activations = &self.trained.activations;
        let mut parent = path(layer);
        while let Some((outer, _)) = parent.rsplit_once('.') {
            parent = outer;
            let mut modules = names.iter().map(|name| format!("{parent}.{name}"));
            if let Some(affine) = modules.find_map(|module| activations.get(&module)) {
                return Some(*affine);
            }
        }
        None
    }

    /// Returns the trained scale and zero point of the activation after a layer in an
    /// `nn.Sequential`. After layer `X.0`, the activation is module `X.1`, or `X.2` if `X.1` is a
    /// batch norm. `None` if neither module has a scale.
    fn after(&self, layer: &Layer) -> Option<Affine> {
        let (parent, own) = path(layer).rsplit_once('.')?;
        let own: usize = own.parse().ok()?;
        let followers = [own.checked_add(1)?, own.checked_add(2)?];
        let mut modules = followers.iter().map(|next| format!("{parent}.{next}"));
        modules
            .find_map(|module| self.trained.activations.get(&module))
            .copied()
    }
}

fn no_scale(node: &NodeProto) -> QatError {
    let node = node.name.clone();
    QatError::NoScale { node }
}
