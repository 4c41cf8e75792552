//! `skytide docs`: write the pages that are made from the code.

use std::path::PathBuf;

use anyhow::Context as _;

use super::{Context, Outcome};
use crate::config::pages;

#[derive(clap::Args, Debug)]
pub struct DocsArgs {
    /// The directory that gets the pages.
    #[arg(long, value_name = "DIRECTORY", default_value = "docs")]
    write: PathBuf,
}

/// Page names and their text.
pub fn generated() -> [(&'static str, String); 1] {
    [("config.md", pages::manual())]
}

pub async fn run(args: DocsArgs, _context: &Context) -> anyhow::Result<Outcome> {
    for (name, text) in generated() {
        let path = args.write.join(name);
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

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
