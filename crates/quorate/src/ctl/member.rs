//! `member`: who votes in the store, and who is to. Ids are hexadecimal, in the simple form too, and decimal in JSON.

use clap::{Args, Subcommand};
use prost::Message;
use quorate_wire::etcdserverpb::{
    MemberAddRequest, MemberAddResponse, MemberListResponse, MemberPromoteRequest, MemberRemoveRequest,
    MemberUpdateRequest, ResponseHeader,
};
use serde_json::{Value, json};

use super::answer::{Answer, Form, Forms, Rows, Text, header_fields};
use super::{Context, Failure, Outcome, go, output};

/// Verbs about members.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Every member of the store
    List(List),
    /// Makes room for a new member, which is to be started then
    Add(Add),
    /// Takes a member out
    Remove(One),
    /// Changes where a member is reached by the others
    Update(Update),
    /// Makes a learner a voter
    Promote(One),
    /// Puts a new member into the place of a dead one, step by step
    Replace(super::replace::Arguments),
}

/// Arguments of `member list`.
#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    form: Form,
}

/// Arguments of `member add`.
#[derive(Debug, Args)]
pub struct Add {
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Where the other members will reach it, commas between
    #[arg(long, default_value = "", hide_default_value = true)]
    peer_urls: String,
    /// It does not vote until it is promoted
    #[arg(long)]
    learner: bool,
    #[command(flatten)]
    form: Form,
}

/// Arguments of `member remove` and `member promote`.
#[derive(Debug, Args)]
pub struct One {
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    #[command(flatten)]
    form: Form,
}

/// Arguments of `member update`.
#[derive(Debug, Args)]
pub struct Update {
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// Where the other members reach it, commas between
    #[arg(long, default_value = "", hide_default_value = true)]
    peer_urls: String,
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
            Verb::List(arguments) => {
                let printer = arguments.form.printer::<MemberListResponse>(context)?;
                printer.done(&context.store.members().await?)
            }
            Verb::Add(arguments) => arguments.run(context).await,
            Verb::Remove(arguments) => arguments.remove(context).await,
            Verb::Update(arguments) => arguments.run(context).await,
            Verb::Promote(arguments) => arguments.promote(context).await,
            Verb::Replace(arguments) => arguments.run(context).await,
        }
    }
}

impl Add {
    async fn run(&self, context: &Context) -> Outcome {
        let name = match self.names.as_slice() {
            [] => return Err(Failure::bad_arguments("member name not provided")),
            [name] => name,
            names => {
                let urls = names.iter().filter(|name| name.to_lowercase().starts_with("http"));
                let hints = urls.map(|url| format!(", did you mean --peer-urls={url}"));
                return Err(Failure::bad_arguments(format!(
                    "too many arguments{}",
                    hints.collect::<String>()
                )));
            }
        };
        if self.peer_urls.is_empty() {
            return Err(Failure::bad_arguments("member peer urls not provided"));
        }
        let printer = self.form.printer::<Added>(context)?;
        let request = MemberAddRequest { peer_ur_ls: urls(&self.peer_urls), is_learner: self.learner };
        let response = context.store.tell(async |at| at.cluster().member_add(request.clone()).await).await?;
        warn_of_two(&response.members);
        printer.done(&Added { response, name: name.clone(), peer_urls: self.peer_urls.clone() })
    }
}

impl One {
    async fn remove(&self, context: &Context) -> Outcome {
        let id = member_id(&self.ids)?;
        let printer = self.form.printer::<Changed>(context)?;
        let response = context
            .store
            .tell(async |at| at.cluster().member_remove(MemberRemoveRequest { id }).await)
            .await?;
        warn_of_two(&response.members);
        printer.done(&Changed::of(
            "etcdserverpb.MemberRemoveResponse",
            &response,
            response.header,
            format!("Member {id:16x} removed from cluster"),
        ))
    }

    async fn promote(&self, context: &Context) -> Outcome {
        let id = member_id(&self.ids)?;
        let printer = self.form.printer::<Changed>(context)?;
        let response = context
            .store
            .tell(async |at| at.cluster().member_promote(MemberPromoteRequest { id }).await)
            .await?;
        printer.done(&Changed::of(
            "etcdserverpb.MemberPromoteResponse",
            &response,
            response.header,
            format!("Member {id:16x} promoted in cluster"),
        ))
    }
}

impl Update {
    async fn run(&self, context: &Context) -> Outcome {
        let id = member_id(&self.ids)?;
        if self.peer_urls.is_empty() {
            return Err(Failure::bad_arguments("member peer urls not provided"));
        }
        let printer = self.form.printer::<Changed>(context)?;
        let request = MemberUpdateRequest { id, peer_ur_ls: urls(&self.peer_urls) };
        let response =
            context.store.tell(async |at| at.cluster().member_update(request.clone()).await).await?;
        printer.done(&Changed::of(
            "etcdserverpb.MemberUpdateResponse",
            &response,
            response.header,
            format!("Member {id:16x} updated in cluster"),
        ))
    }
}

/// Allowed, and worse than it looks.
fn warn_of_two(members: &[quorate_wire::etcdserverpb::Member]) {
    if members.iter().filter(|member| !member.is_learner).count() == 2 {
        output::complain(
            "warning: two voters tolerate no failure: losing either one stops writes; add a third, or a witness",
        );
    }
}

fn urls(list: &str) -> Vec<String> {
    list.split(',').map(str::to_owned).collect()
}

fn member_id(words: &[String]) -> Result<u64, Failure> {
    let [word] = words else { return Err(Failure::bad_arguments("member ID is not provided")) };
    u64::from_str_radix(word, 16).map_err(|error| {
        let reason = if *error.kind() == std::num::IntErrorKind::PosOverflow {
            "value out of range"
        } else {
            "invalid syntax"
        };
        Failure::bad_arguments(format!(
            "bad member ID arg (strconv.ParseUint: parsing {word:?}: {reason}), expecting ID in Hex"
        ))
    })
}

/// The answer of `member add`; the simple form also tells how the new member is to be started.
struct Added {
    response: MemberAddResponse,
    name: String,
    peer_urls: String,
}

impl Answer for Added {
    const FORMS: Forms = Forms::NO_FIELDS;

    fn simple(&self, _: Text) -> Vec<Vec<u8>> {
        let id = self.response.member.as_ref().map_or(0, |member| member.id);
        let cluster = self.response.header.as_ref().map_or(0, |header| header.cluster_id);
        let initial = self.response.members.iter().flat_map(|member| {
            let name = if member.id == id { &self.name } else { &member.name };
            member.peer_ur_ls.iter().map(move |url| format!("{name}={url}"))
        });
        let initial: Vec<String> = initial.collect();
        [
            format!("Member {id:16x} added to cluster {cluster:16x}"),
            String::new(),
            format!("ETCD_NAME={:?}", self.name),
            format!("ETCD_INITIAL_CLUSTER={:?}", initial.join(",")),
            format!("ETCD_INITIAL_ADVERTISE_PEER_URLS={:?}", self.peer_urls),
            "ETCD_INITIAL_CLUSTER_STATE=\"existing\"".to_owned(),
        ]
        .map(String::into_bytes)
        .to_vec()
    }

    fn json(&self, _: Text) -> Value {
        go::json("etcdserverpb.MemberAddResponse", &self.response)
    }

    fn protobuf(&self) -> Vec<u8> {
        self.response.encode_to_vec()
    }
}

/// The answer of the other changes.
struct Changed {
    sentence: String,
    json: Value,
    protobuf: Vec<u8>,
}

impl Changed {
    fn of(
        name: &'static str,
        message: &impl Message,
        header: Option<ResponseHeader>,
        begun: String,
    ) -> Changed {
        let cluster = header.map_or(0, |header| header.cluster_id);
        Changed {
            sentence: format!("{begun} {cluster:16x}"),
            json: go::json(name, message),
            protobuf: message.encode_to_vec(),
        }
    }
}

impl Answer for Changed {
    const FORMS: Forms = Forms::NO_FIELDS;

    fn simple(&self, _: Text) -> Vec<Vec<u8>> {
        vec![self.sentence.clone().into_bytes()]
    }

    fn json(&self, _: Text) -> Value {
        self.json.clone()
    }

    fn protobuf(&self) -> Vec<u8> {
        self.protobuf.clone()
    }
}

impl Answer for MemberListResponse {
    const FORMS: Forms = Forms { table: true, fields: true, protobuf: true };

    fn simple(&self, _: Text) -> Vec<Vec<u8>> {
        self.rows().unwrap_or_default().rows.iter().map(|row| row.join(", ").into_bytes()).collect()
    }

    fn json(&self, text: Text) -> Value {
        if !text.hex {
            return go::json("etcdserverpb.MemberListResponse", self);
        }
        // The one place where etcdctl's --hex reaches JSON. `clientURLS` is etcdctl's own spelling.
        let header = self.header.unwrap_or_default();
        let members: Vec<Value> = self
            .members
            .iter()
            .map(|member| {
                json!({
                    "ID": format!("{:x}", member.id),
                    "name": member.name,
                    "peerURLs": member.peer_ur_ls,
                    "clientURLS": member.client_ur_ls,
                })
            })
            .collect();
        json!({
            "header": {
                "cluster_id": format!("{:x}", header.cluster_id),
                "member_id": format!("{:x}", header.member_id),
                "raft_term": header.raft_term,
            },
            "members": members,
        })
    }

    fn fields(&self) -> Vec<String> {
        let mut lines = header_fields(self.header.as_ref());
        for member in &self.members {
            lines.push(format!("\"ID\" : {}", member.id));
            lines.push(format!("\"Name\" : {}", go::quoted(member.name.as_bytes())));
            let url = |name: &str, url: &String| format!("{name:?} : {}", go::quoted(url.as_bytes()));
            lines.extend(member.peer_ur_ls.iter().map(|found| url("PeerURL", found)));
            lines.extend(member.client_ur_ls.iter().map(|found| url("ClientURL", found)));
            lines.push(format!("\"IsLearner\" : {}", member.is_learner));
            lines.push(String::new());
        }
        lines
    }

    fn protobuf(&self) -> Vec<u8> {
        self.encode_to_vec()
    }

    fn rows(&self) -> Option<Rows> {
        let row = |member: &quorate_wire::etcdserverpb::Member| {
            vec![
                format!("{:x}", member.id),
                if member.name.is_empty() { "unstarted" } else { "started" }.to_owned(),
                member.name.clone(),
                member.peer_ur_ls.join(","),
                member.client_ur_ls.join(","),
                member.is_learner.to_string(),
            ]
        };
        Some(Rows {
            columns: vec!["ID", "Status", "Name", "Peer Addrs", "Client Addrs", "Is Learner"],
            rows: self.members.iter().map(row).collect(),
        })
    }
}
