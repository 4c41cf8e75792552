//! `--init-master` and `--init-slave`: a configuration for this host, out of options.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use skytide_wal::durable::{self, Created};
use skytide_wal::server::Postmaster;

use super::passfile;
use crate::cli::failure::Failure;
use crate::cli::{Context, Outcome};
use crate::config::Overrides;
use crate::config::ini::expand_home;
use crate::config::settings::WalmgrSettings;

#[derive(clap::Args, Debug, Default)]
#[command(next_help_heading = "Without a configuration")]
pub struct InitArgs {
    /// Write wal-master.ini for a primary on this host
    #[arg(long, conflicts_with = "init_slave")]
    pub init_master: bool,
    /// Write wal-slave.ini for a standby on this host
    #[arg(long)]
    pub init_slave: bool,
    /// A store: a directory, or peer://host:port; for each
    #[arg(long, value_name = "PLACE")]
    store: Vec<String>,
    /// The data directory [default: $PGDATA]
    #[arg(long, value_name = "DIR")]
    pgdata: Option<PathBuf>,
    /// Where the configuration is written
    #[arg(long, value_name = "DIR", default_value = "~/conf")]
    config_dir: String,
    /// The standby's host, for other keys to refer to
    #[arg(long, value_name = "HOST")]
    slave: Option<String>,
    /// The primary, for --init-slave
    #[arg(long, value_name = "CONNECT-STRING")]
    primary_conninfo: Option<String>,
    /// Put the first line of this file into ~/.pgpass as the primary's password
    #[arg(long, value_name = "FILE", requires = "primary_conninfo")]
    add_password: Option<PathBuf>,
    /// Make commits wait for these standbys, on the server that PG* variables name
    #[arg(long, value_name = "NAMES")]
    pub synch_standby: Option<String>,
    #[arg(long, hide = true)]
    ssh_keygen: bool,
    #[arg(long, hide = true, value_name = "FILE")]
    ssh_add_key: Option<PathBuf>,
}

impl InitArgs {
    pub fn is_given(&self) -> bool {
        self.init_master || self.init_slave
    }
}

pub fn run(args: &InitArgs, set: &Overrides, context: &Context) -> anyhow::Result<Outcome> {
    if args.ssh_keygen || args.ssh_add_key.is_some() {
        context
            .output
            .warn("nothing is sent over ssh, so no key is made or added; peer:// stores use certificates");
    }
    let (job, data_key) = match args.init_master {
        true => ("wal-master", "master_data"),
        false => ("wal-slave", "slave_data"),
    };
    let lines = lines(args, set, data_key)?;
    let mut text = String::from(
        "# Written by skytide walmgr. All keys, with what they mean: skytide walmgr --ini\n[walmgr]\n",
    );
    for (key, value) in &lines {
        text.push_str(&format!("{key} = {value}\n"));
    }
    let dir = std::path::absolute(expand_home(&args.config_dir)).context("find the directory")?;
    durable::create_dirs(&dir)?;
    let path = dir.join(format!("{job}.ini"));
    match durable::create(&path, text.as_bytes())? {
        Created::New => {}
        Created::Exists => {
            return Err(Failure::new(format!("{} is there already", path.display()))
                .hint("Change it, or move it away; it is not overwritten.")
                .into());
        }
    }
    // What cannot be read again is of no use to anybody.
    let settings = WalmgrSettings::load(&path, &Overrides::default()).inspect_err(|_| {
        let _ = std::fs::remove_file(&path);
    })?;
    context.output.line(format!("wrote {}", path.display()))?;
    if let (Some(file), Some(server)) = (&args.add_password, &settings.server) {
        let passfile = passfile::add(server, file)?;
        context
            .output
            .line(format!("the password is in {}", passfile.display()))?;
    }
    context.output.line(match args.init_master {
        true => format!("next: skytide walmgr {} setup", path.display()),
        false => format!("next: skytide walmgr {} createslave", path.display()),
    })?;
    Ok(Outcome::Done)
}

/// Keys and values as they are written. What --set says wins.
fn lines(args: &InitArgs, set: &Overrides, data_key: &str) -> anyhow::Result<Vec<(String, String)>> {
    let is_set = |key: &str| set.set.iter().any(|(name, _)| name == key);
    let mut lines: Vec<(String, String)> = Vec::new();
    let mut put = |key: &str, value: String| {
        if !is_set(key) {
            lines.push((key.to_owned(), literal(&value)));
        }
    };
    match (args.store.as_slice(), is_set("stores")) {
        ([], false) => {
            return Err(Failure::usage("it is not said where WAL shall be kept")
                .hint("--store /srv/wal-store, or --store peer://HOST:PORT for another host's daemon; both, for two copies.")
                .into());
        }
        ([], true) => {}
        (places, _) => put("stores", places.join(", ")),
    }
    let pgdata = args
        .pgdata
        .clone()
        .or_else(|| std::env::var_os("PGDATA").map(PathBuf::from));
    let data = match pgdata {
        Some(dir) => std::path::absolute(dir).context("find the data directory")?,
        None if is_set(data_key) => PathBuf::new(),
        None => {
            return Err(Failure::usage("it is not said where the data directory is")
                .hint("--pgdata DIR, or set PGDATA.")
                .into());
        }
    };
    if args.init_master && !is_set(data_key) && !data.join("PG_VERSION").is_file() {
        return Err(Failure::usage(format!("{} is no data directory", data.display())).into());
    }
    put(data_key, data.display().to_string());
    if args.init_master {
        put("master_db", master_db(&data)?);
        if let Some(host) = &args.slave {
            put("slave", host.clone());
        }
    } else if let Some(conninfo) = &args.primary_conninfo {
        put("primary_conninfo", conninfo.clone());
    }
    lines.extend(set.set.iter().map(|(key, value)| (key.clone(), value.clone())));
    Ok(lines)
}

/// By the server that runs, or where one usually listens.
fn master_db(data: &Path) -> anyhow::Result<String> {
    Ok(match Postmaster::find(data)? {
        Some(postmaster) => postmaster.connect_text(),
        None => "dbname=postgres".to_owned(),
    })
}

/// Signs that would refer to other keys are doubled.
fn literal(value: &str) -> String {
    value.replace('%', "%%").replace('$', "$$")
}
