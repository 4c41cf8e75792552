//! A table's way from "never copied" to "replayed". Stored as text in `londiste.table_info`, with the
//! names Londiste always had.

use std::fmt;

use skytide_sql::TickId;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergeState {
    /// Attached, not copied (stored as null).
    Missing,
    /// The initial copy runs, or must run again after a crash.
    InCopy,
    /// Copied; its changes since then are read from the spool beside the other tables' replay.
    CatchingUp,
    /// Caught up to this tick; asks the main position to take it over.
    WannaSync(TickId),
    /// The main position waits at this tick for the table to reach it.
    DoSync(TickId),
    /// Replayed with all the others.
    Ok,
}

/// What moves a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    StartCopy,
    Copied,
    CaughtUp(TickId),
    MainWaitsAt(TickId),
    Reached(TickId),
    /// The operator asked for a new copy.
    Resync,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a table in state {from} cannot take step {step:?}")]
pub struct IllegalStep {
    pub from: MergeState,
    pub step: Step,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown table state {0:?}")]
pub struct BadState(pub String);

impl MergeState {
    /// The only place where a table changes state.
    pub fn after(self, step: Step) -> Result<MergeState, IllegalStep> {
        use MergeState::{CatchingUp, DoSync, InCopy, Missing, Ok as Synced, WannaSync};
        match (self, step) {
            (_, Step::Resync) => Ok(Missing),
            // A copy that died starts again.
            (Missing | InCopy, Step::StartCopy) => Ok(InCopy),
            (InCopy, Step::Copied) => Ok(CatchingUp),
            // A worker that died while handing over asks again.
            (CatchingUp | WannaSync(_) | DoSync(_), Step::CaughtUp(tick)) => Ok(WannaSync(tick)),
            (WannaSync(wanted), Step::MainWaitsAt(tick)) if tick >= wanted => Ok(DoSync(tick)),
            (DoSync(at), Step::Reached(tick)) if tick == at => Ok(Synced),
            (from, step) => Err(IllegalStep { from, step }),
        }
    }

    /// As stored; `None` is SQL null.
    pub fn parse(stored: Option<&str>) -> Result<MergeState, BadState> {
        let Some(text) = stored else {
            return Ok(MergeState::Missing);
        };
        let tick = |number: &str| {
            number
                .parse()
                .map(TickId::new)
                .map_err(|_| BadState(text.to_owned()))
        };
        match text {
            "in-copy" => Ok(MergeState::InCopy),
            "catching-up" => Ok(MergeState::CatchingUp),
            // Old versions wrote a question mark.
            "ok" | "?" => Ok(MergeState::Ok),
            _ => match text.split_once(':') {
                Some(("wanna-sync", number)) => Ok(MergeState::WannaSync(tick(number)?)),
                Some(("do-sync", number)) => Ok(MergeState::DoSync(tick(number)?)),
                _ => Err(BadState(text.to_owned())),
            },
        }
    }

    /// The text to store; `None` is SQL null.
    pub fn stored(self) -> Option<String> {
        match self {
            MergeState::Missing => None,
            other => Some(other.to_string()),
        }
    }

    /// Whether a copy's data are on the subscriber, whole.
    pub fn is_copied(self) -> bool {
        !matches!(self, MergeState::Missing | MergeState::InCopy)
    }
}

impl fmt::Display for MergeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MergeState::Missing => f.write_str("missing"),
            MergeState::InCopy => f.write_str("in-copy"),
            MergeState::CatchingUp => f.write_str("catching-up"),
            MergeState::WannaSync(tick) => write!(f, "wanna-sync:{tick}"),
            MergeState::DoSync(tick) => write!(f, "do-sync:{tick}"),
            MergeState::Ok => f.write_str("ok"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_way_to_ok() {
        let t = TickId::new;
        let way = [
            (Step::StartCopy, "in-copy"),
            (Step::StartCopy, "in-copy"),
            (Step::Copied, "catching-up"),
            (Step::CaughtUp(t(7)), "wanna-sync:7"),
            (Step::MainWaitsAt(t(9)), "do-sync:9"),
            (Step::CaughtUp(t(8)), "wanna-sync:8"),
            (Step::MainWaitsAt(t(9)), "do-sync:9"),
            (Step::Reached(t(9)), "ok"),
            (Step::Resync, "missing"),
        ];
        let mut state = MergeState::Missing;
        for (step, text) in way {
            state = state.after(step).unwrap();
            assert_eq!(state.to_string(), text);
            assert_eq!(MergeState::parse(state.stored().as_deref()), Ok(state));
        }
    }

    #[test]
    fn no_table_is_ok_without_reaching_the_main_position() {
        let t = TickId::new;
        for (from, step) in [
            (MergeState::Missing, Step::Reached(t(1))),
            (MergeState::InCopy, Step::CaughtUp(t(1))),
            (MergeState::CatchingUp, Step::Reached(t(1))),
            (MergeState::WannaSync(t(5)), Step::MainWaitsAt(t(4))),
            (MergeState::DoSync(t(5)), Step::Reached(t(4))),
            (MergeState::Ok, Step::StartCopy),
        ] {
            assert_eq!(from.after(step), Err(IllegalStep { from, step }));
        }
        assert!(MergeState::parse(Some("copying")).is_err());
        assert!(MergeState::parse(Some("do-sync:x")).is_err());
    }
}
