//! The committed code is what the .proto files say.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::fs;

use tandem_proto_codegen::{FILES, generate, proto_dir};

#[test]
fn committed_code_is_current() {
    let fresh = tempfile::tempdir().unwrap();
    generate(fresh.path()).unwrap();
    for name in FILES {
        let committed = fs::read(proto_dir().join("src/gen").join(name)).unwrap();
        let same = committed == fs::read(fresh.path().join(name)).unwrap();
        assert!(same, "{name} is not what the .proto files say: run `cargo run -p tandem-proto-codegen`");
    }
}
