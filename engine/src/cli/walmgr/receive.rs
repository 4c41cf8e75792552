//! `receive`: the server's WAL, up to the last record, by streaming replication.

use skytide_wal::receive::{ReceiveError, Receiver, Settings};
use skytide_wal::tail::TailError;
use tracing::{info, warn};

use super::window::{Live, SlotWanted};
use super::{archive, store};
use crate::cli::failure::{Advice, Failure};
use crate::cli::{Context, Outcome};
use crate::config::settings::WalmgrSettings;
use crate::daemon::{
    self,
    control::{DaemonArgs, Next},
};

pub const HELP: &str = "\
What is confirmed to the server is on the disks of as many stores as stores_needed says. With
  synchronous_standby_names = 'skytide'
on the server (receive_name), no commit that was acknowledged is missing in the stores.

Exit code 0: stopped by a signal. 1: something only a person can put right. 2: the configuration is wrong.

Example:
  skytide walmgr /etc/skytide/wal.ini receive";

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
    let mut receiver = receiver(&settings)?;
    let mut daemon = daemon::start(&settings.process, context).await?;
    info!("walmgr receive {} starts", env!("CARGO_PKG_VERSION"));
    loop {
        let window = receiver.window();
        let live = Live {
            window: &window,
            phase: receiver.phase(),
            slot: settings.receive.slot.as_ref().map(|_| SlotWanted {
                limit: settings.receive.slot_limit,
            }),
        };
        let stop = context.shutdown.child_token();
        let work = receiver.run(stop.clone().cancelled_owned());
        let usable = |new: &WalmgrSettings| self::receiver(new);
        match live
            .show_while(work, &settings, &mut daemon, (load, &usable), &stop)
            .await?
        {
            Some((new, new_receiver)) => {
                if let Some(slot) = settings
                    .receive
                    .slot
                    .filter(|old| new.receive.slot.as_ref() != Some(old))
                {
                    warn!(
                        %slot,
                        "this slot is not used any more, and holds WAL on the server until it is dropped there: select \
                         pg_drop_replication_slot('{slot}')"
                    );
                }
                (settings, receiver) = (new, new_receiver);
            }
            None => break,
        }
    }
    info!("walmgr receive stopped");
    Ok(Outcome::Done)
}

fn receiver(settings: &WalmgrSettings) -> anyhow::Result<Receiver> {
    let Some(server) = settings.server.clone() else {
        return Err(Failure::usage("receive needs a server to receive from")
            .hint("Set master_db to its connect string.")
            .into());
    };
    Ok(Receiver::new(Settings {
        server,
        application_name: settings.receive.name.clone(),
        slot: settings.receive.slot.clone(),
        slot_limit: settings.receive.slot_limit,
        status_interval: settings.receive.status_interval,
        stores: store::open_all(settings)?,
        stores_needed: settings.stores_needed,
        compression_level: settings.compression_level,
    }))
}

impl Advice for ReceiveError {
    fn hint(&self) -> Option<String> {
        match self {
            ReceiveError::Removed { .. } => Some(
                "If the server's archive_command goes to the same stores, they get it from there: start again when \
                 they have. Else take a new base backup, and give receive a slot so that it does not happen again."
                    .into(),
            ),
            ReceiveError::Tail(error) => error.hint(),
            ReceiveError::Walsender(error) => match error.server_error().map(|error| error.code.as_str()) {
                Some("28000" | "28P01") => Some(
                    "receive needs a user with REPLICATION, and a line for database replication in pg_hba.conf."
                        .into(),
                ),
                _ => None,
            },
            _ => None,
        }
    }
}

impl Advice for TailError {
    fn hint(&self) -> Option<String> {
        match self {
            TailError::Identity(error) => error.hint(),
            TailError::Archive(error) => error.hint(),
            TailError::Store(error) => store::hint(error),
            TailError::NoStore(error) => error.hint(),
            TailError::Damaged { .. } => Some(
                "The server's own WAL is damaged on its disk, or something on the way changes it. Look at that disk, \
                 and take a base backup of a sound server soon."
                    .into(),
            ),
            TailError::Replaced { timeline, .. } => Some(format!(
                "Name the server that took over in master_db. {}",
                archive::replaced(*timeline)
            )),
            TailError::Diverged { .. } => Some("Stop one of the two servers, or give it a store of its own.".into()),
            TailError::DamagedCopy { location, segment, .. } => Some(format!(
                "If the server still has it: remove the partial {segment} from {location}, and start again."
            )),
            _ => None,
        }
    }
}
