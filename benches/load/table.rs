//! What was measured, and how it is shown.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use serde_json::json;

use crate::cluster::{Cluster, Idle};
use crate::million::Million;
use crate::work::Outcome;
use crate::{Cost, Store};

/// One load on one store.
pub(crate) struct Figure {
    store: Store,
    work: &'static str,
    clients: usize,
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    errors: u64,
    rss_mb: f64,
    members_us: f64,
    client_us: f64,
}

impl Figure {
    pub(crate) fn of(
        cluster: &Cluster,
        work: &'static str,
        clients: usize,
        outcome: &Outcome,
        before: &Cost,
    ) -> Figure {
        let (members_us, client_us) = before.per_operation(cluster, outcome.latency_us.len());
        let ms = |quantile: f64| outcome.latency_us.value_at_quantile(quantile) as f64 / 1000.0;
        Figure {
            store: cluster.store(),
            work,
            clients,
            per_second: outcome.latency_us.len() as f64 / outcome.elapsed.as_secs_f64(),
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
            max_ms: outcome.latency_us.max() as f64 / 1000.0,
            errors: outcome.errors,
            rss_mb: cluster.rss_mb(),
            members_us,
            client_us,
        }
    }
}

/// Everything that was measured.
#[derive(Default)]
pub(crate) struct Report {
    figures: Vec<Figure>,
    idle: Vec<(Store, Idle)>,
    rest: Vec<(Store, f64)>,
    elections: Vec<(Store, Duration)>,
    million: Vec<(Store, Million)>,
}

impl Report {
    pub(crate) fn load(&mut self, figure: Figure) {
        self.figures.push(figure);
    }

    pub(crate) fn idle(&mut self, store: Store, idle: Idle) {
        self.idle.push((store, idle));
    }

    pub(crate) fn rest(&mut self, store: Store, rss_mb: f64) {
        self.rest.push((store, rss_mb));
    }

    pub(crate) fn election(&mut self, store: Store, took: Duration) {
        self.elections.push((store, took));
    }

    pub(crate) fn million(&mut self, store: Store, million: Million) {
        self.million.push((store, million));
    }

    /// Sorted times of a store's elections, in milliseconds.
    fn elections_of(&self, store: Store) -> Vec<f64> {
        let own = self.elections.iter().filter(|(other, _)| *other == store);
        let mut times: Vec<f64> = own.map(|(_, took)| took.as_secs_f64() * 1000.0).collect();
        times.sort_by(f64::total_cmp);
        times
    }

    fn twin(&self, figure: &Figure) -> Option<&Figure> {
        self.figures.iter().find(|other| {
            other.store == Store::Etcd && other.work == figure.work && other.clients == figure.clients
        })
    }

    pub(crate) fn tables(&self, value_bytes: usize, keys: usize) -> String {
        let mut text = String::new();
        if !self.figures.is_empty() {
            text.push_str(&format!(
                "Three members on loopback, values of {value_bytes} bytes. One request in flight per client, sixteen clients \
                 to a connection, connections dealt out to the members in turn, for both stores alike. CPU: all members, and \
                 the client, per operation. RSS: the largest member.\n\n{}\n",
                self.load_table()
            ));
        }
        let facts = self.facts(keys);
        if !facts.is_empty() {
            let mut table = table(&["", "Quorate", "etcd", "ratio"]);
            for (what, quorate, etcd, digits) in facts {
                let cell =
                    |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.digits$}"));
                table.add_row([what, cell(quorate), cell(etcd), ratio(quorate, etcd)]);
            }
            text.push_str(&format!("\n{table}\n"));
        }
        text
    }

    fn load_table(&self) -> Table {
        let stores = |store| self.figures.iter().any(|figure| figure.store == store);
        if !(stores(Store::Quorate) && stores(Store::Etcd)) {
            return self.single_table();
        }
        let mut table = table(&[
            "work",
            "clients",
            "per second: Quorate",
            "etcd",
            "ratio",
            "p50 ms: Quorate",
            "etcd",
            "p99 ms: Quorate",
            "etcd",
            "ratio",
            "CPU µs: Quorate",
            "etcd",
            "client",
            "RSS MB: Quorate",
            "etcd",
            "errors",
        ]);
        for ours in self.figures.iter().filter(|figure| figure.store == Store::Quorate) {
            let Some(theirs) = self.twin(ours) else { continue };
            table.add_row([
                ours.work.to_owned(),
                ours.clients.to_string(),
                format!("{:.0}", ours.per_second),
                format!("{:.0}", theirs.per_second),
                ratio(Some(ours.per_second), Some(theirs.per_second)),
                format!("{:.2}", ours.p50_ms),
                format!("{:.2}", theirs.p50_ms),
                format!("{:.2}", ours.p99_ms),
                format!("{:.2}", theirs.p99_ms),
                ratio(Some(ours.p99_ms), Some(theirs.p99_ms)),
                format!("{:.0}", ours.members_us),
                format!("{:.0}", theirs.members_us),
                format!("{:.0} / {:.0}", ours.client_us, theirs.client_us),
                format!("{:.0}", ours.rss_mb),
                format!("{:.0}", theirs.rss_mb),
                format!("{} / {}", ours.errors, theirs.errors),
            ]);
        }
        table
    }

    fn single_table(&self) -> Table {
        let mut table = table(&[
            "work",
            "clients",
            "per second",
            "p50 ms",
            "p99 ms",
            "max ms",
            "CPU µs",
            "client",
            "RSS MB",
            "errors",
        ]);
        for figure in &self.figures {
            table.add_row([
                figure.work.to_owned(),
                figure.clients.to_string(),
                format!("{:.0}", figure.per_second),
                format!("{:.2}", figure.p50_ms),
                format!("{:.2}", figure.p99_ms),
                format!("{:.2}", figure.max_ms),
                format!("{:.0}", figure.members_us),
                format!("{:.0}", figure.client_us),
                format!("{:.0}", figure.rss_mb),
                figure.errors.to_string(),
            ]);
        }
        table
    }

    /// (what, Quorate, etcd, digits).
    fn facts(&self, keys: usize) -> Vec<(String, Option<f64>, Option<f64>, usize)> {
        fn of<T>(all: &[(Store, T)], store: Store, value: impl Fn(&T) -> f64) -> Option<f64> {
            all.iter().find(|(other, _)| *other == store).map(|(_, found)| value(found))
        }
        let both = |value: &dyn Fn(Store) -> Option<f64>| (value(Store::Quorate), value(Store::Etcd));
        let mut facts = Vec::new();
        let mut add = |what: String, (quorate, etcd): (Option<f64>, Option<f64>), digits| {
            if quorate.is_some() || etcd.is_some() {
                facts.push((what, quorate, etcd, digits));
            }
        };
        add("RSS idle, MB".into(), both(&|store| of(&self.idle, store, Idle::rss_mb)), 1);
        add("CPU idle, % of a core".into(), both(&|store| of(&self.idle, store, Idle::cpu_percent)), 1);
        add(
            "RSS after the load and ten seconds, MB".into(),
            both(&|store| of(&self.rest, store, |rss| *rss)),
            0,
        );
        let quantile = |store, part: fn(usize) -> usize| {
            let times = self.elections_of(store);
            times.get(part(times.len())).copied()
        };
        add(
            "a put after kill -9 of the leader, median ms".into(),
            both(&|store| quantile(store, |n| n / 2)),
            0,
        );
        add("the same, slowest, ms".into(), both(&|store| quantile(store, |n| n.wrapping_sub(1))), 0);
        let million = |value: fn(&Million) -> f64| both(&|store| of(&self.million, store, value));
        add(format!("{keys} keys: loading, s"), million(|million| million.loading.as_secs_f64()), 1);
        add(format!("{keys} keys: RSS, MB"), million(|million| million.rss_mb), 0);
        add(
            format!("{keys} keys: start after kill -9 to a linearizable read, s"),
            million(|million| million.restart.as_secs_f64()),
            2,
        );
        add(format!("{keys} keys: RSS after it, MB"), million(|million| million.restarted_rss_mb), 0);
        add(format!("{keys} keys: on disk, MB"), million(|million| million.disk_mb), 0);
        facts
    }

    pub(crate) fn json(&self, value_bytes: usize, keys: usize) -> String {
        let figures: Vec<_> = self
            .figures
            .iter()
            .map(|figure| {
                json!({
                    "store": figure.store.name(), "work": figure.work, "clients": figure.clients,
                    "per_second": figure.per_second, "p50_ms": figure.p50_ms, "p99_ms": figure.p99_ms,
                    "max_ms": figure.max_ms, "errors": figure.errors, "rss_mb": figure.rss_mb,
                    "members_cpu_us": figure.members_us, "client_cpu_us": figure.client_us,
                })
            })
            .collect();
        let facts: Vec<_> = self
            .facts(keys)
            .into_iter()
            .map(|(what, quorate, etcd, _)| json!({"what": what, "quorate": quorate, "etcd": etcd}))
            .collect();
        json!({"value_bytes": value_bytes, "figures": figures, "facts": facts}).to_string()
    }
}

fn ratio(ours: Option<f64>, theirs: Option<f64>) -> String {
    match (ours, theirs) {
        (Some(ours), Some(theirs)) if theirs > 0.0 => format!("{:.2}", ours / theirs),
        _ => String::new(),
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(header);
    for column in 1..header.len() {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}
