//! What is wanted: the local configuration and the dynamic one (`/config`), resolved into one value per question.

use std::time::Duration;

use serde_json::Value;

use crate::budget::{self, BudgetError, Waits};
use crate::cluster::Tags;

/// Everything from configuration that a decision reads. Built by [`Policy::resolve`], so that two nodes with the same
/// `/config` hold the same policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// What only this node's file says.
    pub local: LocalPolicy,
    /// `preset`: what the times are that nobody wrote.
    pub preset: Preset,
    /// The store's lease time for both leases.
    pub ttl: Duration,
    /// The longest nap between two decisions. Cut where the written one does not fit (see [`crate::budget`]).
    pub loop_wait: Duration,
    /// The longest that one call of the store may take. Cut where the written one does not fit (see [`crate::budget`]).
    pub retry_timeout: Duration,
    /// `synchronous_mode`.
    pub synchronous_mode: SynchronousMode,
    /// `synchronous_mode_strict`: rather no commits than commits on the primary alone.
    pub synchronous_mode_strict: bool,
    /// `synchronous_node_count`, at least 1.
    pub synchronous_node_count: usize,
    /// `maximum_lag_on_failover`.
    pub maximum_lag_on_failover_bytes: u64,
    /// `failure_timeout`: how long a primary's node may be silent before the standbys take over by quorum. Only in the
    /// synchronous modes. Default 3 s; zero switches the take-over by quorum off.
    pub failure_timeout: Duration,
    /// `primary_start_timeout`: how long the holder may start or recover before it hands the lock over.
    pub primary_start_timeout: Duration,
    /// `postgresql.use_pg_rewind`.
    pub use_pg_rewind: bool,
    /// `postgresql.use_slots`.
    pub use_slots: bool,
    /// `member_slots_ttl`: how long the slot of a member is kept after its key has gone. Zero: not at all.
    pub member_slots_ttl: Duration,
    /// `pause`.
    pub paused: bool,
}

/// What only this node's file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalPolicy {
    /// The member's name.
    pub name: String,
    /// The cluster's name.
    pub scope: String,
    /// `postgres://host:port/postgres`, for the member record.
    pub conn_url: String,
    /// `http://host:port/patroni`, for the member record.
    pub api_url: String,
    /// Tags.
    pub tags: Tags,
    /// The longest that a fence may take from its decision until the last backend is gone.
    pub stop_budget: Duration,
    /// Time kept free between the last possible acknowledgement here and the earliest possible one elsewhere:
    /// clock-rate differences, scheduling.
    pub margin: Duration,
    /// `bootstrap.dcs`: the first `/config`, written by the node that bootstraps.
    pub bootstrap_config: serde_json::Value,
    /// Quorate's version, for the member record.
    pub version: String,
    /// Why fencing cannot be relied on here; None: it can.
    pub unfit: Option<Unfit>,
}

/// A node whose guard process or watchdog device does not work: one that could not be stopped in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit {
    /// What is wrong, as a sentence for an operator.
    pub why: String,
    /// A primary that runs hands over too, instead of only not becoming one.
    pub step_down: bool,
}

/// `synchronous_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SynchronousMode {
    /// Commits wait for nobody; loss is bounded by time and lag.
    Off,
    /// Commits wait for `synchronous_node_count` chosen standbys, all of which must confirm.
    On,
    /// Commits wait for any `synchronous_node_count` of all standbys that stream.
    Quorum,
}

/// `preset`: four times that belong together, by one word. A key that is written wins over the preset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// One rack, quiet machines: the shortest lease that the store grants.
    Fast,
    /// One data centre, virtual machines that are moved now and then. What holds where no preset is written.
    Default,
    /// Several sites, lines that are slow or away for seconds.
    Wan,
}

/// The four times of a preset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Times {
    pub ttl: Duration,
    pub failure_timeout: Duration,
    pub waits: Waits,
}

impl Preset {
    /// The keys of `/config` that a preset stands for.
    pub const KEYS: [&str; 4] = ["ttl", "loop_wait", "retry_timeout", "failure_timeout"];
    /// All of them, the fastest first.
    pub const ALL: [Preset; 3] = [Preset::Fast, Preset::Default, Preset::Wan];

    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Preset::Fast => "fast",
            Preset::Default => "default",
            Preset::Wan => "wan",
        }
    }

    /// None: no such preset.
    #[must_use]
    pub fn parse(text: &str) -> Option<Preset> {
        Preset::ALL.into_iter().find(|preset| preset.as_str().eq_ignore_ascii_case(text.trim()))
    }

    /// The times. Each row keeps the inequality of [`crate::budget`], which a test checks.
    #[must_use]
    pub fn times(self) -> Times {
        let times = |ttl_ms, failure_ms, loop_ms, retry_ms| Times {
            ttl: Duration::from_millis(ttl_ms),
            failure_timeout: Duration::from_millis(failure_ms),
            waits: Waits {
                loop_wait: Duration::from_millis(loop_ms),
                retry_timeout: Duration::from_millis(retry_ms),
            },
        };
        match self {
            Preset::Fast => times(2_000, 1_000, 250, 350),
            Preset::Default => times(5_000, 3_000, 1_000, 1_000),
            Preset::Wan => times(15_000, 10_000, 2_000, 5_000),
        }
    }
}

/// The times that a dynamic configuration asks for, before anything is cut.
///
/// # Errors
/// `preset` is none.
pub fn written(config: &Value) -> Result<Times, BudgetError> {
    let preset = match config.get("preset") {
        None | Some(Value::Null) => Preset::Default,
        Some(value) => {
            let known = value.as_str().and_then(Preset::parse);
            known.ok_or_else(|| BudgetError::UnknownPreset(value.to_string()))?
        }
    };
    Ok(overridden(preset.times(), Some(config)))
}

fn overridden(times: Times, dynamic: Option<&Value>) -> Times {
    let seconds = |name: &str, default: Duration| {
        dynamic.and_then(|config| config.get(name)).and_then(duration).unwrap_or(default)
    };
    Times {
        ttl: seconds("ttl", times.ttl),
        failure_timeout: seconds("failure_timeout", times.failure_timeout),
        waits: Waits {
            loop_wait: seconds("loop_wait", times.waits.loop_wait),
            retry_timeout: seconds("retry_timeout", times.waits.retry_timeout),
        },
    }
}

/// Patroni's defaults for the rest.
const PRIMARY_START_TIMEOUT: Duration = Duration::from_secs(300);
const MEMBER_SLOTS_TTL: Duration = Duration::from_secs(30 * 60);
const MAXIMUM_LAG_BYTES: u64 = 1 << 20;

impl Policy {
    /// The policy under a dynamic configuration. A value that is missing or unusable has its default: a bad `/config` must
    /// not stop the loop (what is wrong with it is said where it is written), and times that do not fit are cut until they do.
    #[must_use]
    pub fn resolve(local: LocalPolicy, dynamic: Option<&Value>) -> Policy {
        let get = |name: &str| dynamic.and_then(|config| config.get(name));
        let postgresql = |name: &str| get("postgresql").and_then(|section| section.get(name));
        let seconds = |name: &str, default: Duration| get(name).and_then(duration).unwrap_or(default);
        let flag = |value: Option<&Value>, default: bool| value.and_then(truth).unwrap_or(default);
        let preset = get("preset").and_then(Value::as_str).and_then(Preset::parse).unwrap_or(Preset::Default);
        let times = overridden(preset.times(), dynamic);
        let ttl = times.ttl.max(budget::SHORTEST_TTL);
        let Waits { loop_wait, retry_timeout } =
            budget::fit(times.waits, ttl, local.stop_budget + local.margin);
        Policy {
            preset,
            ttl,
            loop_wait,
            retry_timeout,
            synchronous_mode: match get("synchronous_mode") {
                Some(value) if value.as_str().is_some_and(|word| word.eq_ignore_ascii_case("quorum")) => {
                    SynchronousMode::Quorum
                }
                Some(value) if truth(value) == Some(true) => SynchronousMode::On,
                Some(_) | None => SynchronousMode::Off,
            },
            synchronous_mode_strict: flag(get("synchronous_mode_strict"), false),
            synchronous_node_count: get("synchronous_node_count")
                .and_then(Value::as_u64)
                .and_then(|count| usize::try_from(count).ok())
                .unwrap_or(1)
                .max(1),
            maximum_lag_on_failover_bytes: get("maximum_lag_on_failover")
                .and_then(Value::as_u64)
                .unwrap_or(MAXIMUM_LAG_BYTES),
            failure_timeout: times.failure_timeout,
            primary_start_timeout: seconds(
                "primary_start_timeout",
                seconds("master_start_timeout", PRIMARY_START_TIMEOUT),
            ),
            use_pg_rewind: flag(postgresql("use_pg_rewind"), true),
            use_slots: flag(postgresql("use_slots"), true),
            member_slots_ttl: get("member_slots_ttl").and_then(span).unwrap_or(MEMBER_SLOTS_TTL),
            paused: flag(get("pause"), false),
            local,
        }
    }

    /// Our name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.local.name
    }
}

/// Seconds; longer ones mean nothing to anybody, and sums of them must not overflow.
const LONGEST_S: f64 = 1e9;

fn from_seconds(seconds: f64) -> Option<Duration> {
    (0.0..LONGEST_S).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
}

/// Seconds, or a number with one of Patroni's units: `30min`.
fn span(value: &Value) -> Option<Duration> {
    const UNITS: [(&str, f64); 5] = [("ms", 0.001), ("s", 1.0), ("min", 60.0), ("h", 3600.0), ("d", 86400.0)];
    let Value::String(text) = value else { return duration(value) };
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).trim_end();
    let unit = text[digits.len()..].trim_start();
    let factor = if unit.is_empty() { 1.0 } else { UNITS.iter().find(|(name, _)| *name == unit)?.1 };
    from_seconds(digits.parse::<f64>().ok()? * factor)
}

fn duration(value: &Value) -> Option<Duration> {
    let seconds = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok())?;
    from_seconds(seconds)
}

impl SynchronousMode {
    /// Commits wait for standbys, and promotions are judged by `/sync`.
    #[must_use]
    pub fn binds(self) -> bool {
        match self {
            SynchronousMode::Off => false,
            SynchronousMode::On | SynchronousMode::Quorum => true,
        }
    }
}

/// As Patroni reads a switch.
fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(on) => Some(*on),
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "on" | "true" | "yes" | "1" => Some(true),
            "off" | "false" | "no" | "0" => Some(false),
            _ => None,
        },
        Value::Number(number) => Some(number.as_i64() != Some(0)),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
