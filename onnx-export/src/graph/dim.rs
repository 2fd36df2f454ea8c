//! Sizes of axes: fixed, dynamic, or computed from a dynamic size as the output size of a sliding
//! window.

use std::collections::HashMap;

/// The size of one axis of a shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dim {
    /// A size known when the graph is built.
    Fixed(usize),
    /// A size known only when the graph runs. Axes with equal symbols have equal sizes.
    Dynamic(Symbol),
}

/// Identifies a dynamic size within one graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Symbol(u32);

/// A window that slides along one axis, such as a convolution's kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Window {
    /// Number of elements that the window reads (taps), at least 1.
    pub kernel: usize,
    /// Distance between neighboring positions of the window, in elements, at least 1.
    pub stride: usize,
    /// Distance between neighboring elements that the window reads at one position (taps), in
    /// elements, at least 1.
    pub dilation: usize,
    /// Number of padding elements before the axis plus those after it.
    pub padding: usize,
}

/// How a dynamic size is defined.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Definition {
    /// The size of the input axis of this name.
    Input(String),
    /// The output size of a sliding window on an axis of size `of`:
    /// `floor((of + add) / stride) + 1`, where `add` is the padding minus the window's extent, the
    /// distance from its first element to its last plus 1.
    ///
    /// Windows on one axis with equal `add` and `stride`, such as a padded 3x3 convolution and the
    /// 1x1 convolution of a shortcut, share one symbol, so that the operands of a residual addition
    /// have equal shapes.
    Slide { of: Symbol, add: i64, stride: usize },
}

/// The dynamic sizes of one graph, each defined once.
#[derive(Debug, Default)]
pub(crate) struct Dims {
    definitions: Vec<Definition>,
    known: HashMap<Definition, Symbol>,
}

impl Dims {
    /// Returns the size of the input axis `name`, such as `height`.
    pub(crate) fn input(&mut self, name: &str) -> Dim {
        Dim::Dynamic(self.define(Definition::Input(name.to_owned())))
    }

    /// Returns the output size of `window` on an axis of size `dim`: the number of positions of the window.
    ///
    /// `None` if a fixed `dim` with its padding is shorter than the window, if `kernel` or `stride`
    /// is 0, or if a size overflows.
    pub(crate) fn slide(&mut self, dim: Dim, window: Window) -> Option<Dim> {
        let reach = window.dilation.checked_mul(window.kernel.checked_sub(1)?)?;
        let add = window.padding as i64 - i64::try_from(reach).ok()? - 1;
        if window.stride == 0 {
            return None;
        }
        match dim {
            Dim::Fixed(size) => {
                let last = usize::try_from((size as i64).checked_add(add)?).ok()?;
                Some(Dim::Fixed(last / window.stride + 1))
            }
            Dim::Dynamic(symbol) if add == -1 && window.stride == 1 => Some(Dim::Dynamic(symbol)),
            Dim::Dynamic(symbol) => {
                let definition = self.compose(symbol, add, window.stride);
                Some(Dim::Dynamic(self.define(definition)))
            }
        }
    }

    /// Returns the text that ONNX stores as `dim_param` of a dynamic size, such as `height` or
    /// `ceil(height/2)`.
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

    /// Returns the definition of the output size of a window on an axis of size `of`. If that size
    /// and the output size are divisions that round up, they become one:
    /// `ceil(ceil(h / 2) / 2) = ceil(h / 4)`.
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

    /// Returns the symbol of `definition`. Adds a symbol if the definition is new.
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
    fn sizes_follow_the_convolution_formula() {
        let cases = [
            (224, window(3, 2, 1, 2), Some(112)),
            (224, window(7, 2, 1, 6), Some(112)),
            (7, window(5, 1, 2, 8), Some(7)),
            (7, window(7, 1, 1, 0), Some(1)),
            (2, window(3, 1, 1, 0), None),
            (8, window(0, 1, 1, 0), None),
            (8, window(3, 0, 1, 2), None),
            (8, window(usize::MAX, 1, 2, 0), None),
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
            panic!("a window on a dynamic axis has a fixed output size")
        };
        assert_eq!(dims.name(symbol), "ceil(height/4)");
        assert_ne!(dims.slide(height, window(3, 2, 1, 0)), Some(padded));
    }
}
