//! A second look: what was planned is done only as long as nothing speaks against it.
//!
//! Between the plan and the promotion lie a question, a fence, the replay, and with a repeated call days. Meanwhile a
//! primary may have come back, and clients may have been told of commits that the plan does not know.

use super::follow::Leader;
use super::journal::{Journal, Step};
use super::plan::{Wish, check_dead, check_stores, choose};
use super::survey::{Survey, survey};
use super::{PromoteError, Refusal, Settings};
use crate::tail::words;

/// Whether the unfinished promotion of an earlier call goes on: `None` if it does, otherwise why a new plan is needed.
/// Nothing is changed by asking.
pub async fn reconsider(
    settings: &Settings,
    journal: &Journal,
    wish: &Wish,
) -> Result<Option<String>, PromoteError> {
    if journal.is_done(&Step::Promote) {
        return Ok(why_no_leader(settings, journal).await);
    }
    let survey = look(settings, journal, wish).await?;
    let primary = survey.primaries().next();
    // Killed after that step and before its note.
    if primary == Some(&journal.new) {
        return Ok(None);
    }
    if journal.done.is_empty() {
        // A primary that does not answer may have been stopped by that call.
        let stopped = journal.switchover && wish.switchover && primary.is_none();
        return Ok((!stopped).then(|| "nothing of it was done".to_owned()));
    }
    if let Some(primary) = primary {
        return Err(Refusal::Overtaken(primary.to_owned()).into());
    }
    if journal.switchover {
        check_ends(&survey, journal)?;
        return Ok(None);
    }
    let same = Wish {
        to: Some(journal.new.clone()),
        switchover: false,
        ..wish.clone()
    };
    match choose(&survey, settings, &same) {
        Ok(_) => Ok(check_ends(&survey, journal)
            .err()
            .map(|refusal| refusal.to_string())),
        Err(PromoteError::Refused(refusal)) => Ok(Some(refusal.to_string())),
        Err(error) => Err(error),
    }
}

/// Whom the rest would be put behind has to be there: asked alone, as nobody else's trouble speaks against what is left.
async fn why_no_leader(settings: &Settings, journal: &Journal) -> Option<String> {
    let said = |why: String| {
        format!(
            "{} was promoted, and is no primary that answers any more: {why}",
            journal.new
        )
    };
    match settings.node(&journal.new) {
        None => Some(said("the configuration does not name it".into())),
        Some(node) => match Leader::reach(settings, node).await {
            Ok(_) => None,
            Err(error) => Some(said(words(&error))),
        },
    }
}

/// The last look before a server is promoted.
pub(super) async fn check(settings: &Settings, journal: &Journal, wish: &Wish) -> Result<(), PromoteError> {
    let survey = look(settings, journal, wish).await?;
    if let Some(primary) = survey.primaries().next() {
        return Err(Refusal::Overtaken(primary.to_owned()).into());
    }
    // In a switchover the standbys may not have noticed yet that the primary was stopped.
    check_dead(&survey, wish.believe_dead || journal.switchover)?;
    // What a stopped primary had is known without them.
    check_stores(&survey, wish.without_silent_stores || journal.switchover)?;
    let why = match survey.standby(&journal.new) {
        None => Some("it is no standby that answers".to_owned()),
        Some(standby) => standby.obstacle.clone(),
    };
    if let Some(why) = why {
        let node = journal.new.clone();
        return Err(Refusal::Unfit { node, why }.into());
    }
    Ok(check_ends(&survey, journal)?)
}

async fn look(settings: &Settings, journal: &Journal, wish: &Wish) -> Result<Survey, PromoteError> {
    let old = wish.old.as_deref().or(journal.old.as_deref());
    let old = old.filter(|old| settings.node(old).is_some());
    Box::pin(survey(settings, old, wish.believe_dead)).await
}

/// No WAL is known beyond what the new primary is given.
fn check_ends(survey: &Survey, journal: &Journal) -> Result<(), Refusal> {
    let (Some(target), Some(found)) = (journal.target, &survey.furthest) else {
        return Ok(());
    };
    let newer = journal
        .newest
        .is_some_and(|newest| found.timeline.as_u32() > newest);
    match newer || found.end > target {
        false => Ok(()),
        true => Err(Refusal::MoreWal {
            new: journal.new.clone(),
            target,
            timeline: found.timeline,
            end: found.end,
            at: found.at.to_string(),
        }),
    }
}
