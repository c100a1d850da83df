//! What happened in a run: counted from the log lines of the members, because a run in which nothing happened proves nothing,
//! and hashed, because the same seed has to give the same run.

use std::fmt::Write as _;
use std::sync::Arc;

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer};

/// Shared by the subscriber and the schedule.
#[derive(Debug, Default, Clone)]
pub(crate) struct Witness {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    hash: u32,
    notes: u64,
    leaders: u64,
    installed: u64,
    complaints: Vec<String>,
    print: bool,
}

/// What a run has to have seen, or it does not count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Times a member heard of another leader.
    pub(crate) leaders: u64,
    /// Snapshots installed from a peer.
    pub(crate) installed: u64,
}

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

    pub(crate) fn seen(&self) -> Seen {
        let inner = self.inner.lock();
        Seen { leaders: inner.leaders, installed: inner.installed }
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
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let written = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
        written.expect("writing to a string");
    }
}

impl<S: tracing::Subscriber> Layer<S> for Witness {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let target = event.metadata().target();
        // Where two runs of one seed part ways.
        if std::env::var_os("QUORATE_SIM_NETWORK").is_some() && target.starts_with("turmoil") {
            let mut line = Line::default();
            event.record(&mut line);
            print(&format!("        {:?} {}{}", turmoil::sim_elapsed(), line.message, line.fields));
            return;
        }
        if !target.starts_with("quorate") {
            return;
        }
        let level = *event.metadata().level();
        let mut line = Line::default();
        event.record(&mut line);
        let mut inner = self.inner.lock();
        match line.message.as_str() {
            "the store has a leader" => inner.leaders += 1,
            "a snapshot was installed" => inner.installed += 1,
            _ => {}
        }
        let text = format!("{level} {target}: {}{}", line.message, line.fields);
        if level == tracing::Level::ERROR {
            inner.complaints.push(text.clone());
        }
        if inner.print && level <= tracing::Level::INFO {
            drop(inner);
            print(&format!("        {text}"));
        }
    }
}
