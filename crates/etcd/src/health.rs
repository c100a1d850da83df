//! Is this member fit to serve: `/health`, `/livez`, `/readyz`.
//!
//! | path | asks | answers |
//! |---|---|---|
//! | `/health` | alarms, a leader, a read | JSON, 200 or 503 |
//! | `/livez` | a serializable read | `ok`, or 503 with the check that failed |
//! | `/readyz` | no CORRUPT alarm, a serializable read, a linearizable read, a voter | the same |
//!
//! `?serializable=true` asks `/health` about this process alone: no leader, no quorum. `?exclude=NOSPACE` leaves an
//! alarm, or a named check of the other two, out; `?allowlist=` leaves out all but those that are named; `?verbose` prints
//! what passed. A name that is none is passed over. Sources: etcd, `server/etcdserver/api/etcdhttp/health.go`.

use quorate_state::{AlarmKind, Range};

use crate::context::Context;
use crate::status;

/// What the query string asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Query {
    serializable: bool,
    verbose: bool,
    excluded: Vec<String>,
    allowed: Vec<String>,
}

impl Query {
    pub(crate) fn parse(query: Option<&str>) -> Query {
        let mut parsed = Query::default();
        for pair in query.unwrap_or_default().split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "serializable" => parsed.serializable = value == "true",
                "verbose" => parsed.verbose = true,
                "allowlist" if !value.is_empty() => parsed.allowed.push(value.to_owned()),
                "exclude" if !value.is_empty() => parsed.excluded.push(value.to_owned()),
                _ => {}
            }
        }
        parsed
    }

    fn runs(&self, name: &str) -> bool {
        !self.excludes(name)
            && (self.allowed.is_empty() || self.allowed.iter().any(|allowed| allowed == name))
    }

    fn excludes(&self, name: &str) -> bool {
        self.excluded.iter().any(|excluded| excluded == name)
    }
}

/// None: healthy. Else etcd's text for the reason.
pub(crate) async fn health(context: &Context, query: &Query) -> Option<String> {
    let alarms = match context.own.alarms() {
        Ok(alarms) => alarms,
        Err(error) => return Some(format!("RANGE ERROR:{}", status::of_read(&error).text())),
    };
    if let Some(name) =
        alarms.iter().filter_map(|(_, kind)| alarm_name(*kind)).find(|name| !query.excludes(name))
    {
        return Some(format!("ALARM {name}"));
    }
    if !query.serializable && context.own.leadership().borrow().leader.is_none() {
        return Some("RAFT NO LEADER".to_owned());
    }
    read(context, query.serializable).await.err().map(|error| format!("RANGE ERROR:{}", error.text()))
}

fn alarm_name(kind: AlarmKind) -> Option<&'static str> {
    match kind {
        AlarmKind::None => None,
        AlarmKind::NoSpace => Some("NOSPACE"),
        AlarmKind::Corrupt => Some("CORRUPT"),
    }
}

async fn read(context: &Context, serializable: bool) -> Result<(), status::EtcdError> {
    let probe = Range { key: "health".into(), keys_only: true, limit: 1, serializable, ..Range::default() };
    // As the server itself: whether it works is anybody's to know.
    match context.own.range(probe, context.options.request_timeout).await {
        Ok(_) => Ok(()),
        Err(error) => Err(status::of_read(&error)),
    }
}

/// One thing to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

impl Check {
    pub(crate) const LIVE: &'static [Check] = &[Check::SerializableRead];
    pub(crate) const READY: &'static [Check] =
        &[Check::DataCorruption, Check::SerializableRead, Check::LinearizableRead, Check::NonLearner];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Check::DataCorruption => "data_corruption",
            Check::SerializableRead => "serializable_read",
            Check::LinearizableRead => "linearizable_read",
            Check::NonLearner => "non_learner",
        }
    }

    /// Why it failed, in etcd's words.
    async fn run(self, context: &Context) -> Result<(), &'static str> {
        match self {
            Check::DataCorruption => {
                let alarms = context.own.alarms().map_err(|error| status::of_read(&error).text())?;
                let corrupt = alarms.iter().any(|(_, kind)| *kind == AlarmKind::Corrupt);
                if corrupt { Err("alarm activated: CORRUPT") } else { Ok(()) }
            }
            Check::SerializableRead => read(context, true).await.map_err(status::EtcdError::text),
            Check::LinearizableRead => read(context, false).await.map_err(status::EtcdError::text),
            Check::NonLearner => {
                let me = context.own.header().member_id;
                let learns = context.own.members().iter().any(|member| member.id == me && member.is_learner);
                if learns { Err("not supported for learner") } else { Ok(()) }
            }
        }
    }
}

/// Runs those of `checks` that the query wants: whether all passed, and what to print.
pub(crate) async fn run(context: &Context, checks: &[Check], query: &Query) -> (bool, String) {
    let mut passed = true;
    let mut lines = String::new();
    for check in checks {
        let name = check.name();
        if !query.runs(name) {
            continue;
        }
        match check.run(context).await {
            Ok(()) => lines.push_str(&format!("[+]{name} ok\n")),
            Err(error) => {
                passed = false;
                lines.push_str(&format!("[-]{name} failed: {error}\n"));
            }
        }
    }
    match (passed, query.verbose) {
        (true, false) => (true, "ok\n".to_owned()),
        (true, true) => (true, format!("{lines}ok\n")),
        // Go's error answers end their text with a line of their own.
        (false, _) => (false, format!("{lines}\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_as_etcd_reads_them() {
        assert_eq!(Query::parse(None), Query::default());
        assert_eq!(Query::parse(Some("serializable=false")), Query::default());
        let query = Query::parse(Some("serializable=true&exclude=NOSPACE&exclude=&exclude=CORRUPT&verbose"));
        assert!(query.serializable && query.verbose);
        assert!(query.runs("x") && !query.runs("NOSPACE"));
        let allowing = Query::parse(Some("allowlist=a&allowlist=b&exclude=b"));
        assert!(allowing.runs("a") && !allowing.runs("b") && !allowing.runs("c"));
        assert!(query.excludes("NOSPACE") && query.excludes("CORRUPT") && !query.excludes(""));
    }
}
