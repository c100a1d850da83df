//! A record as sentences, for somebody who was woken up: what happened, how long it took, what was lost, why so.

use super::{Evidence, How, Kind, Phase, PhaseName, Record};

impl Record {
    /// In one line, for a list.
    #[must_use]
    pub fn headline(&self) -> String {
        let node = &self.node;
        let from = self.from.as_deref().unwrap_or("nobody");
        match self.kind {
            Kind::Suspicion => format!("{node} suspected {from}: {}", self.trigger),
            Kind::Withdrawal => format!("{from} was heard again: the suspicion ended, nothing was changed"),
            Kind::Promise => format!("{node} promised to stream from nobody while {from} is suspected"),
            Kind::Revocation => format!("{node} took the leader lock away from {from}: enough promises"),
            Kind::Promotion => self.promotion(),
            Kind::Refusal => format!("{node}: {}", self.trigger),
            Kind::Fence => format!("{node} stopped its PostgreSQL by force: {}", self.trigger),
            Kind::Release => format!("{node} gave the leader lock back: {}", self.trigger),
            Kind::Hold => format!("{node} stayed primary while the store was away{}", self.total(" for ")),
            Kind::Restart => {
                format!("{node} started PostgreSQL again in place{}", self.total(", back after "))
            }
            Kind::SyncSet => format!("{node} changed whom commits wait for: {}", self.trigger),
        }
    }

    fn promotion(&self) -> String {
        let (node, from) = (&self.node, self.from.as_deref().unwrap_or("nobody"));
        let why = match self.how {
            Some(How::First) | None => return format!("{node} became the first primary of the cluster"),
            Some(How::Quorum) => format!("the standbys took the lock away from {from}"),
            Some(How::Expiry) => format!("the lease of {from} had run out"),
            Some(How::HandOver) => format!("{from} was stopped in an orderly way"),
            Some(How::Switchover) => format!("a switchover from {from} was asked for"),
            Some(How::Failover) => "a failover was asked for".to_owned(),
        };
        format!("{node} became primary{}, because {why}", self.total(" after "))
    }

    fn total(&self, before: &str) -> String {
        if self.phases.is_empty() { String::new() } else { format!("{before}{}", seconds(self.total_ms())) }
    }

    /// All of it, a sentence an element.
    #[must_use]
    pub fn sentences(&self) -> Vec<String> {
        let mut lines = vec![format!("{}.", self.headline())];
        match (self.kind, self.how, &self.from) {
            (Kind::Promotion, Some(How::Quorum), Some(from)) => {
                lines.push(format!("{from} was suspected: {}.", self.trigger));
            }
            (Kind::Promotion, Some(How::First) | None, _) => {}
            (Kind::Promotion, Some(_), _) => lines.push(format!("The reason: {}.", self.trigger)),
            (_, _, _) => {}
        }
        if self.phases.len() > 1 && self.how != Some(How::First) {
            let parts: Vec<String> = self.phases.iter().map(part).collect();
            lines.push(format!("Of the {}: {}.", seconds(self.total_ms()), parts.join(", ")));
        }
        if let (Kind::Promotion, Some(position)) = (self.kind, self.position) {
            let new = self.timeline.filter(|new| *new > position.timeline);
            let began = new.map_or(String::new(), |new| format!("; timeline {new} begins there"));
            lines.push(format!("{} had the WAL up to {position}{began}.", self.node));
        }
        lines.extend(self.losses());
        if let Some(margin) = self.fence_margin_ms {
            lines.push(if margin >= 0 {
                format!("PostgreSQL was gone {} before its lease could end.", seconds(margin.unsigned_abs()))
            } else {
                format!(
                    "ALARM: PostgreSQL was gone only {} AFTER its lease could have ended; another node may have been writing.",
                    seconds(margin.unsigned_abs())
                )
            });
        }
        for rejected in &self.rejected {
            lines.push(format!("{} was not promoted: {}.", rejected.node, rejected.why));
        }
        if !self.evidence.is_empty() {
            let known: Vec<String> = self.evidence.iter().map(one).collect();
            lines.push(format!("What was known: {}.", known.join("; ")));
        }
        lines
    }

    fn losses(&self) -> Option<String> {
        if self.kind != Kind::Promotion || self.how == Some(How::First) {
            return None;
        }
        Some(match (self.lost_bytes, self.synchronous) {
            (_, true) => {
                "No acknowledged commit was lost: commits had waited for a standby that has them.".to_owned()
            }
            (Some(0), false) => "No loss is known: it had everything that was published.".to_owned(),
            (Some(bytes), false) => format!(
                "At least {bytes} bytes of WAL that the former primary had published are not here, and what it wrote after \
                 that is not known."
            ),
            (None, false) => "How much was lost is not known: no position had been published.".to_owned(),
        })
    }
}

fn part(phase: &Phase) -> String {
    let time = seconds(phase.ms);
    match phase.name {
        PhaseName::Detect => format!("{time} until it was suspected"),
        PhaseName::Promises => format!("{time} for the promises of the standbys"),
        PhaseName::LeaseWait => format!("{time} until its lease had run out"),
        PhaseName::Race => format!("{time} to agree on the successor"),
        PhaseName::Promote => format!("{time} to promote"),
        PhaseName::FirstWrite => format!("{time} until a write could be confirmed"),
        PhaseName::Restart => format!("{time} to start PostgreSQL"),
        PhaseName::Away => format!("{time} without the store"),
    }
}

fn one(evidence: &Evidence) -> String {
    let Evidence { node, role, state, .. } = evidence;
    let mut text = format!("{node} {role}, {state}");
    if !evidence.present {
        text.push_str(" when last heard, its key gone");
    }
    if let Some(position) = evidence.position {
        text.push_str(&format!(", at {position}"));
    }
    if let Some(silent) = evidence.silent_ms {
        text.push_str(&format!(", silent for {}", seconds(silent)));
    }
    if evidence.refuses {
        text.push_str(", its ports refused");
    }
    text
}

/// `0.35 s`, `12 s`.
pub(crate) fn seconds(ms: u64) -> String {
    if ms >= 10_000 {
        format!("{} s", (ms + 500) / 1000)
    } else {
        format!("{}.{:02} s", ms / 1000, ms % 1000 / 10)
    }
}
