//! Generates the Rust side of `agent.proto` (messages, async client and server).

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=agent.proto");
    let out_dir = std::env::var("OUT_DIR")?;
    ttrpc_codegen::Codegen::new()
        .out_dir(&out_dir)
        .input("agent.proto")
        .include(".")
        .rust_protobuf()
        .customize(ttrpc_codegen::Customize {
            async_all: true,
            ..Default::default()
        })
        .run()?;
    // The generated files start with inner attributes, which `include!` refuses; `#[path]` modules accept them.
    let module = |name: &str| {
        format!(
            "#[path = {:?}]\npub mod {name};\n",
            Path::new(&out_dir).join(format!("{name}.rs"))
        )
    };
    std::fs::write(
        Path::new(&out_dir).join("protocol.rs"),
        module("agent") + &module("agent_ttrpc"),
    )?;
    Ok(())
}
