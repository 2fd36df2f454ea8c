//! Selection of the vector instructions that kernels use.

#[cfg(target_arch = "x86_64")]
use fearless_simd::{Avx512, Level};

/// Instruction set of a kernel. A value proves that this CPU has the instructions.
#[derive(Debug, Clone, Copy)]
pub enum Isa {
    /// No vector instructions. The reference in tests, and the form for other CPUs.
    Scalar,
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
        available.extend(Level::new().as_avx512().map(Self::Avx512));
        available
    }
}
