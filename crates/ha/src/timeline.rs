//! Timelines that were never announced, and how their owners are kept from passing them off as somebody else's (S5, S7).
//!
//! # Problem
//!
//! PostgreSQL numbers timelines itself: the parent's number and one, or more where it finds a history file of that number. Two nodes
//! that are promoted one after the other from the same parent, the first of which dies before it has told anybody, take the same
//! number for two histories. `pg_rewind` compares numbers, and so does a WAL receiver: both are blind to the difference.
//!
//! # Model
//!
//! A timeline is *announced* when `/history` has the line of its parent. Nobody follows a primary before (`Context::announced`), so
//! a timeline that was never announced exists in one data directory only: in that of the node that was promoted to it. It is
//! enough, then, that this node knows. Its marker names the **first** timeline that it was primary on and never announced:
//!
//! ```text
//!   n2: promoted 1 ► 2, dies            marker 2      /history -
//!   n2: promoted 2 ► 3, dies            marker 2      /history -             (3 would hide that it has a 2 of its own)
//!   n3: promoted 1 ► 2, announces       marker 2      /history 1 ► 2 by n3
//!   n2: my first is 2, and 2 is n3's: nothing here from 1's end on can be trusted ── clone
//! ```
//!
//! Who announces a timeline announces those before it that it was primary on as well (`primary::history`), and the numbers that
//! PostgreSQL skipped: `/history` has no gaps from then on, and every marker at or below the current timeline is answered by it.
//! A marker beyond the current timeline while somebody else is announced as the primary was never announced, and never will be.
//!
//! # Why the numbers are not reserved in the store
//!
//! A number that was reserved would have to be given to PostgreSQL, which takes none. It can only be pushed over a number by a history
//! file of a timeline that does not exist; a standby that is restarted with such a file in `pg_wal`, or that has fetched it from its
//! primary, takes it for the latest timeline and does not start. What a reservation would tell beyond that (somebody may
//! have taken this number) is of use to nobody but the one who took it.
//!
//! # Who followed without knowing
//!
//! A standby whose agent stands still goes on asking whom it was told to ask. If that node is promoted and dies in silence, the
//! timeline that nobody knows exists twice, and this standby has no marker. It remembers whom it asked last ([`mistaken`]):
//!
//! ```text
//!   n2: promoted 1 ► 2, silent ──► n1, whose agent sleeps, receives 2
//!   n3: promoted 1 ► 2, announces
//!   n1: my 2 came from n2, and n2 never led 2 or a later one ── clone
//! ```
//!
//! Before it has been judged by that, a standby that is started is told to ask nobody new.
//!
//! What remains: with a shared WAL archive the history file of the one that died may be there first. PostgreSQL then skips its
//! number, which is right, and the lines above account for it.

use crate::action::Upstream;
use crate::context::Context;
use crate::facts::{Initialised, TimelineId};

/// The marker of a promotion from `from`: a timeline that was never announced stays named.
pub(crate) fn marker(context: &Context<'_>, from: TimelineId) -> TimelineId {
    unanswered(context).unwrap_or(TimelineId(from.0 + 1))
}

/// Was this node primary, or about to be, on a timeline that the cluster knows as somebody else's?
pub(crate) fn usurped(context: &Context<'_>) -> Option<TimelineId> {
    let timeline = context.initialised()?.was_primary_on?;
    let leader = context.history().leader_of(timeline)?;
    (leader != context.me).then_some(timeline)
}

/// Why what lies here can follow nobody, and must be cloned from whoever is announced. Asked of a node that does not hold the lock.
pub(crate) fn forsaken(context: &Context<'_>) -> Option<String> {
    if let Some(timeline) = usurped(context) {
        return Some(format!("timeline {timeline} has two histories"));
    }
    let (timeline, current) = (unanswered(context)?, context.history().current());
    // A `/history` that was deleted says nothing about anybody: the primary's own record must agree with it.
    let announced = context.primary().is_some_and(|(_, record)| record.timeline == Some(current));
    announced.then(|| format!("I was primary on timeline {timeline}, which was never announced"))
}

/// The marker, while `/history` does not say yet whose timeline that is.
pub(crate) fn unanswered(context: &Context<'_>) -> Option<TimelineId> {
    let timeline = context.initialised()?.was_primary_on?;
    (timeline > context.history().current()).then_some(timeline)
}

/// Why the newest timeline here is not the cluster's of that number: it came from somebody who never led it, nor a later one.
pub(crate) fn mistaken(context: &Context<'_>, timeline: TimelineId) -> Option<String> {
    let from = context.initialised()?.asked.as_deref()?;
    let history = context.history();
    let leader = history.leader_of(timeline)?;
    let led = (timeline.0..=history.current().0).any(|it| history.leader_of(TimelineId(it)) == Some(from));
    // A name that no member has any more may be the old one of whom we asked.
    (context.others().any(|(name, _)| name == leader) && !led)
        .then(|| format!("my timeline {timeline} came from {from}, and the cluster's is {leader}'s"))
}

/// May this one be asked for WAL before the timeline here is known? Whoever was asked last may go on; of a former primary the timelines
/// are its own, and its marker judges them.
pub(crate) fn may_be_asked(context: &Context<'_>, upstream: &Upstream) -> bool {
    let standby = context.initialised().filter(|data| data.was_primary_on.is_none());
    standby.and_then(|data| data.asked.as_deref()).is_none_or(|asked| asked == upstream.name)
}

/// The timeline that the data directory is on. Right after a promotion the control file still names the parent; the
/// marker with the lines in `/history` that name us says better.
pub(crate) fn of(context: &Context<'_>, data: &Initialised) -> TimelineId {
    let history = context.history();
    let ours = |timeline: TimelineId| history.leader_of(timeline) == Some(context.me);
    let Some(mut timeline) = data.was_primary_on.filter(|timeline| ours(*timeline)) else {
        return data.timeline;
    };
    while ours(TimelineId(timeline.0 + 1)) {
        timeline.0 += 1;
    }
    timeline.max(data.timeline)
}
