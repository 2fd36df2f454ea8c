//! Selection of the vector instructions that kernels use.

#[cfg(target_arch = "x86_64")]
use fearless_simd::{Avx2, Avx512, Level};

/// Instruction set of a kernel. A value proves that this CPU has the instructions.
#[derive(Debug, Clone, Copy)]
pub enum Isa {
    /// No vector instructions. The reference in tests, and the form for other CPUs.
    Scalar,
    /// AVX2 with FMA, in vectors of 32 bytes.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// AVX-512 as of Ice Lake, with VNNI and VBMI, in vectors of 64 bytes.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
}

impl Isa {
    /// Returns the widest instruction set of this CPU.
    pub fn detect() -> Self {
        Self::available().pop().unwrap_or(Self::Scalar)
    }

    /// Returns the instruction sets of this CPU, in ascending order of their width.
    pub fn available() -> Vec<Self> {
        let mut available = vec![Self::Scalar];
        #[cfg(target_arch = "x86_64")]
        {
            let level = Level::new();
            available.extend(level.as_avx2().map(Self::Avx2));
            available.extend(level.as_avx512().map(Self::Avx512));
        }
        available
    }

    /// Returns whether this is AVX2.
    pub(crate) fn is_avx2(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        let is_avx2 = matches!(self, Self::Avx2(_));
        #[cfg(not(target_arch = "x86_64"))]
        let is_avx2 = false;
        is_avx2
    }

    /// Returns whether this is AVX-512 as of Ice Lake.
    pub fn is_avx512(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        let is_avx512 = matches!(self, Self::Avx512(_));
        #[cfg(not(target_arch = "x86_64"))]
        let is_avx512 = false;
        is_avx512
    }

    /// Returns the instruction set for a convolution. `pairs_fit` says whether the weights are small
    /// enough for AVX2, which adds products in pairs, in 16 bits.
    pub(super) fn for_weights(self, pairs_fit: bool) -> Self {
        if self.is_avx2() && !pairs_fit {
            return Self::Scalar;
        }
        self
    }
}
