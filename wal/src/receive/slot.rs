//! The slot: made when it is not there, and dropped before it fills the server's disk.

use skytide_sql::Lsn;

use super::{ReceiveError, Receiver, history};
use crate::walsender::{Client, SlotLifetime, WalReservation};

/// duplicate_object
const EXISTS: &str = "42710";
/// From here on READ_REPLICATION_SLOT exists.
const READS_SLOTS: u32 = 150_000;

impl Receiver {
    /// Makes sure that there is the slot, if one shall be used. From where on it holds WAL, where the server can say so.
    pub(super) async fn ensure_slot(&mut self, client: &mut Client) -> Result<Option<Lsn>, ReceiveError> {
        let Some(slot) = self.settings.slot.clone().filter(|_| !self.without_slot) else {
            return Ok(None);
        };
        let reads = client.server_version_num() >= READS_SLOTS;
        if reads && let Some(position) = client.read_slot(&slot).await? {
            return Ok(position.restart_lsn);
        }
        let created = client
            .create_physical_slot(&slot, SlotLifetime::Permanent, WalReservation::Now)
            .await;
        match created {
            Ok(_) => tracing::info!(%slot, "made a replication slot"),
            Err(error) if error.server_error().is_some_and(|error| error.code == EXISTS) => {}
            Err(error) => return Err(error.into()),
        }
        match reads {
            true => Ok(client
                .read_slot(&slot)
                .await?
                .and_then(|position| position.restart_lsn)),
            false => Ok(None),
        }
    }

    /// While nothing is streamed: looks how much the slot holds back, and drops it above the limit.
    pub(super) async fn guard_slot(&mut self) -> Result<(), ReceiveError> {
        let (Some(slot), Some(limit)) = (self.settings.slot.clone(), self.settings.slot_limit) else {
            return Ok(());
        };
        if self.without_slot {
            return Ok(());
        }
        let mut client = self.client().await?;
        let system = client.identify_system().await?;
        let flush = system.flush_lsn;
        // The window waits for a history that cannot be had; the slot's limit does not.
        match history(&mut client, system.timeline).await {
            Ok(path) => {
                self.window.follow(&path);
                self.window.server(flush);
            }
            Err(error) => tracing::debug!(error = crate::tail::words(&error), "the loss window is not known"),
        }
        let reported = Some(self.reported).filter(|lsn| lsn.is_valid());
        let held_from = match client.server_version_num() >= READS_SLOTS {
            true => match client.read_slot(&slot).await? {
                Some(position) => position.restart_lsn.or(reported),
                None => return Ok(()),
            },
            false => reported,
        };
        let Some(held) = held_from
            .and_then(|from| flush.bytes_since(from))
            .filter(|held| *held > limit)
        else {
            return Ok(());
        };
        client.drop_slot(&slot).await?;
        self.without_slot = true;
        tracing::error!(
            %slot, held, limit,
            "dropped the replication slot, so that the server's disk is not filled; the stores may miss WAL when they \
             are back"
        );
        Ok(())
    }
}
