//! From the records in the store to what an operator asks for first: the last thing that happened, with all that belongs to it.
//!
//! Records of one story carry one lock: the suspicion, the promises, the revocation, the promotion name the lock that was lost, and
//! so does the fence of its former holder, which may write its record minutes later, when it reaches the store again. An agent that was
//! started anew does not know which lock it had; its fence belongs to the promotion that took its place.

use super::{How, Kind, PhaseName, Record};

/// The last story in `records` (oldest first): the record to tell in full, and the others of the same lock in order.
#[must_use]
pub fn incident(records: &[Record]) -> Option<(&Record, Vec<&Record>)> {
    let news = records.iter().rev().find(|record| record.kind.is_news())?;
    let lock = lock_of(records, news);
    let same = |record: &Record| match (lock, lock_of(records, record)) {
        (Some(of), Some(lock)) => of == lock,
        (None, _) | (_, None) => std::ptr::eq(record, news),
    };
    // A suspicion that was withdrawn is another story of the same reign, and so is what its primary did in good days.
    let over = |record: &Record| same(record) && record.kind == Kind::Withdrawal;
    let begin = records.iter().rposition(over).map_or(0, |at| at + 1);
    let part = |record: &&Record| {
        let quiet = match record.kind {
            Kind::SyncSet | Kind::Hold | Kind::Restart => true,
            Kind::Suspicion
            | Kind::Withdrawal
            | Kind::Promise
            | Kind::Revocation
            | Kind::Promotion
            | Kind::Refusal
            | Kind::Fence
            | Kind::Release => false,
        };
        same(record) && (!quiet || std::ptr::eq(*record, news))
    };
    let story: Vec<&Record> = records[begin..].iter().filter(part).collect();
    // A fence that is reported late belongs to the promotion that it made room for.
    let main = story.iter().rev().find(|record| record.kind == Kind::Promotion).copied().unwrap_or(news);
    let details = story.into_iter().filter(|record| !std::ptr::eq(*record, main)).collect();
    Some((main, details))
}

/// The lock that a record is about.
fn lock_of(records: &[Record], record: &Record) -> Option<i64> {
    if record.lock.is_some() || record.kind != Kind::Fence {
        return record.lock;
    }
    let at = records.iter().position(|it| std::ptr::eq(it, record))?;
    let concerns = |it: &&Record| {
        it.kind == Kind::Promotion && (it.node == record.node || it.from.as_ref() == Some(&record.node))
    };
    let last = records[..at].iter().rev().find(concerns)?;
    // Promoted itself since: then nobody has taken its place.
    last.lock.filter(|_| last.node != record.node)
}

/// The last story as sentences. `records` as the store has them, oldest first.
#[must_use]
pub fn tell(records: &[Record]) -> Vec<String> {
    let Some((main, details)) = incident(records) else {
        return vec![match records.len() {
            0 => "Nothing has been recorded: no failover, no fence, no refusal.".to_owned(),
            count => format!(
                "Nothing happened to the primary; {count} smaller changes are recorded (--last {count})."
            ),
        }];
    };
    let mut lines = Vec::new();
    let mut sentences = main.sentences().into_iter();
    if let Some(first) = sentences.next() {
        lines.push(format!("{}: {first}", when(&main.time)));
    }
    lines.extend(sentences);
    if let Some(margin) = margin(main, &details) {
        lines.push(margin);
    }
    if !details.is_empty() {
        lines.push("Step by step:".to_owned());
        // By the writers' wall clocks, which the store's order of numbers does not know: a fence is reported late.
        let mut steps: Vec<&Record> = details.iter().copied().chain([main]).collect();
        steps.sort_by(|left, right| left.time.cmp(&right.time));
        for detail in steps {
            let fence = detail
                .fence_margin_ms
                .map_or(String::new(), |margin| format!(" ({margin} ms before its lease could end)"));
            lines.push(format!("  {}  {}{fence}", clock(&detail.time), detail.headline()));
        }
    }
    let after = records.iter().rev().take_while(|record| !std::ptr::eq(*record, main)).count();
    let after = after.saturating_sub(details.iter().filter(|it| later(records, it, main)).count());
    if after > 0 {
        lines.push(format!("Since then {after} smaller changes were recorded (--last {after})."));
    }
    lines
}

fn later(records: &[Record], record: &Record, than: &Record) -> bool {
    let at = |wanted: &Record| records.iter().position(|it| std::ptr::eq(it, wanted));
    at(record) > at(than)
}

/// From the end of the old PostgreSQL to the first possible write on the new one, where time was what kept them apart: what
/// the fence left of the lease, and what the race and the promotion took after it.
fn margin(main: &Record, details: &[&Record]) -> Option<String> {
    if main.kind != Kind::Promotion || main.how != Some(How::Expiry) {
        return None;
    }
    let fence = details.iter().find(|record| record.kind == Kind::Fence)?;
    let left = fence.fence_margin_ms?;
    let taken: u64 = main
        .phases
        .iter()
        .filter(|phase| matches!(phase.name, PhaseName::Race | PhaseName::Promote))
        .map(|phase| phase.ms)
        .sum();
    let margin = left.saturating_add(i64::try_from(taken).unwrap_or(i64::MAX));
    Some(if margin >= 0 {
        format!(
            "{}'s PostgreSQL was gone at least {} before {} could write.",
            fence.node,
            super::seconds(margin.unsigned_abs()),
            main.node
        )
    } else {
        format!(
            "ALARM: {} could write {} before {}'s PostgreSQL was gone.",
            main.node,
            super::seconds(margin.unsigned_abs()),
            fence.node
        )
    })
}

/// `2026-11-21 17:20:11 UTC` of `2026-11-21T17:20:11.123456Z`.
#[must_use]
pub fn when(time: &str) -> String {
    match (time.get(..10), time.get(11..19)) {
        (Some(day), Some(clock)) => format!("{day} {clock} UTC"),
        _ => time.to_owned(),
    }
}

/// `17:20:11.123`.
fn clock(time: &str) -> &str {
    time.get(11..23).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::super::Phase;
    use super::*;
    use crate::facts::Moment;

    fn record(second: u32, node: &str, kind: Kind, lock: Option<i64>) -> Record {
        let time = format!("2026-11-21T03:00:{second:02}.123456Z");
        Record {
            time,
            lock,
            from: Some("n1".to_owned()),
            ..Record::new(Moment::default(), node, kind, "it was silent")
        }
    }

    #[test]
    fn a_story_is_told_with_what_belongs_to_it() {
        let promotion = Record {
            how: Some(How::Expiry),
            lost_bytes: Some(0),
            phases: vec![
                Phase { name: PhaseName::LeaseWait, ms: 4100 },
                Phase { name: PhaseName::Race, ms: 80 },
                Phase { name: PhaseName::Promote, ms: 150 },
            ],
            ..record(5, "n2", Kind::Promotion, Some(20))
        };
        let fence = Record { fence_margin_ms: Some(700), ..record(4, "n1", Kind::Fence, Some(20)) };
        let records = [
            record(1, "n9", Kind::Promotion, Some(7)),
            record(1, "n1", Kind::SyncSet, Some(20)),
            record(1, "n3", Kind::Suspicion, Some(20)),
            record(1, "n3", Kind::Withdrawal, Some(20)),
            record(2, "n3", Kind::Suspicion, Some(20)),
            promotion,
            record(6, "n2", Kind::SyncSet, Some(30)),
            fence,
        ];
        assert_eq!(
            tell(&records),
            [
                "2026-11-21 03:00:05 UTC: n2 became primary after 4.33 s, because the lease of n1 had run out.",
                "The reason: it was silent.",
                "Of the 4.33 s: 4.10 s until its lease had run out, 0.08 s to agree on the successor, 0.15 s to promote.",
                "No loss is known: it had everything that was published.",
                "n1's PostgreSQL was gone at least 0.93 s before n2 could write.",
                "Step by step:",
                "  03:00:02.123  n3 suspected n1: it was silent",
                "  03:00:04.123  n1 stopped its PostgreSQL by force: it was silent (700 ms before its lease could end)",
                "  03:00:05.123  n2 became primary after 4.33 s, because the lease of n1 had run out",
                "Since then 1 smaller changes were recorded (--last 1).",
            ]
        );
    }

    #[test]
    fn a_fence_that_does_not_know_its_lock_belongs_to_who_took_its_place() {
        let promotion = Record { how: Some(How::Quorum), ..record(3, "n2", Kind::Promotion, Some(20)) };
        let fence = record(2, "n1", Kind::Fence, None);
        let first = Record { from: None, ..record(0, "n1", Kind::Promotion, None) };
        let records = [first.clone(), promotion.clone(), fence.clone()];
        let (main, details) = incident(&records).unwrap();
        assert_eq!(
            (main, details),
            (&records[1], vec![&records[2]]),
            "it was told late, and is no other story"
        );
        // It was promoted since: what fenced it was something else.
        let again = Record { from: Some("n2".to_owned()), ..record(5, "n1", Kind::Promotion, Some(30)) };
        let records = [first, promotion, again, Record { time: "later".to_owned(), ..fence }];
        let (main, details) = incident(&records).unwrap();
        assert_eq!((main, details), (&records[3], Vec::new()));
    }

    #[test]
    fn without_news_that_is_said() {
        assert_eq!(tell(&[]), ["Nothing has been recorded: no failover, no fence, no refusal."]);
        let small = [record(1, "n1", Kind::SyncSet, Some(20))];
        assert_eq!(
            tell(&small),
            ["Nothing happened to the primary; 1 smaller changes are recorded (--last 1)."]
        );
    }
}
