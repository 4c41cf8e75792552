//! What commands print: tables or JSON on standard output, progress on standard error.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use comfy_table::Table;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::ColorChoice;
use super::failure::ClosedPipe;
use crate::config::unit::{show_count, show_duration, show_rate, show_size};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputMode {
    Table,
    Json,
}

/// Where results go, and how.
#[derive(Clone)]
pub struct Output {
    mode: OutputMode,
    styled: bool,
    quiet: bool,
    bars: MultiProgress,
}

impl Output {
    pub fn new(mode: OutputMode, color: ColorChoice, quiet: bool) -> Self {
        let styled = match color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
        };
        let target = if quiet {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        Self {
            mode,
            styled,
            quiet,
            bars: MultiProgress::with_draw_target(target),
        }
    }

    pub fn mode(&self) -> OutputMode {
        self.mode
    }

    /// May escape sequences for colours be written?
    pub fn styled(&self) -> bool {
        self.styled
    }

    /// Print text as it is, with a line end.
    pub fn line(&self, text: impl AsRef<str>) -> anyhow::Result<()> {
        self.bars
            .suspend(|| write_stdout(&format!("{}\n", text.as_ref())))
    }

    /// Tell a person what happened; not part of the result, so it goes to stderr. Nobody may be there to read it.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            self.bars.suspend(|| drop(writeln!(io::stderr(), "{text}")));
        }
    }

    /// Tell a person what is odd.
    pub fn warn(&self, text: &str) {
        self.bars
            .suspend(|| drop(writeln!(io::stderr(), "WARNING:  {text}")));
    }

    /// Print one value as JSON.
    pub fn json(&self, value: &impl Serialize) -> anyhow::Result<()> {
        self.line(serde_json::to_string_pretty(value)?)
    }

    /// Print rows: for JSON the values themselves, otherwise a table of their cells.
    pub fn rows<R: Serialize>(
        &self,
        header: &[&str],
        rows: &[R],
        cells: impl Fn(&R) -> Vec<String>,
    ) -> anyhow::Result<()> {
        match self.mode {
            OutputMode::Json => self.json(&rows),
            OutputMode::Table => self.line(table(header, rows.iter().map(cells))),
        }
    }

    /// Show how far something is: a bar on a terminal, else a line now and then.
    pub fn progress(&self, name: impl Into<String>, total: Option<u64>, measure: Measure) -> Progress {
        let name = name.into();
        let shown = if self.quiet {
            Shown::Nowhere
        } else if io::stderr().is_terminal() {
            let bar = self.bars.add(ProgressBar::no_length());
            bar.set_style(bar_style(total.is_some()));
            bar.set_prefix(name.clone());
            bar.enable_steady_tick(Duration::from_millis(200));
            Shown::Bar(bar)
        } else {
            Shown::Lines {
                next: Instant::now() + LINE_PERIOD,
            }
        };
        if let (Shown::Bar(bar), Some(total)) = (&shown, total) {
            bar.set_length(total);
        }
        Progress {
            name,
            total,
            measure,
            done: 0,
            since: Instant::now(),
            shown,
        }
    }
}

/// Columns aligned by spaces, a line of dashes under the header: the same for eyes and for `awk`.
pub fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    let rows: Vec<Vec<String>> = rows.collect();
    let width = |column: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count());
        cells
            .chain(header.get(column).map(|title| title.chars().count()))
            .max()
            .unwrap_or(0)
    };
    table.set_header(header);
    table.add_row((0..header.len()).map(|column| "-".repeat(width(column))));
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

/// How often progress is told where there is no terminal to draw on.
const LINE_PERIOD: Duration = Duration::from_secs(5);

fn bar_style(bounded: bool) -> ProgressStyle {
    let template = if bounded {
        "{prefix:24} {bar:28} {percent:>3}%  {msg}"
    } else {
        "{prefix:24} {spinner} {msg}"
    };
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸─")
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    Rows,
    Bytes,
    Items,
}

/// One thing that goes on. Dropping it ends the display.
pub struct Progress {
    name: String,
    total: Option<u64>,
    measure: Measure,
    done: u64,
    since: Instant,
    shown: Shown,
}

enum Shown {
    Bar(ProgressBar),
    Lines { next: Instant },
    Nowhere,
}

impl Progress {
    pub fn set(&mut self, done: u64) {
        self.done = done;
        let text = self.text();
        match &mut self.shown {
            Shown::Bar(bar) => {
                bar.set_position(done);
                bar.set_message(text);
            }
            Shown::Lines { next } if Instant::now() >= *next => {
                *next = Instant::now() + LINE_PERIOD;
                write_stderr(&self.name, &text);
            }
            Shown::Lines { .. } | Shown::Nowhere => {}
        }
    }

    pub fn add(&mut self, more: u64) {
        self.set(self.done.saturating_add(more));
    }

    /// A better estimate of the whole.
    pub fn set_total(&mut self, total: u64) {
        if let Shown::Bar(bar) = &self.shown {
            bar.set_style(bar_style(true));
            bar.set_length(total);
        }
        self.total = Some(total);
    }

    /// The last figures stay on the screen.
    pub fn finish(self) {
        let text = format!("{} in {}", self.text(), show_duration(self.since.elapsed()));
        match &self.shown {
            Shown::Bar(bar) => {
                bar.set_length(self.done);
                bar.finish_with_message(text);
            }
            Shown::Lines { .. } => write_stderr(&self.name, &text),
            Shown::Nowhere => {}
        }
    }

    fn text(&self) -> String {
        let elapsed = self.since.elapsed();
        let (done, rate) = match self.measure {
            Measure::Bytes => {
                let micros = elapsed.as_micros().max(1);
                let per_second = u128::from(self.done) * 1_000_000 / micros;
                (
                    show_size(self.done),
                    format!("{}/s", show_size(u64::try_from(per_second).unwrap_or(u64::MAX))),
                )
            }
            Measure::Rows => (
                format!("{} rows", show_count(self.done)),
                show_rate(self.done, elapsed),
            ),
            Measure::Items => (show_count(self.done), show_rate(self.done, elapsed)),
        };
        match self.total.filter(|total| *total > 0) {
            Some(total) if !matches!(self.shown, Shown::Bar(_)) => {
                let percent = u128::from(self.done) * 100 / u128::from(total);
                format!("{done} ({percent}%), {rate}")
            }
            _ => format!("{done}, {rate}"),
        }
    }
}

fn write_stdout(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(ClosedPipe.into()),
        Err(error) => Err(anyhow::Error::new(error).context("write to standard output")),
        Ok(()) => Ok(()),
    }
}

fn write_stderr(name: &str, text: &str) {
    // Progress nobody can see is no reason to stop the work.
    let _ = writeln!(io::stderr().lock(), "{name}: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_plain_and_aligned_when_piped() {
        let rows = [
            vec!["public.account".to_owned(), "ok".to_owned()],
            vec!["t".to_owned(), String::new()],
        ];
        let text = table(&["table", "state"], rows.into_iter());
        assert_eq!(
            text,
            "table           state\n--------------  -----\npublic.account  ok\nt"
        );
    }
}
