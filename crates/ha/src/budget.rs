//! The arithmetic of fencing by time: one inequality, the deadline that follows from it, and what a choice of times buys.
//!
//! ```text
//!   renewal sent                                                                   lease may expire
//!   │◄────────────────────────────────── ttl ─────────────────────────────────────────►│
//!   │  loop_wait   │ look: the slower of probe   │ the renewal    │ stop budget │ margin │
//!   │   nap        │ and one call of the store   │ (one call)     ▲             ▲
//!   │              │                             │                fence begins  last backend gone
//! ```
//!
//! The store cannot expire a lease before (the moment a renewal was *sent*) + ttl: it starts counting later, when the
//! renewal arrives. So a holder that begins to fence at `valid_until - margin - stop_budget` acknowledges nothing after
//! `valid_until - margin`, and nobody else holds the lock before `valid_until`. The margin pays for clocks that run at
//! different rates and for what lies between a decision and its effect.
//!
//! # The one inequality
//!
//! ```text
//!   loop_wait + max(PROBE, retry_timeout) + retry_timeout + stop budget + margin < ttl
//! ```
//!
//! For the cluster not to fence itself without cause, one whole period must fit in front of the deadline: a nap, an observation
//! (PostgreSQL and the store are asked at the same time, each with its own bound) and the renewal itself. Patroni's floor of
//! 20 s for ttl does not apply: the floor here is [`SHORTEST_TTL`], below which the store grants nothing.
//!
//! # What is cut and what is refused
//!
//! Two of the terms are upper bounds of waiting: nobody is hurt when a nap or a patience is shorter than allowed. So a running
//! cluster never works with times that do not fit: [`fit`] cuts `retry_timeout` first, then `loop_wait`. Patroni's own
//! defaults (30, 10, 10) miss the inequality by the time that stopping takes, and lose half a second of `retry_timeout` by it,
//! which is said and harms nobody. A `loop_wait` that would have to be cut was not meant: who writes such a configuration
//! (`run --check`, PATCH and PUT of `/config`) is told so, with the term to change ([`check_config`]).
//!
//! # Why `fast` holds
//!
//! At `ttl: 2` the stop budget (0.5 s) and the margin (0.3 s) leave 1.2 s for a period. The probe of PostgreSQL may take
//! [`PROBE`] = 0.5 s whatever the configuration says, so a `retry_timeout` of 1 s and a nap of 1 s (the defaults) cannot be
//! kept: with 0.25 s and 0.35 s the sum is 0.25 + 0.5 + 0.35 + 0.8 = 1.9 s. The stop budget is not made smaller: killing takes
//! milliseconds on a machine at rest, and it is for the others. The price is four ticks a second and a tolerance of 0.8 s.

use std::time::Duration;

use serde_json::Value;

use crate::facts::Moment;
use crate::policy::{LocalPolicy, Policy, Preset};

/// The store grants nothing shorter.
pub const SHORTEST_TTL: Duration = Duration::from_secs(2);
/// The longest that one look at PostgreSQL takes, whatever it hangs on.
pub const PROBE: Duration = Duration::from_millis(500);
/// No call of the store is given less, when times are cut: an answer of a healthy store over a slow line.
pub const SHORTEST_CALL: Duration = Duration::from_millis(300);
/// A healthy look and renewal together, with room: what remains of the deadline after a stall must cover it.
pub const HEALTHY: Duration = Duration::from_millis(100);
/// Between two signs of life of a voter; silence is measured from the last one.
pub const BEAT: Duration = Duration::from_millis(200);
/// From a suspicion (or the end of the lease) to the first write on the new primary: promises, revocation, race, promotion
/// and the first confirmation. An expectation for people, measured by the drills; no decision reads it.
pub const TAKEOVER: Duration = Duration::from_millis(500);

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
    /// A word that is no preset.
    #[error("preset is {0}: expected fast, default or wan")]
    UnknownPreset(String),
    /// The inequality does not hold.
    #[error(
        "loop_wait {} + look {} + retry_timeout {} + stop budget {} + margin {} is not less than ttl {}: {remedy}",
        seconds(loop_wait),
        seconds(look),
        seconds(retry_timeout),
        seconds(stop_budget),
        seconds(margin),
        seconds(ttl)
    )]
    #[allow(missing_docs)]
    NoRoom {
        loop_wait: Duration,
        /// The slower of the probe and one call of the store.
        look: Duration,
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

/// The two waits of a period: the nap, and one call of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Waits {
    pub loop_wait: Duration,
    pub retry_timeout: Duration,
}

impl Waits {
    /// One whole period at its longest: nap, look, renewal.
    #[must_use]
    pub fn period(self) -> Duration {
        self.loop_wait + self.retry_timeout.max(PROBE) + self.retry_timeout
    }
}

/// The waits that are used for what was written: equal where they fit, else cut, `retry_timeout` first and then `loop_wait`.
/// Where not even the shortest fit (a stop budget of more than the ttl) the shortest come back, and [`check`] says so.
#[must_use]
pub fn fit(written: Waits, ttl: Duration, fixed: Duration) -> Waits {
    let room = ttl.saturating_sub(fixed);
    if written.period() < room {
        return written;
    }
    let calls = room.saturating_sub(written.loop_wait);
    let longest = if calls / 2 > PROBE { calls / 2 } else { calls.saturating_sub(PROBE) };
    let call = below(longest);
    if call >= SHORTEST_CALL {
        return Waits { retry_timeout: call.min(written.retry_timeout), ..written };
    }
    let retry_timeout = SHORTEST_CALL.min(written.retry_timeout);
    let nap = below(room.saturating_sub(PROBE + retry_timeout));
    Waits { loop_wait: nap.min(written.loop_wait), retry_timeout }
}

/// The next round number below: tenths of a second, below one second tens of milliseconds.
fn below(duration: Duration) -> Duration {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).saturating_sub(1);
    let step = if millis >= 1000 { 100 } else { 10 };
    Duration::from_millis(millis - millis % step)
}

/// The inequality for the times that are in use.
///
/// # Errors
/// Which term to change.
pub fn check(policy: &Policy) -> Result<(), BudgetError> {
    let waits = Waits { loop_wait: policy.loop_wait, retry_timeout: policy.retry_timeout };
    hold(policy.ttl, waits, &policy.local)
}

fn hold(ttl: Duration, waits: Waits, local: &LocalPolicy) -> Result<(), BudgetError> {
    let Waits { loop_wait, retry_timeout } = waits;
    let (stop_budget, margin) = (local.stop_budget, local.margin);
    if ttl < SHORTEST_TTL {
        return Err(BudgetError::TtlTooShort(ttl));
    }
    let fixed = stop_budget + margin;
    let needed = waits.period() + fixed;
    if needed < ttl {
        return Ok(());
    }
    let enough = Duration::from_secs(needed.as_secs() + 1);
    let room = below(ttl.saturating_sub(fixed + PROBE + SHORTEST_CALL));
    let remedy = if room.is_zero() {
        format!("set ttl to {}", seconds(&enough))
    } else {
        format!("set ttl to {}, or loop_wait to at most {}", seconds(&enough), seconds(&room))
    };
    let look = retry_timeout.max(PROBE);
    Err(BudgetError::NoRoom { loop_wait, look, retry_timeout, stop_budget, margin, ttl, remedy })
}

/// What a writer of `/config` is told. `Ok`: the times are used as written, or `retry_timeout` is cut, which the note says.
///
/// # Errors
/// The times cannot be kept, with the term to change. Nothing is to be written then.
pub fn check_config(local: &LocalPolicy, config: &Value) -> Result<Option<String>, BudgetError> {
    let written = crate::policy::written(config)?;
    if written.ttl < SHORTEST_TTL {
        return Err(BudgetError::TtlTooShort(written.ttl));
    }
    let fitted = fit(written.waits, written.ttl, local.stop_budget + local.margin);
    if fitted.loop_wait < written.waits.loop_wait {
        // Said of what was written: it is the sum that does not fit.
        hold(written.ttl, written.waits, local)?;
    }
    hold(written.ttl, fitted, local)?;
    Ok((fitted != written.waits).then(|| {
        format!(
            "{} is used as {}: a period must fit into ttl {} before PostgreSQL would have to be stopped",
            seconds(&written.waits.retry_timeout),
            seconds(&fitted.retry_timeout),
            seconds(&written.ttl)
        )
    }))
}

// --- what the times buy ---------------------------------------------------------------------------------------------------

/// What may happen to a cluster, as operators tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The primary's node is lost: both its processes are dead, its machine answers.
    NodeLost,
    /// The primary's node is silent: cut off, without power, or standing still.
    NodeSilent,
    /// PostgreSQL alone died on the primary.
    PostgresKilled,
    /// A switchover that was asked for.
    Switchover,
}

impl Event {
    /// All of them, in the order of the tables.
    pub const ALL: [Event; 4] =
        [Event::NodeLost, Event::NodeSilent, Event::PostgresKilled, Event::Switchover];

    /// For a table's first column.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Event::NodeLost => "node killed",
            Event::NodeSilent => "node silent (cut, power, stopped)",
            Event::PostgresKilled => "PostgreSQL killed, restarted in place",
            Event::Switchover => "switchover",
        }
    }
}

/// How long writes are expected to stand still, at most, on a machine at rest.
#[must_use]
pub fn expected_gap(policy: &Policy, event: Event) -> Duration {
    let bound = policy.synchronous_mode.binds() && !policy.failure_timeout.is_zero();
    match (event, bound) {
        // Silent for the time that a listener may be away, one question of a tenth of a second late, one attempt to connect.
        (Event::NodeLost, true) => {
            (crate::takeover::REFUSED + HEALTHY + BEAT).min(policy.failure_timeout + BEAT) + TAKEOVER
        }
        (Event::NodeSilent, true) => policy.failure_timeout.min(policy.ttl) + BEAT + TAKEOVER,
        (Event::NodeLost | Event::NodeSilent, false) => policy.ttl + TAKEOVER,
        (Event::PostgresKilled, _) => Duration::from_millis(800),
        (Event::Switchover, _) => Duration::from_millis(300),
    }
}

/// The longest stall of the primary's node (or of its way to the store) after which it goes on as if nothing had been: no
/// fence, no take-over. Counted for the worst instant, the end of a nap.
#[must_use]
pub fn tolerated_stall(policy: &Policy) -> Duration {
    let fixed = policy.local.stop_budget + policy.local.margin;
    let by_time = policy.ttl.saturating_sub(fixed + policy.loop_wait + HEALTHY);
    if policy.synchronous_mode.binds() && !policy.failure_timeout.is_zero() {
        by_time.min(policy.failure_timeout.saturating_sub(BEAT))
    } else {
        by_time
    }
}

/// One row of the table of presets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Which.
    pub preset: Preset,
    /// The policy that it gives, in a synchronous mode.
    pub policy: Policy,
    /// [`tolerated_stall`].
    pub stall: Duration,
    /// [`expected_gap`] of each event in a synchronous mode, and in asynchronous mode.
    pub gaps: Vec<(Event, Duration, Duration)>,
}

/// What every preset tolerates and costs: the table of the README and of `quoratectl forecast`.
#[must_use]
pub fn table(local: &LocalPolicy) -> Vec<Row> {
    Preset::ALL
        .into_iter()
        .map(|preset| {
            let with = |mode: &str| {
                let config = serde_json::json!({"preset": preset.as_str(), "synchronous_mode": mode});
                Policy::resolve(local.clone(), Some(&config))
            };
            let (bound, free) = (with("quorum"), with("off"));
            let gaps = Event::ALL
                .into_iter()
                .map(|event| (event, expected_gap(&bound, event), expected_gap(&free, event)))
                .collect();
            Row { preset, stall: tolerated_stall(&bound), policy: bound, gaps }
        })
        .collect()
}

/// [`table`] as the README prints it: seconds, in a synchronous mode and, where it differs, asynchronous.
#[must_use]
pub fn markdown(local: &LocalPolicy) -> String {
    let mut text = String::from("| preset | ttl | failure_timeout | longest stall that changes nothing |");
    for event in Event::ALL {
        text.push_str(&format!(" {} |", event.title()));
    }
    text.push_str("\n|---|---|---|---|");
    text.push_str(&"---|".repeat(Event::ALL.len()));
    for row in table(local) {
        let Policy { ttl, failure_timeout, .. } = &row.policy;
        let [ttl, failure_timeout, stall] = [ttl, failure_timeout, &row.stall].map(seconds);
        text.push_str(&format!("\n| `{}` | {ttl} | {failure_timeout} | {stall} |", row.preset.as_str()));
        for (_, bound, free) in &row.gaps {
            let (bound, free) = (seconds(bound), seconds(free));
            let cell = if bound == free { bound } else { format!("{bound} / {free}") };
            text.push_str(&format!(" {cell} |"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::Tags;

    fn local() -> LocalPolicy {
        LocalPolicy {
            name: "n1".to_owned(),
            scope: "demo".to_owned(),
            conn_url: String::new(),
            api_url: String::new(),
            tags: Tags::default(),
            stop_budget: Duration::from_millis(500),
            margin: Duration::from_millis(300),
            bootstrap_config: Value::Null,
            version: String::new(),
            unfit: None,
        }
    }

    fn times(config: Value) -> String {
        let policy = Policy::resolve(local(), Some(&config));
        check(&policy).expect("what is used always fits");
        let Policy { ttl, loop_wait, retry_timeout, failure_timeout, .. } = policy;
        format!("{ttl:?} {loop_wait:?} {retry_timeout:?} {failure_timeout:?}")
    }

    #[test]
    fn presets_hold_and_explicit_keys_win() {
        assert_eq!(times(json!({})), "5s 1s 1s 3s");
        assert_eq!(times(json!({"preset": "default"})), "5s 1s 1s 3s");
        assert_eq!(times(json!({"preset": "fast"})), "2s 250ms 350ms 1s");
        assert_eq!(times(json!({"preset": "wan"})), "15s 2s 5s 10s");
        assert_eq!(times(json!({"preset": "wan", "failure_timeout": 4, "ttl": 20})), "20s 2s 5s 4s");
        assert_eq!(times(json!({"preset": "slow"})), "5s 1s 1s 3s", "said by who writes it, not by the loop");
        for row in table(&local()) {
            assert_eq!(check_config(&local(), &json!({"preset": row.preset.as_str()})), Ok(None));
        }
    }

    #[test]
    fn every_combination_is_cut_until_it_fits() {
        for ttl in [1, 2, 3, 5, 10, 20, 30, 300] {
            for loop_wait in [0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 600.0] {
                for retry_timeout in [0.1, 0.5, 1.0, 3.0, 10.0, 30.0] {
                    let config = json!({"ttl": ttl, "loop_wait": loop_wait, "retry_timeout": retry_timeout});
                    let policy = Policy::resolve(local(), Some(&config));
                    check(&policy).unwrap_or_else(|error| panic!("{config}: {error}"));
                    assert!(policy.loop_wait.as_secs_f64() <= loop_wait, "{config}");
                    assert!(policy.retry_timeout.as_secs_f64() <= retry_timeout, "{config}");
                    assert!(!policy.loop_wait.is_zero() && !policy.retry_timeout.is_zero(), "{config}");
                }
            }
        }
    }

    #[test]
    fn writers_are_told() {
        let said = |config: Value| match check_config(&local(), &config) {
            Ok(None) => "fits".to_owned(),
            Ok(Some(note)) => format!("note: {note}"),
            Err(error) => format!("error: {error}"),
        };
        assert_eq!(said(json!({"ttl": 5, "loop_wait": 1, "retry_timeout": 1})), "fits");
        assert_eq!(
            said(json!({"ttl": 30, "loop_wait": 10, "retry_timeout": 10})),
            "note: 10 s is used as 9.5 s: a period must fit into ttl 30 s before PostgreSQL would have to be stopped",
            "Patroni's defaults"
        );
        assert_eq!(
            said(json!({"ttl": 5, "loop_wait": 4})),
            "error: loop_wait 4 s + look 1 s + retry_timeout 1 s + stop budget 0.5 s + margin 0.3 s is not less than ttl 5 s: \
             set ttl to 7 s, or loop_wait to at most 3.3 s"
        );
        assert_eq!(said(json!({"ttl": 1})), "error: ttl is 1 s: the shortest possible is 2 s");
        assert_eq!(
            said(json!({"preset": "slow"})),
            "error: preset is \"slow\": expected fast, default or wan"
        );
        assert_eq!(
            said(json!({"preset": "fast", "loop_wait": 1})),
            "error: loop_wait 1 s + look 0.5 s + retry_timeout 0.35 s + stop budget 0.5 s + margin 0.3 s is not less than \
             ttl 2 s: set ttl to 3 s, or loop_wait to at most 0.39 s"
        );
    }

    #[test]
    fn a_stop_budget_without_room_is_refused() {
        let local = LocalPolicy { stop_budget: Duration::from_secs(5), ..local() };
        let policy = Policy::resolve(local, Some(&json!({"preset": "fast"})));
        assert!(check(&policy).is_err());
    }

    #[test]
    fn the_readme_has_the_table() {
        let table = markdown(&local());
        assert!(include_str!("../../../README.md").contains(&table), "it has to contain:\n{table}");
    }

    #[test]
    fn what_the_presets_tolerate() {
        let rows: Vec<String> = table(&local())
            .into_iter()
            .map(|row| {
                let gaps: Vec<String> =
                    row.gaps.iter().map(|(_, bound, free)| format!("{bound:?}/{free:?}")).collect();
                format!("{} {:?} {}", row.preset.as_str(), row.stall, gaps.join(" "))
            })
            .collect();
        assert_eq!(
            rows,
            [
                "fast 800ms 1.1s/2.5s 1.7s/2.5s 800ms/800ms 300ms/300ms",
                "default 2.8s 1.1s/5.5s 3.7s/5.5s 800ms/800ms 300ms/300ms",
                "wan 9.8s 1.1s/15.5s 10.7s/15.5s 800ms/800ms 300ms/300ms",
            ]
        );
    }
}
