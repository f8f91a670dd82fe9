//! What the agent has to say: the guest's kernel log, which the monitor shows when something goes wrong.

use std::io::Write;

/// Something worth knowing that does not stop anything.
pub fn notice(text: &str) {
    write(5, text);
}

/// The last words before the guest goes down; the kernel prints them even on a quiet console.
pub fn emergency(text: &str) {
    write(0, text);
}

fn write(level: u8, text: &str) {
    if let Ok(mut log) = std::fs::File::options().write(true).open("/dev/kmsg") {
        // One record a write; a log that cannot be written has no better place to say so.
        let _unwritable = log.write_all(format!("<{level}>bulkhead-agent: {}\n", text.replace('\n', " | ")).as_bytes());
    }
}
