//! The arithmetic of fencing by time: one inequality, and the deadline that follows from it.
//!
//! ```text
//!   renewal sent                                                                   lease may expire
//!   │◄────────────────────────────────── ttl ─────────────────────────────────────────►│
//!   │  loop_wait   │ probe + store call │ …the next renewal may fail … │ stop budget │ margin │
//!   │   nap        │ retry_timeout × 2  │                              ▲             ▲
//!   │              │                    │                              fence begins  last backend gone
//! ```
//!
//! The store cannot expire a lease before (the moment a renewal was *sent*) + ttl: it starts counting later, when the
//! renewal arrives. So a holder that begins to fence at `valid_until - margin - stop_budget` acknowledges nothing after
//! `valid_until - margin`, and nobody else holds the lock before `valid_until`. The margin pays for clocks that run at
//! different rates and for what lies between a decision and its effect.
//!
//! For the cluster not to fence itself without cause, one whole period must fit in front: a nap, the two bounded questions
//! of an observation, and the renewal itself, or ttl is too short (or one of the others too long). Patroni's floor of 20 s
//! for ttl does not apply: the floor here is [`SHORTEST_TTL`], below which etcd's leases are refused too.

use std::time::Duration;

use crate::facts::Moment;
use crate::policy::Policy;

/// The store grants nothing shorter.
pub const SHORTEST_TTL: Duration = Duration::from_secs(2);

/// The latest moment at which a holder may begin to fence.
#[must_use]
pub fn fence_at(policy: &Policy, valid_until: Moment) -> Moment {
    valid_until.before(policy.local.margin).before(policy.local.stop_budget)
}

/// A configuration under which a healthy primary could miss its deadline.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BudgetError {
    /// The floor.
    #[error("ttl is {}: the shortest possible is {}", seconds(.0), seconds(&SHORTEST_TTL))]
    TtlTooShort(Duration),
    /// The inequality does not hold.
    #[error(
        "loop_wait {} + 2 x retry_timeout {} + stop budget {} + margin {} is not less than ttl {}: {remedy}",
        seconds(loop_wait),
        seconds(retry_timeout),
        seconds(stop_budget),
        seconds(margin),
        seconds(ttl)
    )]
    #[allow(missing_docs)]
    NoRoom {
        loop_wait: Duration,
        retry_timeout: Duration,
        stop_budget: Duration,
        margin: Duration,
        ttl: Duration,
        /// Which term to change, and to what.
        remedy: String,
    },
}

fn seconds(duration: &Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}

/// The inequality, at start and on every change of the dynamic configuration.
///
/// # Errors
/// Which term to change.
pub fn check(policy: &Policy) -> Result<(), BudgetError> {
    let Policy { ttl, loop_wait, retry_timeout, .. } = *policy;
    let (stop_budget, margin) = (policy.local.stop_budget, policy.local.margin);
    if ttl < SHORTEST_TTL {
        return Err(BudgetError::TtlTooShort(ttl));
    }
    let fixed = stop_budget + margin;
    let needed = loop_wait + retry_timeout * 2 + fixed;
    if needed < ttl {
        return Ok(());
    }
    let enough = Duration::from_secs(needed.as_secs() + 1);
    let remedy = if ttl > fixed + retry_timeout * 2 {
        let room = ttl.saturating_sub(fixed + retry_timeout * 2);
        format!("set ttl to {} or loop_wait below {}", seconds(&enough), seconds(&room))
    } else {
        format!("set ttl to {}, or retry_timeout lower", seconds(&enough))
    };
    Err(BudgetError::NoRoom { loop_wait, retry_timeout, stop_budget, margin, ttl, remedy })
}
