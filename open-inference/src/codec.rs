//! The codec of the service, which checks encoded requests before they are decoded.

use std::marker::PhantomData;

use bytes::Buf;
use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic_prost::ProstEncoder;

use crate::limits::Bounded;

/// Encodes `T` with prost, and decodes `U` with prost if its encoding is within its limits.
#[derive(Debug, Clone)]
pub struct CheckedCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for CheckedCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for CheckedCodec<T, U>
where
    T: Message + Send + 'static,
    U: Bounded + Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = CheckedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        CheckedDecoder(PhantomData)
    }
}

/// Decodes `U` if its encoding is within its limits.
#[derive(Debug, Clone)]
pub struct CheckedDecoder<U>(PhantomData<U>);

impl<U: Bounded + Message + Default> Decoder for CheckedDecoder<U> {
    type Item = U;
    type Error = Status;

    /// Returns the message.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the encoding is not within the limits of the message, or is no message.
    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let encoded = buffer.chunk();
        if encoded.len() != buffer.remaining() {
            return Err(Status::internal("the message is not in one piece"));
        }
        U::check(encoded).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let decoded = U::decode(buffer);
        decoded.map(Some).map_err(|error| {
            Status::invalid_argument(format!("cannot decode the request: {error}"))
        })
    }
}
