//! `endpoint status` and `endpoint health`: every endpoint is asked for itself, all at once.

use std::time::Instant;

use clap::{Args, Subcommand};
use futures_util::future::join_all;
use quorate_wire::etcdserverpb::StatusResponse;
use serde_json::{Map, Value, json};

use super::output::{self, go_duration, go_quoted, size};
use super::print::{Answer, Form, Shape, header_fields, header_json, number};
use super::{Context, Failure, Outcome};

/// Verbs about endpoints.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Who leads, how large the database is, how far the log is applied
    Status(Arguments),
    /// Whether a quorum answers through each endpoint
    Health(Arguments),
}

/// Arguments of both.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Ask every member of the store, not only the given endpoints
    #[arg(long)]
    cluster: bool,
    #[command(flatten)]
    form: Form,
}

impl Verb {
    /// Does it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn run(&self, context: &Context) -> Outcome {
        match self {
            Verb::Status(arguments) => arguments.status(context).await,
            Verb::Health(arguments) => arguments.health(context).await,
        }
    }
}

impl Arguments {
    async fn endpoints(&self, context: &Context) -> Result<Vec<String>, Failure> {
        if !self.cluster {
            return Ok(context.store.endpoints().to_vec());
        }
        let members = context.store.members().await?.members;
        Ok(members.into_iter().flat_map(|member| member.client_ur_ls).collect())
    }

    async fn status(&self, context: &Context) -> Outcome {
        let endpoints = self.endpoints(context).await?;
        let answers = join_all(endpoints.iter().map(|endpoint| context.store.status(endpoint))).await;
        let mut failed = false;
        let mut found = Vec::new();
        for (endpoint, answer) in endpoints.into_iter().zip(answers) {
            match answer {
                Ok(status) => found.push((endpoint, status)),
                Err(reason) => {
                    failed = true;
                    output::complain(&format!("Failed to get the status of endpoint {endpoint} ({reason})"));
                }
            }
        }
        status_answer(&found).print(self.form.shape(Shape::Table))?;
        if failed { Err(Failure::new(String::new())) } else { Ok(()) }
    }

    async fn health(&self, context: &Context) -> Outcome {
        let endpoints = self.endpoints(context).await?;
        let probes = endpoints.into_iter().map(|endpoint| async move {
            let begun = Instant::now();
            let result = context.store.probe(&endpoint).await;
            Health { endpoint, took: go_duration(begun.elapsed()), error: result.err() }
        });
        let found = join_all(probes).await;
        let shape = self.form.shape(Shape::Table);
        if shape == Shape::Simple {
            for health in &found {
                match &health.error {
                    None => output::line(&health.sentence()),
                    Some(_) => output::complain(&health.sentence()),
                }
            }
        } else {
            health_answer(&found).print(shape)?;
        }
        if found.iter().any(|health| health.error.is_some()) {
            return Err(Failure::new("unhealthy cluster"));
        }
        Ok(())
    }
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
}

fn health_answer(found: &[Health]) -> Answer {
    let json = |health: &Health| {
        let mut object = json!({
            "endpoint": health.endpoint, "health": health.error.is_none(), "took": health.took,
        });
        if let Some(reason) = &health.error {
            object["error"] = reason.clone().into();
        }
        object
    };
    let fields = |health: &Health| {
        [
            format!("\"Endpoint\" : {:?}", health.endpoint),
            format!("\"Health\" : {}", health.error.is_none()),
            format!("\"Took\" : {:?}", health.took),
            format!("\"Error\" : {:?}", health.error.as_deref().unwrap_or_default()),
            String::new(),
        ]
    };
    Answer {
        simple: Vec::new(),
        json: found.iter().map(json).collect(),
        fields: found.iter().flat_map(fields).collect(),
        columns: vec!["endpoint", "health", "took", "error"],
        rows: found
            .iter()
            .map(|health| {
                vec![
                    health.endpoint.clone(),
                    health.error.is_none().to_string(),
                    health.took.clone(),
                    health.error.clone().unwrap_or_default(),
                ]
            })
            .collect(),
        as_table: true,
    }
}

fn status_answer(found: &[(String, StatusResponse)]) -> Answer {
    let member = |status: &StatusResponse| status.header.as_ref().map_or(0, |header| header.member_id);
    let mut rows = Vec::new();
    let mut fields = Vec::new();
    let mut json = Vec::new();
    for (endpoint, status) in found {
        rows.push(vec![
            endpoint.clone(),
            format!("{:x}", member(status)),
            status.version.clone(),
            size(status.db_size),
            (status.leader == member(status)).to_string(),
            status.is_learner.to_string(),
            status.raft_term.to_string(),
            status.raft_index.to_string(),
            status.raft_applied_index.to_string(),
            status.errors.join(", "),
        ]);
        fields.extend(header_fields(status.header.as_ref()));
        fields.push(format!("\"Version\" : {:?}", status.version));
        fields.push(format!("\"DBSize\" : {}", status.db_size));
        fields.push(format!("\"Leader\" : {}", status.leader));
        fields.push(format!("\"IsLearner\" : {}", status.is_learner));
        fields.push(format!("\"RaftIndex\" : {}", status.raft_index));
        fields.push(format!("\"RaftTerm\" : {}", status.raft_term));
        fields.push(format!("\"RaftAppliedIndex\" : {}", status.raft_applied_index));
        let errors: Vec<String> = status.errors.iter().map(|error| go_quoted(error.as_bytes())).collect();
        fields.push(format!("\"Errors\" : [{}]", errors.join(" ")));
        fields.push(format!("\"Endpoint\" : {endpoint:?}"));
        fields.push(String::new());
        let mut object = Map::new();
        object.insert("header".to_owned(), header_json(status.header.as_ref()));
        object.insert("version".to_owned(), status.version.clone().into());
        number(&mut object, "dbSize", status.db_size);
        number(&mut object, "leader", status.leader);
        number(&mut object, "raftIndex", status.raft_index);
        number(&mut object, "raftTerm", status.raft_term);
        number(&mut object, "raftAppliedIndex", status.raft_applied_index);
        if !status.errors.is_empty() {
            object.insert("errors".to_owned(), status.errors.clone().into());
        }
        number(&mut object, "dbSizeInUse", status.db_size_in_use);
        if status.is_learner {
            object.insert("isLearner".to_owned(), true.into());
        }
        json.push(json!({"Endpoint": endpoint, "Status": Value::Object(object)}));
    }
    Answer {
        simple: rows.iter().map(|row| row.join(", ").into_bytes()).collect(),
        json: json.into(),
        fields,
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
        rows,
        as_table: true,
    }
}
