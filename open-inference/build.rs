//! Compiles `proto/inference.proto`, without protoc, to messages and the traits of the service. Writes the descriptors of
//! the file for reflection.

use std::path::PathBuf;
use std::{env, error, fs};

use protox::prost::Message;

fn main() -> Result<(), Box<dyn error::Error>> {
    let mut files = protox::compile(["proto/inference.proto"], ["proto"])?;
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    tonic_prost_build::configure()
        .build_client(false)
        .build_transport(false)
        .codec_path("crate::codec::CheckedCodec")
        // Elements of tensors share the memory of the message.
        .bytes("raw_input_contents")
        .bytes("raw_output_contents")
        .bytes("bytes_contents")
        .compile_fds(files.clone())?;
    // The comments were for the code.
    for file in &mut files.file {
        file.source_code_info = None;
    }
    fs::write(out.join("descriptors.bin"), files.encode_to_vec())?;
    Ok(())
}
