//! The key table for people: the sample that `--ini` prints, and `docs/config.md`.

use std::fmt::Write;

use super::keys::{Effect, Key, LONDISTE, NODE, PROMOTE, Preset, TICKER, Table, WALMGR};

/// A commented configuration file with every key at its preset.
pub fn sample(table: &Table) -> String {
    let mut out = format!("[{}]\n", table.sections[0]);
    for group in table.groups {
        let acting: Vec<&Key> = group
            .keys
            .iter()
            .filter(|key| key.effect == Effect::Acts)
            .collect();
        if acting.is_empty() {
            continue;
        }
        let _ = write!(out, "\n## {}\n", group.title);
        for key in acting {
            out.push('\n');
            for line in wrap(key.doc, 90) {
                let _ = writeln!(out, "# {line}");
            }
            let _ = match key.preset {
                Preset::Required => writeln!(out, "{} =", key.name),
                Preset::None => writeln!(out, "#{} =", key.name),
                Preset::Value(value) => writeln!(out, "#{} = {value}", key.name),
                Preset::Derived(from) => writeln!(out, "# Preset: {from}.\n#{} =", key.name),
            };
        }
    }
    out
}

/// `docs/config.md`.
pub fn manual() -> String {
    let mut out = String::from(MANUAL_HEAD);
    for (title, table) in [
        ("skytide londiste", &LONDISTE),
        ("skytide ticker", &TICKER),
        ("skytide walmgr", &WALMGR),
        ("skytide promote", &PROMOTE),
        ("skytide promote", &NODE),
    ] {
        let _ = write!(out, "\n## `{title}`: section `[{}]`", table.sections[0]);
        for old in &table.sections[1..] {
            let _ = write!(out, " (`[{old}]` is read too)");
        }
        out.push('\n');
        for group in table.groups {
            section(&mut out, group.title, group.keys);
        }
    }
    out
}

const MANUAL_HEAD: &str = "\
# Configuration

<!-- Made by `skytide docs --write docs` from engine/src/config/keys.rs; a test fails when it is stale. -->

Settings come from an INI file. Later layers win: preset, file, environment (`SKYTIDE_` and the key in capitals),
`--set key=value`, other flags. `--ini` prints a commented sample.

- A comment is a line that begins with `#` or `;`. The rest of a value's line belongs to the value, quotes and all.
- `%include FILE` reads another file in this place, relative to the file it stands in; ten levels at most.
- `%(key)s` and `${key}` stand for another key's value, `${section:key}` for one of another section; `%%` and `$$`
  stand for the sign itself. `job_name`, `service_name`, `host_name`, `config_dir` and `config_file` are always there,
  and a section `[DEFAULT]` may hold more.
- An indented line continues the value above it, except in `[pgqd]`.
- Durations: `10ms`, `2s`, `5min`, `1h`, `1d`; a bare number is seconds. Sizes: `64MB`, `16GiB`, steps of 1024; a bare
  number is bytes. Lists are separated by commas.
- An unknown key is an error, unless another value refers to it.
- SIGHUP reads the file again; a file with an error in it changes nothing, and the log says what is wrong.
";

fn section(out: &mut String, title: &str, keys: &[Key]) {
    let acting = || keys.iter().filter(|key| key.effect == Effect::Acts);
    if acting().next().is_some() {
        let _ = write!(
            out,
            "\n### {title}\n\n| key | type | preset | meaning |\n|---|---|---|---|\n"
        );
        for key in acting() {
            let _ = writeln!(
                out,
                "| `{}`{} | {} | {} | {} |",
                key.name,
                key.aliases
                    .iter()
                    .map(|old| format!(" (`{old}`)"))
                    .collect::<String>(),
                key.kind.name(),
                preset(key.preset),
                key.doc
            );
        }
    }
    let idle: Vec<_> = keys
        .iter()
        .filter_map(|key| match key.effect {
            Effect::Acts => None,
            Effect::Ignored(reason) => Some((key.name, "a warning", reason)),
            Effect::Refused(reason) => Some((key.name, "an error", reason)),
        })
        .collect();
    if !idle.is_empty() {
        let _ = write!(out, "\n### {title}\n\n| key | gives | reason |\n|---|---|---|\n");
        for (name, gives, reason) in idle {
            let _ = writeln!(out, "| `{name}` | {gives} | {reason} |");
        }
    }
}

fn preset(preset: Preset) -> String {
    match preset {
        Preset::Required => "required".into(),
        Preset::None | Preset::Value("") => "none".into(),
        Preset::Value(value) => format!("`{value}`"),
        Preset::Derived(from) => from.into(),
    }
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.len() - 1;
        if !lines[last].is_empty() && lines[last].chars().count() + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
        } else {
            if !lines[last].is_empty() {
                lines[last].push(' ');
            }
            lines[last].push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_read_well() {
        insta::assert_snapshot!("londiste_ini", sample(&LONDISTE));
        insta::assert_snapshot!("ticker_ini", sample(&TICKER));
        insta::assert_snapshot!("walmgr_ini", sample(&WALMGR));
        insta::assert_snapshot!("promote_ini", sample(&PROMOTE) + "\n" + &sample(&NODE));
    }
}
