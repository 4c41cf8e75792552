//! Log lines: the old layout or JSON, on standard error or in a file that can be reopened.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verbosity {
    Quiet,
    Normal,
    Debug,
    Trace,
}

impl Verbosity {
    pub fn shows_causes(self) -> bool {
        matches!(self, Verbosity::Debug | Verbosity::Trace)
    }

    fn level(self) -> &'static str {
        match self {
            Verbosity::Quiet => "warn",
            Verbosity::Normal => "info",
            Verbosity::Debug => "debug",
            Verbosity::Trace => "trace",
        }
    }
}

/// Install the process's log. `SKYTIDE_LOG` takes `tracing` filter directives for finer choices.
pub fn install(format: LogFormat, verbosity: Verbosity, quiet: bool) -> anyhow::Result<LogHandle> {
    let handle = LogHandle::stderr(quiet);
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(verbosity)?)
        .with_writer(handle.clone())
        .with_ansi(false);
    match format {
        LogFormat::Text => builder.event_format(OldLayout).finish().try_init(),
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .finish()
            .try_init(),
    }
    .context("install the log")?;
    Ok(handle)
}

fn filter(verbosity: Verbosity) -> anyhow::Result<EnvFilter> {
    // Libraries are heard only when they warn: their chatter is not about the user's data.
    let directives = match std::env::var("SKYTIDE_LOG") {
        Ok(directives) => directives,
        Err(_) => [
            "skytide",
            "skytide_sql",
            "skytide_wal",
            "skytide_ticker",
            "skytide_fixtures",
        ]
        .iter()
        .fold(String::from("warn"), |all, name| {
            format!("{all},{name}={}", verbosity.level())
        }),
    };
    EnvFilter::try_new(directives).context("read SKYTIDE_LOG")
}

/// Where log lines go; shared by the log itself and by whoever reopens the file.
#[derive(Clone)]
pub struct LogHandle {
    sink: Arc<Mutex<Sink>>,
    /// Nobody wants to see beside a file what goes into it.
    quiet: bool,
}

enum Sink {
    Stderr,
    File { path: PathBuf, file: File, echo: Echo },
}

/// Whether lines written to the file are shown on standard error too.
#[derive(Clone, Copy)]
enum Echo {
    Stderr,
    No,
}

impl LogHandle {
    pub(super) fn stderr(quiet: bool) -> Self {
        Self {
            sink: Arc::new(Mutex::new(Sink::Stderr)),
            quiet,
        }
    }

    /// Send lines to `path` from now on; somebody who sits at a terminal still sees them.
    pub fn to_file(&self, path: &Path) -> io::Result<()> {
        let watched = io::stderr().is_terminal() && !self.quiet;
        let echo = if watched { Echo::Stderr } else { Echo::No };
        let sink = Sink::File {
            path: path.to_owned(),
            file: open(path)?,
            echo,
        };
        *self.sink.lock().unwrap_or_else(PoisonError::into_inner) = sink;
        Ok(())
    }

    /// Open the file anew, after somebody rotated it away.
    pub fn reopen(&self) -> io::Result<()> {
        if let Sink::File { path, file, .. } = &mut *self.sink.lock().unwrap_or_else(PoisonError::into_inner)
        {
            *file = open(path)?;
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

impl<'a> MakeWriter<'a> for LogHandle {
    type Writer = LogHandle;

    fn make_writer(&'a self) -> Self::Writer {
        self.clone()
    }
}

impl Write for LogHandle {
    /// The subscriber hands over whole lines, so one call is one line in the file. A line that finds no place is lost: the
    /// subscriber would panic over an error where nobody reads standard error any more.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let to_stderr = |line: &[u8]| drop(io::stderr().write_all(line));
        match &mut *self.sink.lock().unwrap_or_else(PoisonError::into_inner) {
            Sink::Stderr => to_stderr(line),
            Sink::File { file, echo, .. } => {
                let written = file.write_all(line);
                if written.is_err() || matches!(echo, Echo::Stderr) {
                    to_stderr(line);
                }
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `2026-11-23 01:02:03.456 [pid] INFO message field=value`, the layout the old tools wrote.
struct OldLayout;

impl<S, N> FormatEvent<S, N> for OldLayout
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let now = jiff::Zoned::now();
        write!(
            out,
            "{} [{}] ",
            now.strftime("%Y-%m-%d %H:%M:%S%.3f"),
            std::process::id()
        )?;
        let level = match *event.metadata().level() {
            Level::ERROR => "ERROR",
            Level::WARN => "WARNING",
            Level::INFO => "INFO",
            Level::DEBUG => "DEBUG",
            Level::TRACE => "TRACE",
        };
        out.write_str(level)?;
        out.write_char(' ')?;
        let mut line = String::new();
        context
            .field_format()
            .format_fields(Writer::new(&mut line), event)?;
        for span in context
            .event_scope()
            .into_iter()
            .flat_map(|scope| scope.from_root())
        {
            if let Some(fields) = span.extensions().get::<FormattedFields<N>>()
                && !fields.is_empty()
            {
                write!(line, " {fields}")?;
            }
        }
        write_tame(&mut out, &line)?;
        out.write_char('\n')
    }
}

/// Text from a server or a file must not be able to fake a log line.
fn write_tame(out: &mut impl fmt::Write, text: &str) -> fmt::Result {
    text.chars().try_for_each(|c| match c {
        '\n' => out.write_str("\n\t"),
        c if c.is_control() => out.write_char('?'),
        c => out.write_char(c),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_cannot_fake_a_line() {
        let mut out = String::new();
        write_tame(&mut out, "one\ntwo\x1b[31m\r").expect("strings take everything");
        assert_eq!(out, "one\n\ttwo?[31m?");
    }

    #[test]
    fn a_rotated_file_is_opened_anew() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("worker.log");
        let mut log = LogHandle::stderr(true);
        log.to_file(&path).expect("open");
        log.write_all(b"first\n").expect("write");
        std::fs::rename(&path, directory.path().join("worker.log.1")).expect("rotate");
        log.write_all(b"second\n").expect("write");
        log.reopen().expect("reopen");
        log.write_all(b"third\n").expect("write");
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "third\n");
        let rotated = std::fs::read_to_string(directory.path().join("worker.log.1")).expect("read");
        assert_eq!(rotated, "first\nsecond\n");
    }
}
