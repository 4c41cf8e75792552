//! `skytide docs`: write manual pages, and the pages of `docs/` that are made from the code.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::Outcome;
use super::compat::OLD_NAMES;
use crate::config::pages;

/// Write manual pages, or the pages of docs/ that are made from the code
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  skytide docs --man /usr/local/share/man/man1\n  skytide docs --write docs"
)]
pub struct DocsArgs {
    /// Write a manual page for each command into this directory.
    #[arg(long, value_name = "DIRECTORY")]
    man: Option<PathBuf>,
    /// Write the pages that are made from tables in the code into this directory; without --man it is docs.
    #[arg(long, value_name = "DIRECTORY")]
    write: Option<PathBuf>,
}

/// Page names and their text.
pub fn generated() -> [(&'static str, String); 2] {
    [
        ("config.md", pages::manual()),
        ("sql.md", skytide_sql::manual::page()),
    ]
}

pub fn run(args: &DocsArgs) -> anyhow::Result<Outcome> {
    if let Some(directory) = &args.man {
        write_man_pages(directory)?;
    }
    let docs = match (&args.write, &args.man) {
        (None, Some(_)) => return Ok(Outcome::Done),
        (None, None) => Path::new("docs"),
        (Some(directory), _) => directory,
    };
    for (name, text) in generated() {
        let path = docs.join(name);
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(Outcome::Done)
}

/// `skytide.1`, `skytide-COMMAND.1` for each command below, and under each old name a page that shows its
/// command's.
fn write_man_pages(directory: &Path) -> anyhow::Result<()> {
    let wrote = std::fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(super::command(), directory))
        .and_then(|()| {
            OLD_NAMES.iter().try_for_each(|(old, command)| {
                let page = format!(".so man1/skytide-{command}.1\n");
                std::fs::write(directory.join(format!("{old}.1")), page)
            })
        });
    wrote.with_context(|| format!("write manual pages to {}", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_pages_are_fresh() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        for (name, text) in generated() {
            let written = std::fs::read_to_string(docs.join(name)).unwrap_or_default();
            assert!(
                written == text,
                "docs/{name} is stale; run: cargo run -p skytide -- docs --write docs"
            );
        }
    }

    #[test]
    fn each_command_has_a_manual_page() {
        let directory = tempfile::tempdir().unwrap();
        let man = directory.path().join("man1");
        write_man_pages(&man).unwrap();
        let page = |name: &str| std::fs::read_to_string(man.join(name)).unwrap();
        assert!(page("skytide.1").contains("skytide\\-qadmin(1)"));
        assert!(page("skytide-qadmin.1").contains("dry\\-run"));
        assert!(page("skytide-londiste-add-table.1").contains(".TH"));
        assert_eq!(page("pgqd.1"), ".so man1/skytide-ticker.1\n");
    }

    #[test]
    fn the_manual_lists_every_metric_and_every_check() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let page = |name: &str| std::fs::read_to_string(docs.join(name)).unwrap();
        let (monitoring, faults) = (page("monitoring.md"), page("faults.md"));
        for (name, kind, text) in crate::metrics::catalogue() {
            let line = format!("| `{name}` | {kind} | {text} |");
            assert!(monitoring.contains(&line), "docs/monitoring.md lacks:\n{line}");
        }
        for (name, about) in crate::doctor::catalogue() {
            let line = format!("| {name} | {about} |");
            assert!(faults.contains(&line), "docs/faults.md lacks:\n{line}");
        }
    }
}
