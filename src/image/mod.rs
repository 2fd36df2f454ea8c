//! Picture decoding and preprocessing.
