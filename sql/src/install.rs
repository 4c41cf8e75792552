//! Puts the SQL modules into a database, and keeps them as they should be.
//!
//! All in one transaction: either every module is there and verified afterwards, or nothing changed.
//! A module whose scripts and functions are as this program would make them is left alone, so a second
//! run does nothing at all.

use std::fmt;

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, GenericClient, IsolationLevel};

mod queries;

include!(concat!(env!("OUT_DIR"), "/modules.rs"));

/// What [`build.rs`](../build.rs) took from a module's directory.
struct Embedded {
    checksum: &'static str,
    /// Functions that everybody may execute.
    public: &'static [&'static str],
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
    /// Its scripts are not this program's.
    Upgrade,
    /// Its functions are not as they were installed: somebody changed, dropped or opened one.
    Repair,
}

impl Action {
    pub const fn word(self) -> &'static str {
        match self {
            Action::Keep => "keep",
            Action::Install => "install",
            Action::Upgrade => "upgrade",
            Action::Repair => "repair",
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ModulePlan {
    pub module: Module,
    /// Version that is there now.
    pub installed: Option<String>,
    pub action: Action,
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
}

/// Why the modules could not be installed. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstallError {
    #[error("server version {0} is too old: PostgreSQL 13 or newer is needed")]
    ServerTooOld(String),

    #[error(
        "schema {schema} belongs to extension {extension} {version}; taking over an installed extension is \
         not possible yet: use another database, or drop it with: drop extension {extension} cascade"
    )]
    Extension {
        schema: Module,
        extension: String,
        version: String,
    },

    #[error(
        "schema {0} exists and was not made by skytide; use another database, or move the schema away with: \
         alter schema {0} rename to {0}_old"
    )]
    ForeignSchema(Module),

    #[error("module {module} was installed by skytide {installed}, which is newer than this one ({VERSION})")]
    Newer { module: Module, installed: String },

    #[error("run {module}/{file}")]
    Script {
        module: Module,
        file: &'static str,
        #[source]
        source: tokio_postgres::Error,
    },

    #[error("function {function} {fault}")]
    Verify { function: String, fault: String },

    #[error("inspect the installed modules")]
    Database(#[from] tokio_postgres::Error),
}

/// Says what [`install`] would do. Changes nothing.
pub async fn plan<C: GenericClient>(client: &C) -> Result<Plan, InstallError> {
    let row = client.query_one(queries::SERVER_VERSION, &[]).await?;
    if row.get::<_, i32>(0) < 130_000 {
        return Err(InstallError::ServerTooOld(row.get(1)));
    }
    let mut modules = Vec::with_capacity(Module::ALL.len());
    for module in Module::ALL {
        modules.push(plan_module(client, module).await?);
    }
    Ok(Plan { modules })
}

async fn plan_module<C: GenericClient>(client: &C, module: Module) -> Result<ModulePlan, InstallError> {
    let row = client.query_one(queries::SCHEMA, &[&module.schema()]).await?;
    let (schema_exists, ledger_exists): (bool, bool) = (row.get(0), row.get(1));
    if let Some(extension) = row.get::<_, Option<String>>(2) {
        return Err(InstallError::Extension {
            schema: module,
            extension,
            version: row.get(3),
        });
    }
    if !schema_exists {
        return Ok(ModulePlan {
            module,
            installed: None,
            action: Action::Install,
        });
    }

    let entry = match ledger_exists {
        true => client.query_opt(queries::INSTALLED, &[&module.schema()]).await?,
        false => None,
    };
    let Some(entry) = entry else {
        return Err(InstallError::ForeignSchema(module));
    };
    let (version, checksum, catalog): (String, String, String) = (entry.get(0), entry.get(1), entry.get(2));
    let action = if is_newer(&version, VERSION) {
        return Err(InstallError::Newer {
            module,
            installed: version,
        });
    } else if checksum != module.embedded().checksum {
        Action::Upgrade
    } else if catalog != catalog_checksum(client, module).await? {
        Action::Repair
    } else {
        Action::Keep
    };
    Ok(ModulePlan {
        module,
        installed: Some(version),
        action,
    })
}

/// Installs, upgrades or repairs the modules, verifies them, and returns what was done. In one
/// transaction, and one at a time in a database.
pub async fn install(client: &mut Client) -> Result<Plan, InstallError> {
    let tx = client
        .build_transaction()
        .isolation_level(IsolationLevel::ReadCommitted)
        .start()
        .await?;
    tx.batch_execute(queries::SETTINGS).await?;
    tx.batch_execute(queries::LOCK).await?;
    let plan = plan(&tx).await?;
    if plan.changes_nothing() {
        tx.rollback().await?;
        return Ok(plan);
    }

    for entry in plan.modules.iter().filter(|entry| entry.action != Action::Keep) {
        run_scripts(&tx, entry).await?;
    }
    for entry in plan.modules.iter().filter(|entry| entry.action != Action::Keep) {
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

async fn run_scripts<C: GenericClient>(client: &C, entry: &ModulePlan) -> Result<(), InstallError> {
    let module = entry.module;
    for script in module.embedded().scripts {
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
    }
    Ok(())
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
        let row = client
            .query_one(queries::COUNT_OVERLOADS, &[&module.schema(), &script.function])
            .await?;
        let found: i64 = row.get(0);
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
