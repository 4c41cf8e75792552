//! The layers of a configuration, joined: preset < file < environment < `--set`.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use skytide_sql::conn::ConnectString;
use tracing::warn;

use super::ini::{Entry, Ini, Lookup, Place, References, expand_home, interpolate};
use super::keys::{Effect, Key, Kind, Preset, Table};
use super::{ConfigError, Overrides, unit};

/// One table's values after all layers: preset < file < environment < `--set`.
pub struct Values {
    table: &'static Table,
    path: PathBuf,
    values: HashMap<&'static str, (String, Place)>,
}

impl Values {
    pub fn load(
        table: &'static Table,
        path: Option<&Path>,
        overrides: &Overrides,
    ) -> Result<Self, ConfigError> {
        let environment = |key: &Key| {
            let variable = format!("SKYTIDE_{}", key.name.to_ascii_uppercase());
            std::env::var(&variable).ok().map(|value| (variable, value))
        };
        Self::join(
            table,
            path.map(Ini::read).transpose()?.as_ref(),
            environment,
            overrides,
        )
    }

    /// The values of a section of its own, one of several that have the table's keys. Only the file sets them.
    pub fn load_section(table: &'static Table, section: &str, path: &Path) -> Result<Self, ConfigError> {
        let ini = Ini::read(path)?;
        let layers = Layers::new(table, &[section], Some(&ini), |_| None, &Overrides::default())?;
        Self::of(table, layers)
    }

    pub(super) fn join(
        table: &'static Table,
        ini: Option<&Ini>,
        environment: impl Fn(&Key) -> Option<(String, String)>,
        overrides: &Overrides,
    ) -> Result<Self, ConfigError> {
        Self::of(
            table,
            Layers::new(table, table.sections, ini, environment, overrides)?,
        )
    }

    fn of(table: &'static Table, layers: Layers) -> Result<Self, ConfigError> {
        let references = match layers.raw(None, "config_format").as_deref() {
            Some("1") => References::Percent,
            Some("2") => References::Dollar,
            _ => References::Both,
        };
        let mut values = HashMap::new();
        for key in table.keys() {
            let Some(entry) = layers.winning.get(key.name) else {
                continue;
            };
            let value = interpolate(entry, references, &layers)?;
            // An empty value unsets a key that need not be set.
            if !value.is_empty() || matches!(key.preset, Preset::Value(_) | Preset::Required) {
                let bad = |what| ConfigError::Value {
                    place: entry.place.clone(),
                    key: key.name,
                    what,
                };
                match key.kind {
                    Kind::Text | Kind::Connect | Kind::Path | Kind::List => {}
                    kind => kind.check(&value).map_err(bad)?,
                }
                values.insert(key.name, (value, entry.place.clone()));
            }
        }
        Ok(Self {
            table,
            path: layers.path,
            values,
        })
    }

    pub fn service(&self) -> &'static str {
        self.table.service
    }

    fn get(&self, key: &'static str) -> Option<&str> {
        debug_assert!(self.table.find(key).is_some(), "{key} is not in the table");
        self.values.get(key).map(|(value, _)| value.as_str())
    }

    pub fn text(&self, key: &'static str) -> Result<Option<&str>, ConfigError> {
        Ok(self.get(key).filter(|value| !value.is_empty()))
    }

    pub fn connect(&self, key: &'static str) -> Result<Option<ConnectString>, ConfigError> {
        let parse = |text| super::connect_string(text, "").map_err(|error| self.bad(key, error.to_string()));
        self.text(key)?.map(parse).transpose()
    }

    /// Like [`Values::connect`]; an unset key asks for what the environment and libpq's presets say.
    pub fn connect_or_default(&self, key: &'static str) -> Result<ConnectString, ConfigError> {
        let read = match self.text(key)? {
            Some(text) => super::connect_string(text, ""),
            None => ConnectString::parse_with_environment("", super::variable),
        };
        read.map_err(|error| self.bad(key, error.to_string()))
    }

    pub fn path(&self, key: &'static str) -> Result<Option<PathBuf>, ConfigError> {
        Ok(self.text(key)?.filter(|value| *value != "-").map(expand_home))
    }

    pub fn list(&self, key: &'static str) -> Result<Vec<String>, ConfigError> {
        let items = self
            .text(key)?
            .unwrap_or_default()
            .split([',', '\n'])
            .map(str::trim);
        Ok(items.filter(|item| !item.is_empty()).map(str::to_owned).collect())
    }

    pub fn duration(&self, key: &'static str) -> Result<Duration, ConfigError> {
        unit::duration(self.get(key).unwrap_or_default()).map_err(|what| self.bad(key, what))
    }

    pub fn size(&self, key: &'static str) -> Result<u64, ConfigError> {
        unit::size(self.get(key).unwrap_or_default()).map_err(|what| self.bad(key, what))
    }

    pub fn count(&self, key: &'static str) -> Result<u64, ConfigError> {
        self.get(key)
            .unwrap_or_default()
            .parse()
            .map_err(|_| self.bad(key, "expected a whole number"))
    }

    /// A count of things that exist at the same time, so it fits in memory.
    pub fn places(&self, key: &'static str) -> Result<usize, ConfigError> {
        usize::try_from(self.count(key)?)
            .ok()
            .filter(|count| *count <= 1000)
            .ok_or_else(|| self.bad(key, "expected at most 1000"))
    }

    pub fn name<T, E: fmt::Display>(
        &self,
        key: &'static str,
        new: impl FnOnce(String) -> Result<T, E>,
    ) -> Result<Option<T>, ConfigError> {
        self.text(key)?
            .map(|text| new(text.to_owned()).map_err(|error| self.bad(key, error.to_string())))
            .transpose()
    }

    pub fn required_name<T, E: fmt::Display>(
        &self,
        key: &'static str,
        new: impl FnOnce(String) -> Result<T, E>,
    ) -> Result<T, ConfigError> {
        self.name(key, new)?.ok_or_else(|| self.missing(key))
    }

    pub fn missing(&self, key: &'static str) -> ConfigError {
        let doc = self.table.find(key).map_or("", |key| key.doc);
        ConfigError::Missing {
            path: self.path.clone(),
            key,
            doc,
        }
    }

    pub fn bad(&self, key: &'static str, what: impl Into<String>) -> ConfigError {
        let place = self
            .values
            .get(key)
            .map_or(Place::Default, |(_, place)| place.clone());
        ConfigError::Value {
            place,
            key,
            what: what.into(),
        }
    }
}

/// All layers of one table, before references are replaced.
struct Layers {
    path: PathBuf,
    winning: HashMap<&'static str, Entry>,
    /// Everything a reference may name: predefined keys, [DEFAULT], the section, by raw value.
    names: HashMap<String, String>,
    /// Other sections, for `${section:key}`.
    sections: HashMap<String, HashMap<String, String>>,
}

impl Layers {
    fn new(
        table: &'static Table,
        sections: &[&str],
        ini: Option<&Ini>,
        environment: impl Fn(&Key) -> Option<(String, String)>,
        overrides: &Overrides,
    ) -> Result<Self, ConfigError> {
        let path = ini
            .map(|ini| ini.path().to_owned())
            .unwrap_or_else(|| PathBuf::from("the command line"));
        let mut layers = Self {
            path,
            winning: HashMap::new(),
            names: predefined(table, ini),
            sections: HashMap::new(),
        };

        let job_name = layers.names.get("job_name").cloned().unwrap_or_default();
        for key in table.keys() {
            match key.preset {
                Preset::Value(value) => layers.win(key, value, Place::Default),
                _ if key.name == "job_name" => layers.win(key, &job_name, Place::Default),
                _ => {}
            }
        }
        if let Some(ini) = ini {
            layers.add_file(table, sections, ini)?;
        }
        for key in table.keys().filter(|key| key.effect == Effect::Acts) {
            if let Some((variable, value)) = environment(key) {
                layers.win(key, &value, Place::Environment { variable });
            }
        }
        for (name, value) in &overrides.set {
            let entry = Entry {
                key: name.clone(),
                value: value.clone(),
                place: Place::CommandLine,
            };
            layers.add(table, &entry, &HashSet::new())?;
        }
        Ok(layers)
    }

    fn add_file(&mut self, table: &'static Table, sections: &[&str], ini: &Ini) -> Result<(), ConfigError> {
        let section = sections
            .iter()
            .find_map(|name| ini.section(name))
            .ok_or_else(|| ConfigError::NoSection {
                path: ini.path().to_owned(),
                section: sections.first().copied().unwrap_or_default().to_owned(),
                found: ini.section_names().map(str::to_owned).collect(),
            })?;
        for name in ini.section_names() {
            let entries = ini.section(name).unwrap_or_default();
            let entries = entries
                .iter()
                .map(|entry| (entry.key.clone(), entry.value.clone()))
                .collect();
            self.sections.insert(name.to_owned(), entries);
        }
        let defaults = ini.section("DEFAULT").unwrap_or_default();
        // A key nobody knows is a variable if some value refers to it, and a typing error if not.
        let referenced: HashSet<String> = defaults
            .iter()
            .chain(section)
            .flat_map(|entry| references_in(&entry.value))
            .collect();
        for entry in defaults {
            // [DEFAULT] serves several programs, so a stranger's key there is nobody's mistake.
            self.names.insert(entry.key.clone(), entry.value.clone());
            if table.find(&entry.key).is_some() {
                self.add(table, entry, &referenced)?;
            }
        }
        section
            .iter()
            .try_for_each(|entry| self.add(table, entry, &referenced))
    }

    fn add(
        &mut self,
        table: &'static Table,
        entry: &Entry,
        variables: &HashSet<String>,
    ) -> Result<(), ConfigError> {
        let Some(key) = table.find(&entry.key) else {
            if variables.contains(&entry.key) {
                self.names.insert(entry.key.clone(), entry.value.clone());
                return Ok(());
            }
            return Err(ConfigError::UnknownKey {
                place: entry.place.clone(),
                key: entry.key.clone(),
                nearest: table.nearest(&entry.key),
            });
        };
        match key.effect {
            Effect::Acts => self.win(key, &entry.value, entry.place.clone()),
            Effect::Ignored(reason) => warn!("{}: {} has no effect: {reason}", entry.place, key.name),
            Effect::Refused(reason) => {
                let what = format!("it cannot be honoured: {reason}");
                return Err(ConfigError::Value {
                    place: entry.place.clone(),
                    key: key.name,
                    what,
                });
            }
        }
        Ok(())
    }

    fn win(&mut self, key: &'static Key, value: &str, place: Place) {
        if value.is_empty() && key.name == "job_name" {
            // A job without a name is one that goes by its file's.
            return;
        }
        let entry = Entry {
            key: key.name.to_owned(),
            value: value.to_owned(),
            place,
        };
        for name in std::iter::once(&key.name).chain(key.aliases) {
            self.names.insert((*name).to_owned(), entry.value.clone());
        }
        self.winning.insert(key.name, entry);
    }
}

impl Lookup for Layers {
    fn raw(&self, section: Option<&str>, key: &str) -> Option<String> {
        match section {
            Some(section) => self.sections.get(section)?.get(key).cloned(),
            None => self.names.get(key).cloned(),
        }
    }
}

/// Names every file may refer to without setting them.
fn predefined(table: &Table, ini: Option<&Ini>) -> HashMap<String, String> {
    let file = ini.map(Ini::path);
    let shown = |path: Option<&Path>| path.map(|path| path.display().to_string()).unwrap_or_default();
    let job = file
        .and_then(Path::file_stem)
        .map(|stem| stem.to_string_lossy().into_owned());
    // A doubled sign stands for itself: a directory's name is not a place for references.
    let plain = |text: String| text.replace('%', "%%").replace('$', "$$");
    HashMap::from([
        (
            "job_name".to_owned(),
            plain(job.unwrap_or_else(|| table.service.to_owned())),
        ),
        ("service_name".to_owned(), table.service.to_owned()),
        ("host_name".to_owned(), plain(host_name())),
        ("config_dir".to_owned(), plain(shown(file.and_then(Path::parent)))),
        ("config_file".to_owned(), plain(shown(file))),
    ])
}

pub(super) fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .or_else(|_| std::env::var("HOSTNAME"))
        .unwrap_or_else(|_| "localhost".to_owned())
}

/// The names a raw value refers to.
fn references_in(value: &str) -> Vec<String> {
    let percent = value.split("%(").skip(1).filter_map(|rest| rest.split_once(")s"));
    let dollar = value.split("${").skip(1).filter_map(|rest| rest.split_once('}'));
    percent
        .chain(dollar)
        .map(|(name, _)| name.trim().to_ascii_lowercase())
        .collect()
}
