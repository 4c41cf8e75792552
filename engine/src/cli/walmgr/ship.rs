//! `ship`: the server's WAL, up to the last record, out of its own `pg_wal`.

use skytide_wal::ship::{Settings, ShipError, Shipper};
use tracing::info;

use super::store;
use super::window::Live;
use crate::cli::failure::{Advice, Failure};
use crate::cli::{Context, Outcome};
use crate::config::settings::WalmgrSettings;
use crate::daemon::{
    self,
    control::{DaemonArgs, Next},
};

pub const HELP: &str = "\
Runs on the server's host as a user who may read its data directory (master_data), and asks it over master_db how far \
its WAL is on disk: pg_read_all_settings is not needed, pg_monitor is (on a standby). What is not there yet is copied \
within ship_interval. The server knows nothing of it: it may remove WAL before that is copied, which archive_command or \
wal_keep_size prevents.

Exit code 0: stopped by a signal. 1: something only a person can put right. 2: the configuration is wrong.

Example:
  skytide walmgr /etc/skytide/wal.ini ship";

pub async fn run(
    args: &DaemonArgs,
    load: &impl Fn() -> anyhow::Result<WalmgrSettings>,
    context: &Context,
) -> anyhow::Result<Outcome> {
    let mut settings = load()?;
    match args.handle(&settings.process, context)? {
        Next::Run => {}
        Next::Leave(outcome) => return Ok(outcome),
    }
    let mut shipper = shipper(&settings)?;
    let mut daemon = daemon::start(&settings.process, context).await?;
    info!("walmgr ship {} starts", env!("CARGO_PKG_VERSION"));
    loop {
        let window = shipper.window();
        let live = Live {
            window: &window,
            phase: shipper.phase(),
            slot: None,
        };
        let stop = context.shutdown.child_token();
        let work = shipper.run(stop.clone().cancelled_owned());
        let usable = |new: &WalmgrSettings| self::shipper(new);
        match live
            .show_while(work, &settings, &mut daemon, (load, &usable), &stop)
            .await?
        {
            Some((new, new_shipper)) => (settings, shipper) = (new, new_shipper),
            None => break,
        }
    }
    info!("walmgr ship stopped");
    Ok(Outcome::Done)
}

fn shipper(settings: &WalmgrSettings) -> anyhow::Result<Shipper> {
    let (Some(server), Some(data_dir)) = (settings.server.clone(), settings.data_dir.clone()) else {
        return Err(Failure::usage("ship needs a server and its data directory")
            .hint("Set master_db to its connect string, and master_data to its data directory.")
            .into());
    };
    Ok(Shipper::new(Settings {
        data_dir,
        server,
        application_name: settings.receive.name.clone(),
        interval: settings.ship_interval,
        stores: store::open_all(settings)?,
        stores_needed: settings.stores_needed,
        compression_level: settings.compression_level,
    }))
}

impl Advice for ShipError {
    fn hint(&self) -> Option<String> {
        match self {
            ShipError::Tail(error) => error.hint(),
            ShipError::Alive { .. } => Some(
                "A living server's WAL is copied by receive or ship. If that process is another program by now: \
                 salvage --believe-dead."
                    .into(),
            ),
            ShipError::OtherServer { .. } => {
                Some("Set master_db and master_data to the same server.".into())
            }
            ShipError::Removed { .. } => Some(
                "What is missing may be in the server's archive. If it goes to the same stores, start again when it \
                 is there. Else take a new base backup; receive with a slot does not lose WAL."
                    .into(),
            ),
            ShipError::Gap { end, .. } => Some(format!("Send the bytes from {end} on first.")),
            ShipError::Nobodys => Some("Send the segment from its first byte on, or: skytide walmgr CONF create-store".into()),
            ShipError::EndsEarly { .. } | ShipError::Damaged { .. } => Some(
                "The stores have everything up to that place. Behind it may be WAL that only a standby or another \
                 store has: recovery from there loses the least."
                    .into(),
            ),
            _ => None,
        }
    }
}
