//! A gRPC client for one method, with little overhead: one connection, one call at a time, messages that are encoded once.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use axum::http;
use bytes::Bytes;
use h2::client::SendRequest;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use crate::http::inference_millis;

const METHOD: &str = "/inference.GRPCInferenceService/ModelInfer";

/// Returns the message of `ModelInfer`, framed, with the fp32 elements `tensor` of the input `input`.
pub(crate) fn infer_message(model: &str, input: &str, shape: &[u64], tensor: &[u8]) -> Bytes {
    let mut dimensions = Vec::new();
    for size in shape {
        varint(&mut dimensions, *size);
    }
    let mut described = Vec::new();
    field(&mut described, 1, input.as_bytes());
    field(&mut described, 2, b"FP32");
    field(&mut described, 3, &dimensions);
    let mut message = Vec::new();
    field(&mut message, 1, model.as_bytes());
    field(&mut message, 5, &described);
    field(&mut message, 7, tensor);
    let mut framed = vec![0];
    framed.extend((message.len() as u32).to_be_bytes());
    framed.extend(message);
    framed.into()
}

/// Appends the field `number` of a protobuf message, which has a length.
fn field(message: &mut Vec<u8>, number: u64, content: &[u8]) {
    varint(message, number << 3 | 2);
    varint(message, content.len() as u64);
    message.extend_from_slice(content);
}

fn varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

/// A connection to the gRPC listener of a server.
pub(crate) struct Channel {
    runtime: Runtime,
    requests: SendRequest<Bytes>,
    url: String,
}

impl Channel {
    /// Connects to `address`.
    ///
    /// # Errors
    /// If the connection cannot be opened.
    pub(crate) fn open(address: SocketAddr) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let requests = runtime.block_on(async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let (requests, connection) = h2::client::handshake(stream).await?;
            tokio::spawn(connection);
            anyhow::Ok(requests)
        })?;
        Ok(Self {
            runtime,
            requests,
            url: format!("http://{address}{METHOD}"),
        })
    }

    /// Sends `message`, waits for the response, and returns the milliseconds that it states for the run of the network.
    ///
    /// # Errors
    /// If the call fails.
    pub(crate) fn infer(&mut self, message: &Bytes) -> Result<Option<f64>> {
        let request = http::Request::post(&self.url)
            .version(http::Version::HTTP_2)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        self.runtime.block_on(async {
            let mut requests = self.requests.clone().ready().await?;
            let (response, mut body) = requests.send_request(request, false)?;
            let mut rest = message.clone();
            while !rest.is_empty() {
                body.reserve_capacity(rest.len());
                let capacity = std::future::poll_fn(|context| body.poll_capacity(context)).await;
                let capacity = capacity.context("the server closed the stream")??;
                let part = rest.split_to(capacity.min(rest.len()));
                body.send_data(part, rest.is_empty())?;
            }
            let (head, mut body) = response.await?.into_parts();
            while let Some(data) = body.data().await {
                body.flow_control().release_capacity(data?.len())?;
            }
            let trailers = body.trailers().await?;
            let status = |headers: &http::HeaderMap| headers.get("grpc-status").cloned();
            let status = trailers.as_ref().and_then(status).or(status(&head.headers));
            ensure!(
                status.as_ref().is_some_and(|status| status == "0"),
                "the call failed: {status:?}"
            );
            let timing = head.headers.get("server-timing");
            let timing = timing.and_then(|timing| timing.to_str().ok());
            Ok(timing.and_then(inference_millis))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_lengths() {
        let message = infer_message("m", "in", &[1, 300], &[7; 4]);
        let described = [
            10, 2, b'i', b'n', 18, 4, b'F', b'P', b'3', b'2', 26, 3, 1, 0xac, 2,
        ];
        let mut expected = vec![0, 0, 0, 0, 26, 10, 1, b'm', 42, 15];
        expected.extend(described);
        expected.extend([58, 4, 7, 7, 7, 7]);
        assert_eq!(message, expected);
    }
}
