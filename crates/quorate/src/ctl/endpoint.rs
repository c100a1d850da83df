//! `endpoint health|status|hashkv`: every endpoint is asked for itself, all at once.

use std::time::Instant;

use clap::{Args, Subcommand};
use futures_util::future::join_all;
use quorate_wire::etcdserverpb::alarm_request::AlarmAction;
use quorate_wire::etcdserverpb::{
    AlarmRequest, AlarmType, HashKvRequest, HashKvResponse, RangeRequest, ResponseHeader, StatusResponse,
};
use serde_json::{Value, json};

use super::answer::{Answer, Form, Forms, Rows, Shape, Text, header_fields};
use super::{Context, Failure, Outcome, go, output};

/// Arguments of `endpoint`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Ask every member of the store, not only the given endpoints
    #[arg(long, global = true)]
    cluster: bool,
    #[command(subcommand)]
    verb: Verb,
}

/// Verbs about endpoints.
#[derive(Debug, Subcommand)]
enum Verb {
    /// Whether a quorum answers through each endpoint, without an alarm
    Health(Form),
    /// Who leads, how large the database is, how far the log is applied
    Status(Form),
    /// A hash of the keys and their history: equal at every member, or the members differ
    Hashkv(Hash),
}

/// Arguments of `endpoint hashkv`.
#[derive(Debug, Args)]
struct Hash {
    /// Up to this revision, which every member has reached
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    rev: i64,
    #[command(flatten)]
    form: Form,
}

/// The given endpoints, or with `--cluster` every member's.
///
/// # Errors
/// The members cannot be asked for.
pub async fn endpoints(context: &Context, cluster: bool) -> Result<Vec<String>, Failure> {
    if !cluster {
        return Ok(context.store.endpoints().to_vec());
    }
    let members = context.store.members().await.map_err(|failure| {
        let reason = failure.message;
        Failure::new(format!("failed to fetch endpoints from etcd cluster member list: {reason}"))
    })?;
    Ok(members.members.into_iter().flat_map(|member| member.client_ur_ls).collect())
}

impl Arguments {
    /// Does it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn run(&self, context: &Context) -> Outcome {
        match &self.verb {
            Verb::Health(form) => self.health(context, form).await,
            Verb::Status(form) => self.status(context, form).await,
            Verb::Hashkv(hash) => self.hash(context, hash).await,
        }
    }

    async fn health(&self, context: &Context, form: &Form) -> Outcome {
        let printer = form.printer::<Healths>(context)?;
        let endpoints = endpoints(context, self.cluster).await?;
        let found = join_all(endpoints.into_iter().map(|endpoint| probe(context, endpoint))).await;
        let unhealthy = found.iter().any(|health| health.error.is_some());
        if printer.shape == Shape::Simple {
            for health in &found {
                match &health.error {
                    None => output::line(&health.sentence()),
                    Some(_) => output::complain(&health.sentence()),
                }
            }
        } else {
            printer.print(&Healths(found));
        }
        if unhealthy { Err(Failure::new("unhealthy cluster")) } else { Ok(()) }
    }

    async fn status(&self, context: &Context, form: &Form) -> Outcome {
        let printer = form.printer::<Statuses>(context)?;
        let endpoints = endpoints(context, self.cluster).await?;
        let answers = join_all(endpoints.iter().map(|endpoint| context.store.status(endpoint))).await;
        let (found, failed) = partition("status", endpoints, answers);
        printer.print(&Statuses(found));
        if failed.is_some() { Err(Failure::new(String::new())) } else { Ok(()) }
    }

    async fn hash(&self, context: &Context, hash: &Hash) -> Outcome {
        let printer = hash.form.printer::<Hashes>(context)?;
        let endpoints = endpoints(context, self.cluster).await?;
        let request = HashKvRequest { revision: hash.rev };
        let rpc = async |at: super::store::Connection| at.maintenance().hash_kv(request).await;
        let answers = join_all(endpoints.iter().map(|endpoint| context.store.at(endpoint, rpc))).await;
        let (found, failed) = partition("hash", endpoints, answers);
        printer.print(&Hashes(found));
        failed.map_or(Ok(()), |reason| Err(Failure::new(reason)))
    }
}

/// Complains about those that did not answer; also gives the last reason.
fn partition<T>(
    what: &str,
    endpoints: Vec<String>,
    answers: Vec<Result<T, String>>,
) -> (Vec<(String, T)>, Option<String>) {
    let mut failed = None;
    let mut found = Vec::new();
    for (endpoint, answer) in endpoints.into_iter().zip(answers) {
        match answer {
            Ok(answer) => found.push((endpoint, answer)),
            Err(reason) => {
                output::complain(&format!("Failed to get the {what} of endpoint {endpoint} ({reason})"));
                failed = Some(reason);
            }
        }
    }
    (found, failed)
}

/// A linearizable read, behind which a quorum stands, and then the alarms.
async fn probe(context: &Context, endpoint: String) -> Health {
    let store = context.store.another();
    let begun = Instant::now();
    let request = RangeRequest { key: "health".into(), ..RangeRequest::default() };
    let read = store.at(&endpoint, async |at| at.kv().range(request.clone()).await).await;
    let took = go::duration(begun.elapsed());
    let error = match read {
        // Who may not read has been answered by a quorum all the same.
        Err(reason) if reason != "etcdserver: permission denied" => Some(reason),
        Ok(_) | Err(_) => {
            let request = AlarmRequest { action: AlarmAction::Get.into(), ..AlarmRequest::default() };
            match store.at(&endpoint, async |at| at.maintenance().alarm(request).await).await {
                Err(_) => Some("Unable to fetch the alarm list".to_owned()),
                Ok(found) if found.alarms.is_empty() => None,
                Ok(found) => {
                    let words = found.alarms.iter().map(|member| match member.alarm() {
                        AlarmType::Nospace => "NOSPACE ",
                        AlarmType::Corrupt => "CORRUPT ",
                        AlarmType::None => "UNKNOWN ",
                    });
                    Some(format!("Active Alarm(s): {}", words.collect::<String>()))
                }
            }
        }
    };
    Health { endpoint, took, error }
}

struct Health {
    endpoint: String,
    took: String,
    error: Option<String>,
}

impl Health {
    fn sentence(&self) -> String {
        match &self.error {
            None => {
                format!("{} is healthy: successfully committed proposal: took = {}", self.endpoint, self.took)
            }
            Some(reason) => format!("{} is unhealthy: failed to commit proposal: {reason}", self.endpoint),
        }
    }

    fn error(&self) -> &str {
        self.error.as_deref().unwrap_or_default()
    }
}

struct Healths(Vec<Health>);

impl Answer for Healths {
    const FORMS: Forms = Forms::LIST;

    fn simple(&self, _: Text) -> Vec<Vec<u8>> {
        self.0.iter().map(|health| health.sentence().into_bytes()).collect()
    }

    fn json(&self, _: Text) -> Value {
        let one = |health: &Health| {
            let mut object = json!({
                "endpoint": health.endpoint, "health": health.error.is_none(), "took": health.took,
            });
            if let Some(reason) = &health.error {
                object["error"] = reason.clone().into();
            }
            object
        };
        self.0.iter().map(one).collect()
    }

    fn fields(&self) -> Vec<String> {
        let one = |health: &Health| {
            [
                format!("\"Endpoint\" : {}", go::quoted(health.endpoint.as_bytes())),
                format!("\"Health\" : {}", health.error.is_none()),
                format!("\"Took\" : {}", health.took),
                format!("\"Error\" : {}", health.error()),
                String::new(),
            ]
        };
        self.0.iter().flat_map(one).collect()
    }

    fn rows(&self) -> Option<Rows> {
        let one = |health: &Health| {
            vec![
                health.endpoint.clone(),
                health.error.is_none().to_string(),
                health.took.clone(),
                health.error().to_owned(),
            ]
        };
        let rows = self.0.iter().map(one).collect();
        Some(Rows { columns: vec!["endpoint", "health", "took", "error"], rows })
    }
}

struct Statuses(Vec<(String, StatusResponse)>);

fn member(header: Option<&ResponseHeader>) -> u64 {
    header.map_or(0, |header| header.member_id)
}

impl Answer for Statuses {
    const FORMS: Forms = Forms::LIST;

    fn simple(&self, _: Text) -> Vec<Vec<u8>> {
        self.rows().unwrap_or_default().rows.iter().map(|row| row.join(", ").into_bytes()).collect()
    }

    fn json(&self, _: Text) -> Value {
        let one = |(endpoint, status): &(String, StatusResponse)| json!({"Endpoint": endpoint, "Status": go::json("etcdserverpb.StatusResponse", status)});
        self.0.iter().map(one).collect()
    }

    fn fields(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (endpoint, status) in &self.0 {
            lines.extend(header_fields(status.header.as_ref()));
            lines.push(format!("\"Version\" : {}", go::quoted(status.version.as_bytes())));
            lines.push(format!("\"DBSize\" : {}", status.db_size));
            lines.push(format!("\"Leader\" : {}", status.leader));
            lines.push(format!("\"IsLearner\" : {}", status.is_learner));
            lines.push(format!("\"RaftIndex\" : {}", status.raft_index));
            lines.push(format!("\"RaftTerm\" : {}", status.raft_term));
            lines.push(format!("\"RaftAppliedIndex\" : {}", status.raft_applied_index));
            lines.push(format!("\"Errors\" : [{}]", status.errors.join(" ")));
            lines.push(format!("\"Endpoint\" : {}", go::quoted(endpoint.as_bytes())));
            lines.push(String::new());
        }
        lines
    }

    fn rows(&self) -> Option<Rows> {
        let one = |(endpoint, status): &(String, StatusResponse)| {
            let member = member(status.header.as_ref());
            vec![
                endpoint.clone(),
                format!("{member:x}"),
                status.version.clone(),
                go::size(status.db_size),
                (status.leader == member).to_string(),
                status.is_learner.to_string(),
                status.raft_term.to_string(),
                status.raft_index.to_string(),
                status.raft_applied_index.to_string(),
                status.errors.join(", "),
            ]
        };
        Some(Rows {
            columns: vec![
                "endpoint",
                "ID",
                "version",
                "db size",
                "is leader",
                "is learner",
                "raft term",
                "raft index",
                "raft applied index",
                "errors",
            ],
            rows: self.0.iter().map(one).collect(),
        })
    }
}

struct Hashes(Vec<(String, HashKvResponse)>);

impl Answer for Hashes {
    const FORMS: Forms = Forms::LIST;

    fn simple(&self, _: Text) -> Vec<Vec<u8>> {
        self.rows().unwrap_or_default().rows.iter().map(|row| row.join(", ").into_bytes()).collect()
    }

    fn json(&self, _: Text) -> Value {
        let one = |(endpoint, hash): &(String, HashKvResponse)| json!({"Endpoint": endpoint, "HashKV": go::json("etcdserverpb.HashKVResponse", hash)});
        self.0.iter().map(one).collect()
    }

    fn fields(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (endpoint, hash) in &self.0 {
            lines.extend(header_fields(hash.header.as_ref()));
            lines.push(format!("\"Endpoint\" : {}", go::quoted(endpoint.as_bytes())));
            lines.push(format!("\"Hash\" : {}", hash.hash));
            lines.push(String::new());
        }
        lines
    }

    fn rows(&self) -> Option<Rows> {
        let rows = self.0.iter().map(|(endpoint, hash)| vec![endpoint.clone(), hash.hash.to_string()]);
        Some(Rows { columns: vec!["endpoint", "hash"], rows: rows.collect() })
    }
}
