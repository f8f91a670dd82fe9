//! Generates the messages of `proto/`, which containerd-shim-protos does not have.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out_dir = std::env::var("OUT_DIR")?;
    ttrpc_codegen::Codegen::new()
        .out_dir(&out_dir)
        .inputs(["proto/cri.proto", "proto/runtimeoptions.proto"])
        .include("proto")
        .rust_protobuf()
        .run()?;
    // The generated files start with inner attributes, which `include!` refuses; `#[path]` modules accept them.
    let module = |name: &str| {
        format!(
            "#[path = {:?}]\npub mod {name};\n",
            Path::new(&out_dir).join(format!("{name}.rs"))
        )
    };
    std::fs::write(
        Path::new(&out_dir).join("messages.rs"),
        module("cri") + &module("runtimeoptions"),
    )?;
    Ok(())
}
