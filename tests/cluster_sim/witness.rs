//! What happened in a run: counted from the log lines of the members, because a run in which nothing happened proves nothing,
//! and hashed, because the same seed has to give the same run.
//!
//! Whose turn it is comes from here too, for [`crate::clocks`], and what nobody else sees: who leads in which term.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use crate::clocks;

/// Shared by the subscriber and the schedule.
#[derive(Debug, Default, Clone)]
pub(crate) struct Witness {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    hash: u32,
    notes: u64,
    seen: BTreeMap<&'static str, u64>,
    /// Who leads, by term.
    leaders: BTreeMap<String, String>,
    complaints: Vec<String>,
    print: bool,
}

/// Log lines that say that something was reached, and what it is called in the summary.
const MILESTONES: &[(&str, &str)] = &[
    ("the store has a leader", "leaders"),
    ("a snapshot was installed", "snapshots installed"),
    ("a member was added", "members added"),
    ("a member was removed", "members removed"),
    ("a learner has the vote", "learners promoted"),
    ("the added member has caught up and has the vote", "votes given"),
    ("the member on the new disk has the vote", "disks replaced"),
    ("this process did not run; leases are lengthened by as much", "stalls noticed"),
    ("log: a torn write that was never acknowledged", "torn writes cut"),
];

impl Witness {
    pub(crate) fn printing(print: bool) -> Witness {
        let witness = Witness::default();
        witness.inner.lock().print = print;
        witness
    }

    /// A step of the schedule, or what a client saw: part of the trace.
    pub(crate) fn note(&self, note: &str) {
        let mut inner = self.inner.lock();
        inner.hash = crc32c::crc32c_append(inner.hash, note.as_bytes());
        inner.notes += 1;
        if inner.print {
            drop(inner);
            print(note);
        }
    }

    /// What was reached, how often.
    pub(crate) fn seen(&self) -> BTreeMap<&'static str, u64> {
        self.inner.lock().seen.clone()
    }

    /// Something was reached that no log line tells.
    pub(crate) fn reached(&self, what: &'static str) {
        *self.inner.lock().seen.entry(what).or_default() += 1;
    }

    /// Errors that a member logged.
    pub(crate) fn complaints(&self) -> Vec<String> {
        self.inner.lock().complaints.clone()
    }

    /// (hash, number of notes).
    pub(crate) fn trace(&self) -> (u32, u64) {
        let inner = self.inner.lock();
        (inner.hash, inner.notes)
    }
}

#[allow(clippy::print_stdout, reason = "the trace of one seed, on request")]
fn print(line: &str) {
    println!("{line}");
}

/// The message of an event, and its fields.
#[derive(Default)]
struct Line {
    message: String,
    fields: BTreeMap<&'static str, String>,
}

impl Line {
    fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)?;
        self.fields.iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let mut text = String::new();
        write!(text, "{value:?}").expect("writing to a string");
        match field.name() {
            "message" => self.message = text,
            name => drop(self.fields.insert(name, text)),
        }
    }
}

/// The member that a span of turmoil's is about.
struct Turn(usize);

impl<S: tracing::Subscriber + for<'s> LookupSpan<'s>> Layer<S> for Witness {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if attributes.metadata().name() != "node" || !attributes.metadata().target().starts_with("turmoil") {
            return;
        }
        let mut line = Line::default();
        attributes.record(&mut line);
        let name = line.field("name").trim_matches('"');
        let member = name.strip_prefix('m').and_then(|number| number.parse().ok());
        if let (Some(span), Some(member)) = (context.span(id), member) {
            span.extensions_mut().insert(Turn(member));
        }
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(turn) = span.extensions().get::<Turn>()
        {
            clocks::turn_of(turn.0);
        }
    }

    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let target = event.metadata().target();
        // Where two runs of one seed part ways.
        if std::env::var_os("QUORATE_SIM_NETWORK").is_some() && target.starts_with("turmoil") {
            let mut line = Line::default();
            event.record(&mut line);
            print(&format!("        {:?} {line}", turmoil::sim_elapsed()));
            return;
        }
        if !target.starts_with("quorate") {
            return;
        }
        let level = *event.metadata().level();
        let mut line = Line::default();
        event.record(&mut line);
        let mut inner = self.inner.lock();
        if let Some((_, what)) = MILESTONES.iter().find(|(message, _)| *message == line.message) {
            *inner.seen.entry(what).or_default() += 1;
        }
        let text = format!("{level} {target}: {line}");
        if level == tracing::Level::ERROR {
            inner.complaints.push(text.clone());
        }
        if line.message == "the store has a leader" {
            let (term, leader) = (line.field("term").to_owned(), line.field("leader").to_owned());
            let known = inner.leaders.entry(term.clone()).or_insert_with(|| leader.clone());
            if *known != leader {
                let two = format!("TWO LEADERS of term {term}: {known} and {leader}");
                inner.complaints.push(two);
            }
        }
        if inner.print && level <= tracing::Level::INFO {
            drop(inner);
            print(&format!("        {text}"));
        }
    }
}
