//! Dimensions, and the arithmetic of sliding windows on the ones that are only known at run time.

use std::collections::HashMap;

/// One axis of a shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dim {
    /// Known when the graph is built.
    Fixed(usize),
    /// Known when the graph runs; equal symbols are equal sizes.
    Dynamic(Symbol),
}

/// A size that depends on the network's input, as an index into the graph's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Symbol(u32);

/// A window that slides along one axis: a convolution's or a pooling's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Window {
    /// Taps.
    pub kernel: usize,
    /// Step between outputs.
    pub stride: usize,
    /// Step between taps.
    pub dilation: usize,
    /// Padding before and after, together.
    pub padding: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Definition {
    Input(String),
    /// `floor((of + add) / stride) + 1`: every sliding window has this form, so two windows of
    /// different kernels that give the same size (a 3x3 with padding and the 1x1 of a shortcut)
    /// become one symbol, and the shapes of a residual add can be compared.
    Slide {
        of: Symbol,
        add: i64,
        stride: usize,
    },
}

/// The symbols of one graph, each defined once.
#[derive(Debug, Default)]
pub(crate) struct Dims {
    definitions: Vec<Definition>,
    known: HashMap<Definition, Symbol>,
}

impl Dims {
    /// The symbol of an input axis, such as `height`.
    pub(crate) fn input(&mut self, name: &str) -> Dim {
        Dim::Dynamic(self.define(Definition::Input(name.to_owned())))
    }

    /// The size after `window` has slid over `dim`, or none where a fixed size is too small for it.
    pub(crate) fn slide(&mut self, dim: Dim, window: Window) -> Option<Dim> {
        let add = window.padding as i64 - (window.dilation * (window.kernel - 1)) as i64 - 1;
        match dim {
            Dim::Fixed(size) => {
                let last = usize::try_from(size as i64 + add).ok()?;
                Some(Dim::Fixed(last / window.stride + 1))
            }
            Dim::Dynamic(symbol) if add == -1 && window.stride == 1 => Some(Dim::Dynamic(symbol)),
            Dim::Dynamic(symbol) => {
                let definition = self.compose(symbol, add, window.stride);
                Some(Dim::Dynamic(self.define(definition)))
            }
        }
    }

    /// The symbol as an ONNX `dim_param`.
    pub(crate) fn name(&self, symbol: Symbol) -> String {
        match &self.definitions[symbol.0 as usize] {
            Definition::Input(name) => name.clone(),
            Definition::Slide {
                of,
                add: -1,
                stride,
            } => format!("ceil({}/{stride})", self.name(*of)),
            Definition::Slide { of, add, stride } => {
                format!("floor(({}{add:+})/{stride})+1", self.name(*of))
            }
        }
    }

    /// Two exact halvings are one exact quartering: `ceil(ceil(h / 2) / 2) = ceil(h / 4)`.
    fn compose(&self, of: Symbol, add: i64, stride: usize) -> Definition {
        match &self.definitions[of.0 as usize] {
            Definition::Slide {
                of: base,
                add: -1,
                stride: first,
            } if add == -1 => Definition::Slide {
                of: *base,
                add,
                stride: first * stride,
            },
            _ => Definition::Slide { of, add, stride },
        }
    }

    fn define(&mut self, definition: Definition) -> Symbol {
        if let Some(symbol) = self.known.get(&definition) {
            return *symbol;
        }
        let symbol = Symbol(self.definitions.len() as u32);
        self.definitions.push(definition.clone());
        self.known.insert(definition, symbol);
        symbol
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(kernel: usize, stride: usize, dilation: usize, padding: usize) -> Window {
        Window {
            kernel,
            stride,
            dilation,
            padding,
        }
    }

    #[test]
    fn fixed_sizes_follow_the_convolution_formula() {
        let cases = [
            (224, window(3, 2, 1, 2), Some(112)),
            (224, window(7, 2, 1, 6), Some(112)),
            (7, window(5, 1, 2, 8), Some(7)),
            (7, window(7, 1, 1, 0), Some(1)),
            (2, window(3, 1, 1, 0), None),
        ];
        for (size, slide, expected) in cases {
            let got = Dims::default().slide(Dim::Fixed(size), slide);
            assert_eq!(got, expected.map(Dim::Fixed), "{size} {slide:?}");
        }
    }

    #[test]
    fn different_windows_of_one_size_share_a_symbol() {
        let mut dims = Dims::default();
        let height = dims.input("height");
        let padded = dims.slide(height, window(3, 2, 1, 2)).unwrap();
        let shortcut = dims.slide(height, window(1, 2, 1, 0)).unwrap();
        assert_eq!(padded, shortcut);
        assert_eq!(dims.slide(padded, window(5, 1, 1, 4)), Some(padded));
        let quarter = dims.slide(padded, window(3, 2, 1, 2)).unwrap();
        let Dim::Dynamic(symbol) = quarter else {
            panic!("still dynamic")
        };
        assert_eq!(dims.name(symbol), "ceil(height/4)");
        assert_ne!(dims.slide(height, window(3, 2, 1, 0)), Some(padded));
    }
}
