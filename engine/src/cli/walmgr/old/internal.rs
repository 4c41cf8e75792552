//! Commands that the old program called on the other host, for scripts that do so, too.

use std::io::Read;

use anyhow::Context as _;
use skytide_wal::WalFileName;
use skytide_wal::backup::retention::Keep;
use skytide_wal::ship::{PushSettings, push};

use crate::cli::failure::Failure;
use crate::cli::walmgr::backup::purge;
use crate::cli::walmgr::{archive, store};
use crate::cli::{Context, Outcome};
use crate::config::settings::WalmgrSettings;

/// Nothing is longer than a segment, and none is longer than this.
const MOST: u64 = 1 << 30;

#[derive(clap::Args, Debug)]
pub struct PartialArgs {
    /// The segment
    name: String,
    /// The first byte in it
    offset: u32,
    /// How many bytes standard input has
    bytes: u64,
}

/// `xpartialsync`: bytes of a segment from standard input.
pub async fn partial(settings: &WalmgrSettings, args: &PartialArgs) -> anyhow::Result<Outcome> {
    let WalFileName::Segment(segment) = archive::parse_name(&args.name)? else {
        return Err(Failure::usage(format!("{} is no segment", args.name)).into());
    };
    if args.bytes > MOST {
        return Err(Failure::usage(format!("no segment has {} bytes", args.bytes)).into());
    }
    let wanted = args.bytes;
    let read = tokio::task::spawn_blocking(move || -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        std::io::stdin().lock().take(wanted).read_to_end(&mut bytes)?;
        Ok(bytes)
    });
    let bytes = read.await?.context("read standard input")?;
    if bytes.len() as u64 != wanted {
        return Err(Failure::new(format!("standard input has {} bytes, not {wanted}", bytes.len())).into());
    }
    let settings = PushSettings {
        stores: store::open_all(settings)?,
        stores_needed: settings.stores_needed,
        compression_level: settings.compression_level,
    };
    let pushed = push(&settings, segment, args.offset, &bytes).await?;
    tracing::info!(%segment, new_bytes = pushed.new_bytes, end = %pushed.boundary, "taken");
    Ok(Outcome::Done)
}

/// `xrotate`: what keep_backups does not keep goes.
pub async fn rotate(settings: &WalmgrSettings, context: &Context) -> anyhow::Result<Outcome> {
    match settings.keep_backups.filter(|count| *count > 0) {
        None => {
            context.output.note("keep_backups is not set: every backup stays");
            Ok(Outcome::Done)
        }
        full => {
            let keep = Keep {
                full,
                age: settings.keep_backups_for,
            };
            purge::carry_out(settings, keep, purge::Which::Backups, false, context).await
        }
    }
}

/// `xpurgewals`: WAL goes that no backup leads to.
pub async fn purge_wal(settings: &WalmgrSettings, context: &Context) -> anyhow::Result<Outcome> {
    purge::carry_out(settings, Keep::default(), purge::Which::Wal, false, context).await
}
