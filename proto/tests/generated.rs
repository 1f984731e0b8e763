//! The committed code is what protox and tonic generate from `tandem/v1/*.proto`; no `protoc` anywhere.
//!
//! To regenerate it: `REGENERATE=1 cargo test -p tandem-proto --test generated`

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::fs;
use std::path::Path;

use prost::Message;

const FILES: [&str; 2] = ["tandem.v1.rs", "tandem.v1.bin"];

#[test]
fn committed_code_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let protos = ["model", "draft", "target", "generation"].map(|n| format!("tandem/v1/{n}.proto"));
    let descriptors = protox::Compiler::new([root])
        .unwrap()
        .include_source_info(true)
        .include_imports(true)
        .open_files(protos)
        .unwrap()
        .file_descriptor_set();
    let fresh = tempfile::tempdir().unwrap();
    tonic_prost_build::configure().out_dir(fresh.path()).compile_fds(descriptors.clone()).unwrap();
    // Reflection needs no comments.
    let mut bare = descriptors;
    bare.file.iter_mut().for_each(|f| f.source_code_info = None);
    fs::write(fresh.path().join("tandem.v1.bin"), bare.encode_to_vec()).unwrap();

    for name in FILES {
        let (fresh, committed) =
            (fs::read(fresh.path().join(name)).unwrap(), root.join("src/gen").join(name));
        if std::env::var_os("REGENERATE").is_some() {
            fs::write(&committed, &fresh).unwrap();
        }
        let current = fs::read(&committed).is_ok_and(|old| old == fresh);
        assert!(current, "{name} is not what the .proto files say: see the head of this test");
    }
}
