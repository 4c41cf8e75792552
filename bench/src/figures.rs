//! Samples, their medians, and the tables made of them.

use std::fmt::Write as _;

use crate::rig::Cpu;

/// One timed run of one peer.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub rows: f64,
    pub seconds: f64,
    pub cpu: Cpu,
}

impl Sample {
    pub fn rate(&self) -> f64 {
        self.rows / self.seconds
    }

    /// Microseconds of CPU a row.
    fn per_row(&self, part: impl Fn(&Cpu) -> f64) -> f64 {
        part(&self.cpu) * 1e6 / self.rows
    }
}

/// The same work done by us and by somebody else, side by side, several times.
#[derive(Clone, Debug, Default)]
pub struct Case {
    pub name: String,
    /// Who `theirs` is.
    pub peer: &'static str,
    /// The least ratio of the rates that was set as a mark.
    pub mark: Option<f64>,
    /// The most CPU a row, all processes, as a part of theirs.
    pub cpu_mark: Option<f64>,
    pub pairs: Vec<(Sample, Sample)>,
}

impl Case {
    pub fn new(name: impl Into<String>, peer: &'static str) -> Case {
        Case {
            name: name.into(),
            peer,
            ..Case::default()
        }
    }

    pub fn at_least(mut self, ratio: f64) -> Case {
        self.mark = Some(ratio);
        self
    }

    fn ratios(&self) -> Vec<f64> {
        self.pairs.iter().map(|(o, t)| o.rate() / t.rate()).collect()
    }

    fn cpu_ratios(&self) -> Vec<f64> {
        self.pairs
            .iter()
            .map(|(o, t)| o.per_row(Cpu::total) / t.per_row(Cpu::total))
            .collect()
    }

    fn verdicts(&self) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        if let Some(mark) = self.mark {
            let seen = median(&self.ratios());
            verdicts.push(Verdict {
                what: format!("{}: rows/s ÷ {}", self.name, self.peer),
                wanted: format!("≥ {mark}"),
                seen: format!("{seen:.2}"),
                met: seen >= mark,
            });
        }
        if let Some(mark) = self.cpu_mark {
            let seen = median(&self.cpu_ratios());
            verdicts.push(Verdict {
                what: format!("{}: CPU a row ÷ {}", self.name, self.peer),
                wanted: format!("≤ {mark}"),
                seen: format!("{seen:.2}"),
                met: seen <= mark,
            });
        }
        verdicts
    }
}

/// A figure beside its mark.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Verdict {
    pub what: String,
    pub wanted: String,
    pub seen: String,
    pub met: bool,
}

impl Verdict {
    pub fn at_least(what: impl Into<String>, limit: f64, seen: f64, unit: &str) -> Verdict {
        Verdict {
            what: what.into(),
            wanted: format!("≥ {limit} {unit}"),
            seen: format!("{seen:.1} {unit}"),
            met: seen >= limit,
        }
    }

    pub fn at_most(what: impl Into<String>, limit: f64, seen: f64, unit: &str) -> Verdict {
        Verdict {
            what: what.into(),
            wanted: format!("≤ {limit} {unit}"),
            seen: format!("{seen:.1} {unit}"),
            met: seen <= limit,
        }
    }
}

/// What a scenario found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Markdown.
    pub text: String,
    pub verdicts: Vec<Verdict>,
}

impl Findings {
    pub fn note(&mut self, text: impl AsRef<str>) {
        let _ = writeln!(self.text, "{}\n", text.as_ref());
    }

    pub fn table(&mut self, head: &[&str], rows: &[Vec<String>]) {
        self.text.push_str(&table(head, rows));
        self.text.push('\n');
    }

    /// The cases as tables: rates, then CPU.
    pub fn cases(&mut self, cases: &[Case]) {
        let rates: Vec<Vec<String>> = cases
            .iter()
            .map(|case| {
                let side = |of: fn(&(Sample, Sample)) -> &Sample| {
                    thousands(median(&collect(case, |p| of(p).rate())))
                };
                let ratios = case.ratios();
                vec![
                    case.name.clone(),
                    side(|p| &p.0),
                    format!("{} {}", case.peer, side(|p| &p.1)),
                    spread(&ratios),
                    case.mark.map_or("–".into(), |m| format!("≥ {m}")),
                ]
            })
            .collect();
        self.table(
            &["rows/s", "skytide", "peer", "ratio min / median / max", "mark"],
            &rates,
        );
        let cpu: Vec<Vec<String>> = cases
            .iter()
            .map(|case| {
                let us = |of: fn(&(Sample, Sample)) -> &Sample, part: fn(&Cpu) -> f64| {
                    format!("{:.1}", median(&collect(case, |p| of(p).per_row(part))))
                };
                vec![
                    case.name.clone(),
                    us(|p| &p.0, |c| c.provider),
                    us(|p| &p.0, |c| c.subscriber),
                    us(|p| &p.0, |c| c.ours),
                    us(|p| &p.0, Cpu::total),
                    us(|p| &p.1, |c| c.provider),
                    us(|p| &p.1, |c| c.subscriber),
                    us(|p| &p.1, Cpu::total),
                    spread(&case.cpu_ratios()),
                    case.cpu_mark.map_or("–".into(), |m| format!("≤ {m}")),
                ]
            })
            .collect();
        self.table(
            &[
                "CPU µs a row",
                "provider",
                "subscriber",
                "our process",
                "all",
                "peer's provider",
                "peer's subscriber",
                "all",
                "ratio min / median / max",
                "mark",
            ],
            &cpu,
        );
        self.verdicts.extend(cases.iter().flat_map(Case::verdicts));
    }
}

fn collect(case: &Case, of: impl Fn(&(Sample, Sample)) -> f64) -> Vec<f64> {
    case.pairs.iter().map(of).collect()
}

pub fn median(values: &[f64]) -> f64 {
    percentile(values, 50.0)
}

/// The value that `percent` of the values do not exceed.
pub fn percentile(values: &[f64], percent: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    let place = (last as f64 * percent / 100.0).round() as usize;
    sorted.get(place).copied().unwrap_or(f64::NAN)
}

pub fn spread(values: &[f64]) -> String {
    format!(
        "{:.2} / {:.2} / {:.2}",
        percentile(values, 0.0),
        median(values),
        percentile(values, 100.0)
    )
}

pub fn thousands(value: f64) -> String {
    if value >= 10_000.0 {
        format!("{:.0}k", value / 1000.0)
    } else {
        format!("{value:.0}")
    }
}

/// A Markdown table that also reads well as it is.
fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String]| {
        let padded: Vec<String> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell}{}", " ".repeat(width - cell.chars().count())))
            .collect();
        format!("| {} |\n", padded.join(" | "))
    };
    let mut text = line(&head.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>());
    text.push_str(&line(&widths.iter().map(|w| "-".repeat(*w)).collect::<Vec<_>>()));
    for row in rows {
        text.push_str(&line(row));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let values = [3.0, 1.0, 2.0];
        assert_eq!(spread(&values), "1.00 / 2.00 / 3.00");
        assert_eq!(percentile(&values, 99.0), 3.0);
    }

    #[test]
    fn a_case_is_judged_by_the_median_of_its_ratios() {
        let sample = |rows: f64| Sample {
            rows,
            seconds: 1.0,
            cpu: Cpu::default(),
        };
        let mut case = Case::new("x", "native").at_least(2.0);
        case.pairs = vec![
            (sample(1.0), sample(1.0)),
            (sample(3.0), sample(1.0)),
            (sample(2.0), sample(1.0)),
        ];
        assert!(case.verdicts().iter().all(|v| v.met));
        case.mark = Some(2.1);
        assert!(case.verdicts().iter().all(|v| !v.met));
    }
}
