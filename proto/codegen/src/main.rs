//! Writes the generated code into `proto/src/gen`.

fn main() -> anyhow::Result<()> {
    tandem_proto_codegen::generate(&tandem_proto_codegen::proto_dir().join("src/gen"))
}
