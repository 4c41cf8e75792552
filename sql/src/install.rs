//! Puts the SQL modules into a database, and keeps them as they should be.
//!
//! All in one transaction: either every module is there and verified afterwards, or nothing changed.
//! A module whose scripts and functions are as this program would make them is left alone, so a second
//! run does nothing at all. Schemas that PgQ, Londiste and their extensions made are adopted as they are,
//! with all that is in them.

use std::fmt;
use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, GenericClient, IsolationLevel};

mod adopt;
mod error;
mod origin;
mod queries;

pub use error::InstallError;
pub use origin::Origin;

include!(concat!(env!("OUT_DIR"), "/modules.rs"));

/// What [`build.rs`](../build.rs) took from a module's directory.
struct Embedded {
    checksum: &'static str,
    /// Functions that everybody may execute.
    public: &'static [&'static str],
    /// Once, when an older schema is adopted: before the scripts, and after them. May be empty.
    before: &'static str,
    after: &'static str,
    /// In install order.
    scripts: &'static [Script],
}

struct Script {
    file: &'static str,
    /// The index's heading over it.
    group: &'static str,
    /// The function it makes; empty for tables and roles.
    function: &'static str,
    overloads: i64,
    sql: &'static str,
}

/// Capture triggers call these; the extension has them in C.
const TRIGGER_FUNCTIONS: [&str; 4] = ["jsontriga", "logtriga", "logutriga", "sqltriga"];

impl Script {
    fn is_trigger_function(&self) -> bool {
        TRIGGER_FUNCTIONS.contains(&self.function)
    }
}

/// A schema of functions and tables, in the order in which they need each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Module {
    Pgq,
    PgqCoop,
    PgqExt,
    PgqNode,
    Londiste,
}

impl Module {
    pub const ALL: [Module; 5] = [
        Module::Pgq,
        Module::PgqCoop,
        Module::PgqExt,
        Module::PgqNode,
        Module::Londiste,
    ];

    pub const fn schema(self) -> &'static str {
        match self {
            Module::Pgq => "pgq",
            Module::PgqCoop => "pgq_coop",
            Module::PgqExt => "pgq_ext",
            Module::PgqNode => "pgq_node",
            Module::Londiste => "londiste",
        }
    }

    /// Functions for users, with the index's heading over each and the text that makes it.
    pub(crate) fn public_functions(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let scripts = self.embedded().scripts.iter();
        scripts
            .filter(|script| !script.function.is_empty() && !script.function.starts_with('_'))
            .map(|script| (script.group, script.sql))
    }

    fn embedded(self) -> &'static Embedded {
        &EMBEDDED[self as usize]
    }
}

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.schema())
    }
}

/// The version these modules are installed as.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What is to be done, or was done, to a module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// It is as it should be.
    Keep,
    /// It is not there.
    Install,
    /// PgQ's own, of its extension or its scripts: it becomes ours, with what is in it.
    Adopt,
    /// Its scripts are not this program's.
    Upgrade,
    /// Its functions are not as they were installed: somebody changed, dropped or opened one. Or it came without
    /// its rows, out of a dump of the schema.
    Repair,
}

impl Action {
    pub const fn word(self) -> &'static str {
        match self {
            Action::Keep => "keep",
            Action::Install => "install",
            Action::Adopt => "adopt",
            Action::Upgrade => "upgrade",
            Action::Repair => "repair",
        }
    }
}

/// What becomes of capture trigger functions that are written in C.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CTriggers {
    /// Replaced when a schema is adopted; those that were kept then stay.
    #[default]
    AsTheyAre,
    /// They stay, and need their library as long as triggers call them.
    Keep,
    /// By PL/pgSQL ones that give the same events.
    Replace,
}

#[derive(Clone, Debug)]
pub struct Options {
    pub c_triggers: CTriggers,
    /// How long to try for the locks that adopting takes. Each try is short.
    pub lock_timeout: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            c_triggers: CTriggers::default(),
            lock_timeout: Duration::from_secs(30),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ModulePlan {
    pub module: Module,
    /// Version that is there now.
    pub installed: Option<String>,
    pub action: Action,
    /// Who made it, if it is to be adopted.
    pub origin: Option<Origin>,
    /// What adopting does, in words.
    pub steps: Vec<String>,
}

impl ModulePlan {
    fn new(module: Module, installed: Option<String>, action: Action) -> ModulePlan {
        ModulePlan {
            module,
            installed,
            action,
            origin: None,
            steps: Vec::new(),
        }
    }
}

/// One entry a module, in install order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    pub modules: Vec<ModulePlan>,
}

impl Plan {
    pub fn changes_nothing(&self) -> bool {
        self.modules.iter().all(|m| m.action == Action::Keep)
    }

    fn adopts(&self) -> bool {
        self.modules.iter().any(|m| m.action == Action::Adopt)
    }
}

/// Says what [`install`] would do. Changes nothing.
pub async fn plan<C: GenericClient>(client: &C) -> Result<Plan, InstallError> {
    plan_with(client, &Options::default()).await
}

pub async fn plan_with<C: GenericClient>(client: &C, options: &Options) -> Result<Plan, InstallError> {
    let row = client.query_one(queries::SERVER_VERSION, &[]).await?;
    if row.get::<_, i32>(0) < 130_000 {
        return Err(InstallError::ServerTooOld(row.get(1)));
    }
    let mut modules = Vec::with_capacity(Module::ALL.len());
    for module in Module::ALL {
        modules.push(plan_module(client, module, options).await?);
    }
    Ok(Plan { modules })
}

async fn plan_module<C: GenericClient>(
    client: &C,
    module: Module,
    options: &Options,
) -> Result<ModulePlan, InstallError> {
    let row = client.query_one(queries::SCHEMA, &[&module.schema()]).await?;
    let (schema_exists, ledger_exists): (bool, bool) = (row.get(0), row.get(1));
    let extension: Option<String> = row.get(2);
    if !schema_exists {
        return Ok(ModulePlan::new(module, None, Action::Install));
    }

    let entry = match ledger_exists {
        true => client.query_opt(queries::INSTALLED, &[&module.schema()]).await?,
        false => None,
    };
    let Some(entry) = entry else {
        if ledger_exists && client.query_one(queries::LEDGER_IS_EMPTY, &[]).await?.get(0) {
            return Ok(ModulePlan::new(module, None, Action::Repair));
        }
        let origin = origin::recognise(client, module, extension).await?;
        let steps = adopt::examine(client, module, &origin, options.c_triggers).await?;
        return Ok(ModulePlan {
            origin: Some(origin.clone()),
            steps,
            ..ModulePlan::new(module, Some(origin.to_string()), Action::Adopt)
        });
    };
    let (version, checksum, catalog): (String, String, String) = (entry.get(0), entry.get(1), entry.get(2));
    let action = if is_newer(&version, VERSION) {
        return Err(InstallError::Newer {
            module,
            installed: version,
        });
    } else if checksum != module.embedded().checksum {
        Action::Upgrade
    } else if catalog != catalog_checksum(client, module).await?
        || options.c_triggers == CTriggers::Replace && !c_functions(client, module).await?.is_empty()
    {
        Action::Repair
    } else {
        Action::Keep
    };
    Ok(ModulePlan::new(module, Some(version), action))
}

/// Trigger functions of the module that are in C and that a script of ours would replace.
async fn c_functions<C: GenericClient>(client: &C, module: Module) -> Result<Vec<String>, InstallError> {
    let ours = module
        .embedded()
        .scripts
        .iter()
        .filter(|s| s.is_trigger_function());
    let ours: Vec<&str> = ours.map(|s| s.function).collect();
    let rows = client
        .query(queries::C_FUNCTIONS, &[&module.schema(), &ours])
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Installs, adopts, upgrades or repairs the modules, verifies them, and returns what was done. In one
/// transaction, and one at a time in a database.
pub async fn install(client: &mut Client) -> Result<Plan, InstallError> {
    install_with(client, &Options::default()).await
}

pub async fn install_with(client: &mut Client, options: &Options) -> Result<Plan, InstallError> {
    let patience = adopt::Patience::new(options.lock_timeout);
    loop {
        match attempt(client, options).await {
            Ok(plan) => return Ok(plan),
            Err(failure) => patience.after(failure, client).await?,
        }
    }
}

async fn attempt(client: &mut Client, options: &Options) -> Result<Plan, InstallError> {
    let tx = client
        .build_transaction()
        .isolation_level(IsolationLevel::ReadCommitted)
        .read_only(false)
        .start()
        .await?;
    tx.batch_execute(queries::SETTINGS).await?;
    tx.batch_execute(queries::LOCK).await?;
    let plan = plan_with(&tx, options).await?;
    if plan.changes_nothing() {
        tx.rollback().await?;
        return Ok(plan);
    }

    let before = match plan.adopts() {
        true => {
            adopt::lock(&tx).await?;
            let contents = adopt::Contents::read(&tx).await?;
            adopt::detach(&tx, &plan).await?;
            Some(contents)
        }
        false => None,
    };
    let changed = || plan.modules.iter().filter(|entry| entry.action != Action::Keep);
    for entry in changed() {
        let embedded = entry.module.embedded();
        adopt::run_upgrade(&tx, entry, "upgrade/before.sql", embedded.before).await?;
        run_scripts(&tx, entry, options.c_triggers).await?;
        adopt::run_upgrade(&tx, entry, "upgrade/after.sql", embedded.after).await?;
    }
    if let Some(before) = before {
        before.compare(&adopt::Contents::read(&tx).await?)?;
    }
    for entry in changed() {
        verify(&tx, entry.module).await?;
        let catalog = catalog_checksum(&tx, entry.module).await?;
        let embedded = entry.module.embedded();
        tx.execute(
            queries::REMEMBER,
            &[&entry.module.schema(), &VERSION, &embedded.checksum, &catalog],
        )
        .await?;
    }
    tx.commit().await?;
    Ok(plan)
}

async fn run_scripts<C: GenericClient>(
    client: &C,
    entry: &ModulePlan,
    triggers: CTriggers,
) -> Result<(), InstallError> {
    let module = entry.module;
    let kept = match (triggers, entry.action) {
        (CTriggers::Replace, _) | (CTriggers::AsTheyAre, Action::Adopt) => Vec::new(),
        (CTriggers::Keep | CTriggers::AsTheyAre, _) => c_functions(client, module).await?,
    };
    for script in module.embedded().scripts {
        if kept.iter().any(|function| function == script.function) {
            continue;
        }
        let failed = |source| InstallError::Script {
            module,
            file: script.file,
            source,
        };
        if entry.action == Action::Install || script.function.is_empty() {
            client.batch_execute(script.sql).await.map_err(failed)?;
            continue;
        }
        // A function whose result columns changed cannot be replaced, only dropped and made anew.
        client.batch_execute("savepoint skytide_function").await?;
        let done = match client.batch_execute(script.sql).await {
            Err(e) if e.code() == Some(&SqlState::INVALID_FUNCTION_DEFINITION) => {
                client
                    .batch_execute("rollback to savepoint skytide_function")
                    .await?;
                drop_overloads(client, module, script.function).await?;
                client.batch_execute(script.sql).await
            }
            done => done,
        };
        done.map_err(failed)?;
        client.batch_execute("release savepoint skytide_function").await?;
        // An older maker's overloads would be ambiguous beside ours.
        if entry.action == Action::Adopt && count_overloads(client, module, script).await? != script.overloads
        {
            drop_overloads(client, module, script.function).await?;
            client.batch_execute(script.sql).await.map_err(failed)?;
        }
    }
    Ok(())
}

async fn count_overloads<C: GenericClient>(
    client: &C,
    module: Module,
    script: &Script,
) -> Result<i64, InstallError> {
    let row = client
        .query_one(queries::COUNT_OVERLOADS, &[&module.schema(), &script.function])
        .await?;
    Ok(row.get(0))
}

async fn drop_overloads<C: GenericClient>(
    client: &C,
    module: Module,
    function: &str,
) -> Result<(), InstallError> {
    for row in client
        .query(queries::DROP_OVERLOADS, &[&module.schema(), &function])
        .await?
    {
        // quoted by the server
        client.batch_execute(row.get(0)).await?;
    }
    Ok(())
}

/// The catalog is the linter: what the module should have made is there, and is safe.
async fn verify<C: GenericClient>(client: &C, module: Module) -> Result<(), InstallError> {
    let embedded = module.embedded();
    let fault = |function: String, fault: String| Err(InstallError::Verify { function, fault });

    for script in embedded.scripts.iter().filter(|s| !s.function.is_empty()) {
        let found = count_overloads(client, module, script).await?;
        if found != script.overloads {
            return fault(
                format!("{module}.{}", script.function),
                format!("exists {found} times, not {}; drop the others", script.overloads),
            );
        }
    }
    if let Some(row) = client.query_opt(queries::UNPINNED, &[&module.schema()]).await? {
        return fault(
            row.get(0),
            "is security definer without a pinned search_path".into(),
        );
    }
    let row = client
        .query_opt(queries::OPEN_TO_PUBLIC, &[&module.schema(), &embedded.public])
        .await?;
    if let Some(row) = row {
        return fault(row.get(0), "can be executed by PUBLIC".into());
    }
    Ok(())
}

async fn catalog_checksum<C: GenericClient>(client: &C, module: Module) -> Result<String, InstallError> {
    let functions: Vec<&str> = module.embedded().scripts.iter().map(|s| s.function).collect();
    let row = client
        .query_one(queries::CATALOG_CHECKSUM, &[&module.schema(), &functions])
        .await?;
    Ok(row.get(0))
}

/// Compares `major.minor.patch`; a part that is no number counts as 0.
fn is_newer(version: &str, than: &str) -> bool {
    let parts = |text: &str| -> Vec<u64> { text.split('.').map(|p| p.parse().unwrap_or(0)).collect() };
    parts(version) > parts(than)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(is_newer("0.10.0", "0.9.1"));
        assert!(!is_newer("0.1.0", "0.1.0"));
        assert!(!is_newer("0.0.9", "0.1.0"));
    }

    #[test]
    fn every_module_has_tables_first_and_grants_last() {
        for module in Module::ALL {
            let scripts = module.embedded().scripts;
            assert_eq!(scripts.first().map(|s| s.file), Some("tables.sql"));
            assert_eq!(scripts.last().map(|s| s.file), Some("roles.sql"));
            assert!(module.embedded().public.contains(&"version"), "{module}");
        }
    }
}
