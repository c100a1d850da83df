//! `member list`: who votes in the store.

use clap::{Args, Subcommand};
use quorate_wire::etcdserverpb::MemberListResponse;
use serde_json::{Map, Value};

use super::print::{Answer, Form, Shape, header_fields, header_json};
use super::{Context, Outcome};

/// Verbs about members.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Every member of the store
    List(List),
}

/// Arguments of `member list`.
#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    form: Form,
}

impl Verb {
    /// Does it.
    ///
    /// # Errors
    /// See [`super::Failure`].
    pub async fn run(&self, context: &Context) -> Outcome {
        match self {
            Verb::List(list) => answer(&context.store.members().await?).print(list.form.shape(Shape::Table)),
        }
    }
}

fn answer(response: &MemberListResponse) -> Answer {
    let mut fields = header_fields(response.header.as_ref());
    let mut rows = Vec::new();
    let mut members = Vec::new();
    for member in &response.members {
        let status = if member.name.is_empty() { "unstarted" } else { "started" };
        rows.push(vec![
            format!("{:x}", member.id),
            status.to_owned(),
            member.name.clone(),
            member.peer_ur_ls.join(","),
            member.client_ur_ls.join(","),
            member.is_learner.to_string(),
        ]);
        fields.push(format!("\"ID\" : {}", member.id));
        fields.push(format!("\"Name\" : {:?}", member.name));
        fields.extend(member.peer_ur_ls.iter().map(|url| format!("\"PeerURL\" : {url:?}")));
        fields.extend(member.client_ur_ls.iter().map(|url| format!("\"ClientURL\" : {url:?}")));
        fields.push(format!("\"IsLearner\" : {}", member.is_learner));
        fields.push(String::new());
        let mut object = Map::new();
        object.insert("ID".to_owned(), member.id.into());
        if !member.name.is_empty() {
            object.insert("name".to_owned(), member.name.clone().into());
        }
        object.insert("peerURLs".to_owned(), member.peer_ur_ls.clone().into());
        if !member.client_ur_ls.is_empty() {
            object.insert("clientURLs".to_owned(), member.client_ur_ls.clone().into());
        }
        if member.is_learner {
            object.insert("isLearner".to_owned(), true.into());
        }
        members.push(Value::Object(object));
    }
    let mut json = Map::new();
    json.insert("header".to_owned(), header_json(response.header.as_ref()));
    json.insert("members".to_owned(), members.into());
    Answer {
        simple: rows.iter().map(|row| row.join(", ").into_bytes()).collect(),
        json: Value::Object(json),
        fields,
        columns: vec!["ID", "Status", "Name", "Peer Addrs", "Client Addrs", "Is Learner"],
        rows,
        as_table: true,
    }
}
