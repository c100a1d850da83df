//! Golden scripts for the two pure machines: the lessor and the watch hub.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use goldenscript::{Command, Context, Runner};
use quorate_node::WatchSpec;
use quorate_node::lessor::{Lessor, Remaining, Renew};
use quorate_node::watch::hub::{Hub, Take, WatchId};
use quorate_state::{Event, KeyValue, LeaseRecord, Revision};

type Output = Result<String, Box<dyn Error>>;

fn scripts(dir: &str, run: impl Fn(&Path)) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testscripts").join(dir);
    let mut paths: Vec<_> =
        std::fs::read_dir(&dir).expect("scripts").flatten().map(|file| file.path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "no script in {}", dir.display());
    for path in paths {
        run(&path);
    }
}

#[test]
fn lessor() {
    scripts("lessor", |path| {
        goldenscript::run(&mut LessorRunner::default(), path).expect("the script passes")
    });
}

#[test]
fn hub() {
    scripts("hub", |path| goldenscript::run(&mut HubRunner::default(), path).expect("the script passes"));
}

/// Every lease begins with it.
const STAMP: u64 = 0;

/// Times are whole seconds since boot; the grace is one.
#[derive(Default)]
struct LessorRunner {
    lessor: Lessor,
}

fn seconds(text: &str) -> Result<Duration, Box<dyn Error>> {
    Ok(Duration::from_secs(text.parse()?))
}

impl Runner for LessorRunner {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Output {
        let mut args = command.consume_args();
        let now = args.take_key("now").map(seconds).transpose()?.unwrap_or_default();
        let mut number =
            || -> Result<i64, Box<dyn Error>> { Ok(args.next_pos().ok_or("a number is missing")?.parse()?) };
        let lessor = &mut self.lessor;
        Ok(match command.name.as_str() {
            "granted" => {
                let (id, ttl) = (number()?, number()?);
                lessor.granted(now, id, Duration::from_secs(ttl.try_into()?), STAMP);
                String::new()
            }
            "removed" => {
                lessor.removed(number()?);
                String::new()
            }
            "restored" => {
                // Lease, ttl and what was noted of it (0: nothing), again and again.
                let mut leases = Vec::new();
                while let Ok(id) = number() {
                    let ttl_ms = u64::try_from(number()?)? * 1000;
                    let noted = u64::try_from(number()?)?;
                    let remaining_ms = (noted > 0).then_some(noted * 1000);
                    leases.push(LeaseRecord { id, ttl_ms, stamp: STAMP, remaining_ms });
                }
                lessor.restored(now, leases);
                String::new()
            }
            // promote [SECONDS]: so long ago leaders were confirmed for the last time.
            "promote" => {
                let unconfirmed = Duration::from_secs(number().unwrap_or(0).try_into()?);
                lessor.promote(now, Duration::from_secs(1), unconfirmed);
                String::new()
            }
            "demote" => {
                lessor.demote();
                String::new()
            }
            "renew" => match lessor.renew(now, number()?) {
                Renew::Renewed { ttl } => format!("renewed for {} s", ttl.as_secs()),
                Renew::Noted { stamp } => format!("take checkpoint {stamp} back first"),
                Renew::Revoking => "wait for its end".to_owned(),
                Renew::Unknown => "unknown".to_owned(),
                Renew::Silent => "somebody else leads".to_owned(),
            },
            // What is to be noted, as lease:stamp:seconds.
            "due_checkpoints" => {
                let max = usize::try_from(number().unwrap_or(100))?;
                let due = lessor.due_checkpoints(now, max);
                let show = |it: &Remaining| format!("{}:{}:{}", it.id, it.stamp, it.remaining.as_secs());
                format!("note [{}]", due.iter().map(show).collect::<Vec<_>>().join(" "))
            }
            // checkpointed LEASE STAMP SECONDS: applied; 0 seconds is "in full".
            "checkpointed" => {
                let (id, stamp, left) = (number()?, number()?.try_into()?, number()?.try_into()?);
                let left = Some(Duration::from_secs(left)).filter(|left| !left.is_zero());
                lessor.checkpointed(now, id, stamp, left);
                String::new()
            }
            "checkpoint_failed" | "checkpoint_unknown" => {
                let judged = Remaining { id: number()?, stamp: number()?.try_into()?, remaining: now };
                if command.name == "checkpoint_failed" {
                    lessor.checkpoint_failed(now, &judged, Duration::from_secs(1));
                } else {
                    lessor.checkpoint_unknown(now, &judged, Duration::from_secs(1));
                }
                String::new()
            }
            "due" => format!("due {:?}", lessor.due(now, usize::try_from(number().unwrap_or(100))?)),
            "begin_revoke" => match lessor.begin_revoke(now, number()?) {
                Some(_) => "propose it".to_owned(),
                None => "leave it".to_owned(),
            },
            "revoke_failed" => {
                lessor.revoke_failed(now, number()?, Duration::from_secs(1));
                String::new()
            }
            "revoke_unknown" => {
                lessor.revoke_unknown(now, number()?, Duration::from_secs(1));
                String::new()
            }
            "forgive" => {
                lessor.forgive(now, Duration::from_secs(number()?.try_into()?), Duration::from_secs(1));
                String::new()
            }
            "remaining" => match lessor.remaining(now, number()?) {
                Some((ttl, remaining)) => format!("{} of {} s", remaining.as_secs(), ttl.as_secs()),
                None => "unknown".to_owned(),
            },
            "next_wake" => match lessor.next_wake() {
                Some(at) => format!("at {}", at.as_secs()),
                None => "never".to_owned(),
            },
            other => return Err(format!("no command {other}").into()),
        })
    }
}

/// History is kept by the runner, as the state would; watches have names.
#[derive(Default)]
struct HubRunner {
    hub: Hub,
    watches: BTreeMap<String, WatchId>,
    history: Vec<Arc<Event>>,
}

impl HubRunner {
    fn name(&self, id: WatchId) -> String {
        self.watches.iter().find(|(_, watch)| **watch == id).map(|(name, _)| name.clone()).unwrap_or_default()
    }
}

fn show(events: &[Arc<Event>]) -> String {
    let show = |event: &Arc<Event>| {
        let key = String::from_utf8_lossy(&event.kv.key).into_owned();
        let sign = if event.delete { "-" } else { "" };
        let prev = if event.prev_kv.is_some() { "(prev)" } else { "" };
        format!("{sign}{key}@{}{prev}", event.kv.mod_revision)
    };
    events.iter().map(show).collect::<Vec<_>>().join(" ")
}

impl Runner for HubRunner {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Output {
        let mut args = command.consume_args();
        match command.name.as_str() {
            // watch NAME KEY [end=] [start=] [prev=] [no_put=] [no_delete=]
            "watch" => {
                let name = args.next_pos().ok_or("name")?.to_owned();
                let key = args.next_pos().ok_or("key")?.to_owned();
                let flag = |value: Option<&str>| value == Some("true");
                let spec = WatchSpec {
                    key: key.into(),
                    range_end: args.take_key("end").unwrap_or_default().to_owned().into(),
                    start_revision: args.take_key("start").map(str::parse).transpose()?.unwrap_or(0),
                    prev_kv: flag(args.take_key("prev")),
                    no_put: flag(args.take_key("no_put")),
                    no_delete: flag(args.take_key("no_delete")),
                };
                self.watches.insert(name, self.hub.watch(spec));
                Ok(String::new())
            }
            "cancel" => {
                let id = self.watches.remove(args.next_pos().ok_or("name")?).ok_or("no such watch")?;
                self.hub.cancel(id);
                Ok(String::new())
            }
            // publish REVISION KEY… : one event each at that revision; -KEY deletes. `times=` repeats revisions.
            "publish" => {
                let first: Revision = args.next_pos().ok_or("revision")?.parse()?;
                let times: i64 = args.take_key("times").map(str::parse).transpose()?.unwrap_or(1);
                let mut keys = Vec::new();
                while let Some(key) = args.next_pos() {
                    keys.push(key.to_owned());
                }
                let mut events = Vec::new();
                for revision in first..first + times {
                    for (sub, key) in keys.iter().enumerate() {
                        let delete = key.starts_with('-');
                        let key = key.trim_start_matches('-').to_owned();
                        let kv = KeyValue { key: key.into(), mod_revision: revision, ..KeyValue::default() };
                        let prev_kv = Some(KeyValue::default());
                        events.push(Arc::new(Event { delete, kv, prev_kv, sub: u32::try_from(sub)? }));
                    }
                }
                self.history.extend(events.iter().cloned());
                let woken = self.hub.publish(&events, first + times - 1);
                let names: Vec<String> = woken.into_iter().map(|id| self.name(id)).collect();
                Ok(format!("wakes [{}]", names.join(" ")))
            }
            // A snapshot was installed: the state is at this revision, without the events in between.
            "restored" => {
                let revision = args.next_pos().ok_or("revision")?.parse()?;
                let woken = self.hub.restored(revision).len();
                Ok(format!("wakes {woken}"))
            }
            "take" => {
                let id = *self.watches.get(args.next_pos().ok_or("name")?).ok_or("no such watch")?;
                Ok(match self.hub.take(id) {
                    Take::Deliver(delivery) if delivery.events.len() > 4 => {
                        format!("{} events through {}", delivery.events.len(), delivery.revision)
                    }
                    Take::Deliver(delivery) => {
                        format!("{} through {}", show(&delivery.events), delivery.revision)
                    }
                    Take::History { from, through } => format!("read history {from}..={through}"),
                    Take::Wait => "wait".to_owned(),
                    Take::Gone => "gone".to_owned(),
                })
            }
            "fed" => {
                let id = *self.watches.get(args.next_pos().ok_or("name")?).ok_or("no such watch")?;
                self.hub.fed(id, args.next_pos().ok_or("revision")?.parse()?);
                Ok(String::new())
            }
            "progress" => {
                let id = *self.watches.get(args.next_pos().ok_or("name")?).ok_or("no such watch")?;
                Ok(match self.hub.progress(id) {
                    Some(revision) => format!("everything through {revision}"),
                    None => "behind".to_owned(),
                })
            }
            other => Err(format!("no command {other}").into()),
        }
    }
}
