//! Settings of `skytide promote`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use skytide_wal::promote::{Hook, NodeSettings};

use super::{Values, WalmgrSettings};
use crate::config::keys::{NODE, PROMOTE};
use crate::config::{ConfigError, Overrides};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromoteSettings {
    pub walmgr: WalmgrSettings,
    pub nodes: Vec<NodeSettings>,
    pub fence: Option<Hook>,
    pub fence_required: bool,
    pub answer_timeout: Duration,
    pub hook_timeout: Duration,
    pub wait_timeout: Duration,
    /// Bytes.
    pub switchover_max_lag: u64,
    pub journal: PathBuf,
}

impl PromoteSettings {
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let values = Values::load(&PROMOTE, Some(path), &Overrides::default())?;
        let names = values.list("nodes")?;
        if names.is_empty() {
            return Err(values.missing("nodes"));
        }
        // They are parts of file names.
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if let Some(bad) = names.iter().find(|name| !name.chars().all(plain)) {
            return Err(values.bad(
                "nodes",
                format!("{bad:?} is no name for a node: use letters, digits, - and _"),
            ));
        }
        Ok(Self {
            walmgr: WalmgrSettings::load(path, &Overrides::default())?,
            nodes: names
                .iter()
                .map(|name| node(name, path))
                .collect::<Result<_, _>>()?,
            fence: hook(&values, "fence_command")?,
            fence_required: values.text("fence_required")? != Some("no"),
            answer_timeout: values.duration("answer_timeout")?,
            hook_timeout: values.duration("hook_timeout")?,
            wait_timeout: values.duration("wait_timeout")?,
            switchover_max_lag: values.size("switchover_max_lag")?,
            journal: values
                .path("journal")?
                .unwrap_or_else(|| path.with_extension("promote.json")),
        })
    }
}

fn node(name: &str, path: &Path) -> Result<NodeSettings, ConfigError> {
    let values = Values::load_section(&NODE, &format!("node {name}"), path)?;
    Ok(NodeSettings {
        name: name.to_owned(),
        db: values.connect("db")?.ok_or_else(|| values.missing("db"))?,
        follow: values.connect("replication")?,
        data_dir: values.path("data")?,
        bin_dir: values.path("bin_dir")?,
        restore_command: values.text("restore_command")?.map(str::to_owned),
        start: hook(&values, "start_command")?,
        stop: hook(&values, "stop_command")?,
    })
}

fn hook(values: &Values, key: &'static str) -> Result<Option<Hook>, ConfigError> {
    let parse = |text| {
        Hook::parse(text)
            .ok_or_else(|| values.bad(key, "expected a program and its arguments, quotes in pairs"))
    };
    values.text(key)?.map(parse).transpose()
}
