//! What to do about a promotion that was refused or failed.

use skytide_wal::promote::{PromoteError, Refusal};

use crate::cli::failure::{Advice, Exit};

impl Advice for Refusal {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Refusal::PrimaryAlive(node) => format!(
                "To take over while it lives, without losing anything: --switchover --to NODE. If {node} is not to be \
                 the primary, stop it first."
            ),
            Refusal::TwoPrimaries(..) => {
                "Stop the one that clients do not use, and put it behind the other: skytide promote CONF --rejoin NODE."
                    .into()
            }
            Refusal::PostmasterAlive { node, pid } => format!(
                "Stop it (kill -QUIT {pid}), or find out why node {node} refuses connections. If that process is another \
                 one: --believe-dead."
            ),
            Refusal::NotLetIn { node, .. } => format!(
                "Mend db in [node {node}], so that it can be asked. If it is dead for certain, and another server answers there: \
                 --believe-dead."
            ),
            Refusal::StillReceiving { .. } => {
                "Look whether this host alone is cut off from the primary. A standby of a host that lost power notices it \
                 after wal_receiver_timeout. If the primary is dead for certain: --believe-dead."
                    .into()
            }
            Refusal::SilentStore { .. } => {
                "It may have acknowledged commits that no node has, and they would be lost. Make it reachable; if it is \
                 gone for good: --without-silent-stores."
                    .into()
            }
            Refusal::OtherCluster { .. } => "Correct db in the sections [node NAME].".into(),
            Refusal::NoCandidate => "Start a standby, or restore one from a backup: skytide walmgr CONF restore.".into(),
            Refusal::UnknownNode(_) => "nodes in section [promote] has their names.".into(),
            Refusal::Unfit { .. } => {
                "Choose another one with --to, or let it choose; --dry-run shows all of them.".into()
            }
            Refusal::NoFence => {
                "Set fence_command in section [promote] to a program that cuts it off. Where something else makes sure of \
                 that: fence_required = no."
                    .into()
            }
            Refusal::NeedsRestoreCommand(node) => format!(
                "Set restore_command = 'skytide walmgr CONF restore-wal %f %p' on node {node}, restart it, and repeat this. \
                 From PostgreSQL 14 on that is done here."
            ),
            Refusal::UnknownRestoreCommand(node) => format!(
                "Set restore_command in section [node {node}], with the program and the configuration file as they are on \
                 its host."
            ),
            Refusal::NoPrimary => "Start the primary; if it is dead, leave --switchover out.".into(),
            Refusal::CannotStop(node) => format!(
                "Set stop_command in section [node {node}], or data and bin_dir if it runs on this host."
            ),
            Refusal::OtherBegun { new } => format!(
                "The same call without --to goes on with it. To give it up, see that {new} is still a standby, and remove \
                 the journal (journal in section [promote])."
            ),
            Refusal::Overtaken(node) => format!(
                "If {node} shall stay the primary, remove the journal (journal in section [promote]), and put the node that \
                 was to take over behind it: skytide promote CONF --rejoin NODE. Otherwise stop {node}."
            ),
            Refusal::MoreWal { .. } => {
                "Nothing was promoted. The same call makes a new plan; that of a switchover whose primary is stopped is made \
                 without --switchover, when the journal (journal in section [promote]) is removed."
                    .into()
            }
            Refusal::Changed => "The same call shows what there is now.".into(),
            _ => return None,
        })
    }

    fn exit(&self) -> Exit {
        match self {
            Refusal::UnknownNode(_) | Refusal::NoFence | Refusal::UnknownRestoreCommand(_) => Exit::Usage,
            _ => Exit::Failed,
        }
    }
}

impl Advice for PromoteError {
    fn hint(&self) -> Option<String> {
        const AGAIN: &str = "The same call goes on where this one ended.";
        Some(match self {
            PromoteError::Refused(refusal) => return refusal.hint(),
            PromoteError::NotBrought { node, .. } => format!(
                "The log of {node} says what it looks for: its restore_command has to reach the stores. {AGAIN}"
            ),
            PromoteError::NotFollowing { .. } => format!("The promotion itself is done. {AGAIN}"),
            PromoteError::StoppedAhead { node, .. } => format!(
                "Nothing was promoted. Start {node} again and remove the journal, or bring its WAL into the stores \
                 (skytide walmgr CONF salvage on its host) and promote without --switchover."
            ),
            PromoteError::Hook(_) | PromoteError::Fence(_) => {
                format!("What is not written down has to be done again. {AGAIN}")
            }
            PromoteError::NotPromoted { .. } | PromoteError::NoWrites { .. } | PromoteError::Node { .. } => {
                AGAIN.into()
            }
            PromoteError::Journal { .. } => {
                "If no promotion is going on, move the file away: it is only a note of what was done.".into()
            }
            PromoteError::Busy { .. } => "Wait for the other process, or see what it waits for.".into(),
            _ => return None,
        })
    }

    fn exit(&self) -> Exit {
        match self {
            PromoteError::Refused(refusal) => refusal.exit(),
            _ => Exit::Failed,
        }
    }
}
