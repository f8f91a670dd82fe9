//! The log: lines in containerd's own form, written to the pipe in the bundle that containerd copies to its log.
//!
//! Opened for reading and writing, so that it outlives a containerd that restarts, and without blocking: when nobody reads and
//! the pipe is full, lines are dropped and counted, and the service goes on. Panics land there too.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bulkhead_runtime::config::LogLevel;
use nix::fcntl::OFlag;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

/// Longest line, bytes: a pipe takes this much at once or not at all, so lines of several writers do not mix.
const MAX_LINE: usize = 4096;

/// Opens `log` in the bundle and sends there what `level`, or containerd's wish for details, lets through. Without the pipe there
/// is no log.
pub fn init(bundle: &Path, pod: &str, debug: bool, level: LogLevel) {
    let Some(pipe) = open(&bundle.join("log")) else {
        return;
    };
    let pipe = Pipe {
        file: Arc::new(pipe),
        dropped: Arc::default(),
    };
    let level = level
        .as_filter()
        .max(if debug { LevelFilter::DEBUG } else { LevelFilter::ERROR });
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .event_format(Lines { pod: pod.to_owned() })
        .with_writer(pipe.clone())
        .finish();
    // Fails only when there is one already.
    let _ = tracing::subscriber::set_global_default(subscriber);
    let pod = pod.to_owned();
    std::panic::set_hook(Box::new(move |info| {
        let text = line("fatal", &pod, &format!("panic: {info}"), "");
        let _ = pipe.clone().write(text.as_bytes());
        std::process::abort();
    }));
}

fn open(path: &Path) -> Option<File> {
    // Never a file: a log that nobody rotates must not grow on the host.
    let is_pipe = std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_fifo());
    let flags = (OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW).bits();
    is_pipe
        .then(|| {
            File::options()
                .read(true)
                .write(true)
                .custom_flags(flags)
                .open(path)
                .ok()
        })
        .flatten()
}

/// The pipe and the number of lines that did not fit.
#[derive(Clone)]
struct Pipe {
    file: Arc<File>,
    dropped: Arc<AtomicU64>,
}

impl Write for Pipe {
    /// One call is one line. It never fails, because nobody could do anything about it.
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        let mut text = Vec::with_capacity(line.len());
        if dropped > 0 {
            text.extend_from_slice(
                format!("level=warning msg=\"{dropped} lines of the shim's log were lost\"\n").as_bytes(),
            );
        }
        text.extend_from_slice(line);
        if text.len() > MAX_LINE {
            text.truncate(MAX_LINE - 1);
            text.push(b'\n');
        }
        if (&*self.file).write_all(&text).is_err() {
            self.dropped.fetch_add(dropped + 1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Pipe {
    type Writer = Pipe;

    fn make_writer(&self) -> Pipe {
        self.clone()
    }
}

/// `time="..." level=info msg="..." pod=... key=value`.
struct Lines {
    pod: String,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        let mut fields = Fields::default();
        event.record(&mut fields);
        writer.write_str(&line(level, &self.pod, &fields.message, &fields.others))
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    others: String,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
        } else {
            let _ = write!(self.others, " {}={}", field.name(), quoted(&format!("{value:?}")));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = write!(self.others, " {}={}", field.name(), quoted(value));
    }
}

fn line(level: &str, pod: &str, message: &str, fields: &str) -> String {
    format!(
        "time=\"{}\" level={level} msg={} runtime=bulkhead pod={pod}{fields}\n",
        now(),
        always_quoted(message)
    )
}

fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._/@^+:,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        always_quoted(text)
    }
}

/// One line whatever the text holds: what a guest makes us log must not look like further lines.
fn always_quoted(text: &str) -> String {
    format!("{text:?}")
}

/// RFC 3339 in UTC with nanoseconds.
fn now() -> String {
    let since_epoch = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    rfc3339(since_epoch.as_secs(), since_epoch.subsec_nanos())
}

fn rfc3339(seconds: u64, nanos: u32) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Civil date from a count of days, in years that begin on the 1st of March.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

#[cfg(test)]
#[path = "log_test.rs"]
mod log_test;
