//! What is in the guest's memory before its first instruction: the kernel, its parameters, and the ACPI tables.
//!
//! The kernel image comes from the runtime and is trusted to be a kernel, but not to be well formed: a wrong path in a
//! configuration must end in a sentence.

pub mod acpi;
pub mod cmdline;
pub mod elf;
pub mod params;
