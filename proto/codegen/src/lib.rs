//! Generates the code of `tandem-proto` from `proto/tandem/v1/*.proto`, with protox and tonic, so `protoc` is not
//! needed.
//!
//! `cargo run -p tandem-proto-codegen` writes it; a test fails when the committed code differs. It is a crate of its own, so that it
//! builds even while `tandem-proto` does not.

use std::fs;
use std::path::{Path, PathBuf};

use prost::Message;

/// What is generated, into `proto/src/gen`.
pub const FILES: [&str; 2] = ["tandem.v1.rs", "tandem.v1.bin"];

/// The directory of `tandem-proto`.
pub fn proto_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Writes [`FILES`] into `out`: messages and services, and the descriptors for reflection.
pub fn generate(out: &Path) -> anyhow::Result<()> {
    let protos = ["model", "draft", "target", "generation"].map(|n| format!("tandem/v1/{n}.proto"));
    let mut descriptors = protox::Compiler::new([proto_dir()])?
        .include_source_info(true)
        .include_imports(true)
        .open_files(protos)?
        .file_descriptor_set();
    tonic_prost_build::configure().out_dir(out).compile_fds(descriptors.clone())?;
    // Reflection needs no comments.
    descriptors.file.iter_mut().for_each(|f| f.source_code_info = None);
    fs::write(out.join("tandem.v1.bin"), descriptors.encode_to_vec())?;
    Ok(())
}
