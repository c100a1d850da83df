//! `lease`: grants, revokes, renews and shows leases. Ids are hexadecimal here and in the simple form, decimal elsewhere.

use std::time::Duration;

use clap::{Args, Subcommand};
use prost::Message;
use quorate_wire::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveResponse, LeaseLeasesRequest, LeaseLeasesResponse,
    LeaseRevokeRequest, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, ResponseHeader,
};
use serde_json::{Map, Value, json};

use super::answer::{Answer, Done, Form, Rows, Shape, Text, header_fields, header_json};
use super::follow::Renewals;
use super::keys::lease_id;
use super::{Context, Failure, Outcome, go, output};

/// What is known of a lease before the first renewal is answered (clientv3's own guess).
pub const FIRST_TTL: Duration = Duration::from_secs(5);

/// Verbs about leases.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Makes a lease that lasts so many seconds unless it is renewed
    Grant(Grant),
    /// Ends a lease and deletes its keys
    Revoke(One),
    /// How long a lease still lasts
    Timetolive(TimeToLive),
    /// Every lease
    List(List),
    /// Renews a lease until interrupted
    KeepAlive(KeepAlive),
}

/// Arguments of `lease grant`.
#[derive(Debug, Args)]
pub struct Grant {
    #[arg(value_name = "TTL", allow_negative_numbers = true)]
    ttl: Vec<String>,
    #[command(flatten)]
    form: Form,
}

/// Arguments of `lease revoke`.
#[derive(Debug, Args)]
pub struct One {
    #[arg(value_name = "LEASE")]
    lease: Vec<String>,
    #[command(flatten)]
    form: Form,
}

/// Arguments of `lease timetolive`.
#[derive(Debug, Args)]
pub struct TimeToLive {
    #[arg(value_name = "LEASE")]
    lease: Vec<String>,
    /// Its keys too
    #[arg(long)]
    keys: bool,
    #[command(flatten)]
    form: Form,
}

/// Arguments of `lease list`.
#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    form: Form,
}

/// Arguments of `lease keep-alive`.
#[derive(Debug, Args)]
pub struct KeepAlive {
    #[arg(value_name = "LEASE")]
    lease: Vec<String>,
    /// Only once
    #[arg(long)]
    once: bool,
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
            Verb::Grant(arguments) => arguments.run(context).await,
            Verb::Revoke(arguments) => arguments.run(context).await,
            Verb::Timetolive(arguments) => arguments.run(context).await,
            Verb::List(arguments) => arguments.run(context).await,
            Verb::KeepAlive(arguments) => arguments.run(context).await,
        }
    }
}

fn only<'w>(words: &'w [String], sentence: &str) -> Result<&'w str, Failure> {
    match words {
        [word] => Ok(word),
        _ => Err(Failure::bad_arguments(sentence)),
    }
}

const BAD_ID: &str = "bad lease ID arg";

impl Grant {
    async fn run(&self, context: &Context) -> Outcome {
        let ttl = only(&self.ttl, "lease grant command needs TTL argument")?;
        let ttl: i64 = ttl.parse().map_err(|_| {
            Failure::bad_arguments(format!("bad TTL (strconv.ParseInt: parsing {ttl:?}: invalid syntax)"))
        })?;
        let printer = self.form.printer::<LeaseGrantResponse>(context)?;
        let granted = context
            .store
            .tell(async |at| at.lease().lease_grant(LeaseGrantRequest { ttl, id: 0 }).await)
            .await
            .map_err(|failure| Failure::new(format!("failed to grant lease ({})", failure.message)))?;
        printer.done(&granted)
    }
}

impl One {
    async fn run(&self, context: &Context) -> Outcome {
        let id = lease_id(only(&self.lease, "lease revoke command needs 1 argument")?, BAD_ID)?;
        let printer = self.form.printer::<Done<_>>(context)?;
        let message = context
            .store
            .tell(async |at| at.lease().lease_revoke(LeaseRevokeRequest { id }).await)
            .await
            .map_err(|failure| Failure::new(format!("failed to revoke lease ({})", failure.message)))?;
        printer.done(&Done {
            name: "etcdserverpb.LeaseRevokeResponse",
            header: message.header,
            message,
            sentence: format!("lease {id:016x} revoked"),
        })
    }
}

impl TimeToLive {
    async fn run(&self, context: &Context) -> Outcome {
        let id = lease_id(only(&self.lease, "lease timetolive command needs lease ID as argument")?, BAD_ID)?;
        let printer = self.form.printer::<Remaining>(context)?;
        let request = LeaseTimeToLiveRequest { id, keys: self.keys };
        let response = context
            .store
            .ask(async |at| at.lease().lease_time_to_live(request).await)
            .await
            .map_err(Failure::of_connection)?;
        printer.done(&Remaining { response, keys: self.keys })
    }
}

impl List {
    async fn run(&self, context: &Context) -> Outcome {
        let printer = self.form.printer::<LeaseLeasesResponse>(context)?;
        let found = context
            .store
            .ask(async |at| at.lease().lease_leases(LeaseLeasesRequest {}).await)
            .await
            .map_err(Failure::of_connection)?;
        printer.done(&found)
    }
}

impl KeepAlive {
    async fn run(&self, context: &Context) -> Outcome {
        let id = lease_id(only(&self.lease, "lease keep-alive command needs lease ID as argument")?, BAD_ID)?;
        let printer = self.form.printer::<LeaseKeepAliveResponse>(context)?;
        if !self.once {
            // A lease that nobody can reach is asked for until it may be gone; a store that was never there is not.
            context.store.any().await.map_err(Failure::of_connection)?;
        }
        let mut renewals = Renewals::new(&context.store, id, FIRST_TTL);
        let renew = async {
            loop {
                let renewed = renewals.next().await.map_err(Failure::of_connection)?;
                let Some(response) = renewed else { return Ok::<bool, Failure>(false) };
                printer.print(&response);
                if self.once {
                    return Ok(true);
                }
            }
        };
        let renewed = tokio::select! {
            renewed = renew => renewed?,
            _ = tokio::signal::ctrl_c() => return Err(Failure { message: String::new(), code: 5 }),
        };
        if !renewed && self.once {
            let sentence = Failure::new("etcdserver: requested lease not found");
            return Err(Failure::of_connection(sentence));
        }
        if !renewed && printer.shape == Shape::Simple {
            output::line(&format!("lease {id:016x} expired or revoked."));
        }
        Ok(())
    }
}

/// Go embeds the header in its own lease types, so its entries stand beside the others.
fn beside_header(header: Option<&ResponseHeader>, rest: Value) -> Value {
    let mut object = match header_json(header) {
        Value::Object(object) => object,
        _ => Map::new(),
    };
    if let Value::Object(rest) = rest {
        object.extend(rest);
    }
    Value::Object(object)
}

impl Answer for LeaseGrantResponse {
    fn simple(&self, _: Text) -> Vec<Vec<u8>> {
        vec![format!("lease {:016x} granted with TTL({}s)", self.id, self.ttl).into_bytes()]
    }

    fn json(&self, _: Text) -> Value {
        beside_header(self.header.as_ref(), json!({"ID": self.id, "TTL": self.ttl, "Error": self.error}))
    }

    fn fields(&self) -> Vec<String> {
        let mut lines = header_fields(self.header.as_ref());
        lines.extend([format!("\"ID\" : {}", self.id), format!("\"TTL\" : {}", self.ttl)]);
        lines
    }

    fn protobuf(&self) -> Vec<u8> {
        self.encode_to_vec()
    }
}

impl Answer for LeaseKeepAliveResponse {
    fn simple(&self, _: Text) -> Vec<Vec<u8>> {
        vec![format!("lease {:016x} keepalived with TTL({})", self.id, self.ttl).into_bytes()]
    }

    fn json(&self, _: Text) -> Value {
        beside_header(self.header.as_ref(), json!({"ID": self.id, "TTL": self.ttl}))
    }

    fn fields(&self) -> Vec<String> {
        let mut lines = header_fields(self.header.as_ref());
        lines.extend([format!("\"ID\" : {}", self.id), format!("\"TTL\" : {}", self.ttl)]);
        lines
    }

    fn protobuf(&self) -> Vec<u8> {
        self.encode_to_vec()
    }
}

/// The answer of `lease timetolive`.
struct Remaining {
    response: LeaseTimeToLiveResponse,
    keys: bool,
}

impl Answer for Remaining {
    fn simple(&self, _: Text) -> Vec<Vec<u8>> {
        let LeaseTimeToLiveResponse { id, ttl, granted_ttl, keys, .. } = &self.response;
        if *granted_ttl == 0 && *ttl == -1 {
            return vec![format!("lease {id:016x} already expired").into_bytes()];
        }
        let mut line =
            format!("lease {id:016x} granted with TTL({granted_ttl}s), remaining({ttl}s)").into_bytes();
        if self.keys {
            line.extend_from_slice(b", attached keys([");
            line.extend_from_slice(&keys.join(&b' '));
            line.extend_from_slice(b"])");
        }
        vec![line]
    }

    fn json(&self, _: Text) -> Value {
        let LeaseTimeToLiveResponse { header, id, ttl, granted_ttl, keys } = &self.response;
        let keys: Option<Vec<String>> =
            (!keys.is_empty()).then(|| keys.iter().map(|key| go::base64(key)).collect());
        beside_header(
            header.as_ref(),
            json!({"id": id, "ttl": ttl, "granted-ttl": granted_ttl, "keys": keys}),
        )
    }

    fn fields(&self) -> Vec<String> {
        let mut lines = header_fields(self.response.header.as_ref());
        lines.push(format!("\"ID\" : {}", self.response.id));
        lines.push(format!("\"TTL\" : {}", self.response.ttl));
        lines.push(format!("\"GrantedTTL\" : {}", self.response.granted_ttl));
        lines.extend(self.response.keys.iter().map(|key| format!("\"Key\" : {}", go::quoted(key))));
        lines
    }

    fn protobuf(&self) -> Vec<u8> {
        self.response.encode_to_vec()
    }
}

impl Answer for LeaseLeasesResponse {
    fn simple(&self, _: Text) -> Vec<Vec<u8>> {
        let mut lines = vec![format!("found {} leases", self.leases.len()).into_bytes()];
        lines.extend(self.leases.iter().map(|lease| format!("{:016x}", lease.id).into_bytes()));
        lines
    }

    fn json(&self, _: Text) -> Value {
        let leases: Vec<Value> = self.leases.iter().map(|lease| json!({"id": lease.id})).collect();
        beside_header(self.header.as_ref(), json!({"leases": leases}))
    }

    fn fields(&self) -> Vec<String> {
        let mut lines = header_fields(self.header.as_ref());
        lines.extend(self.leases.iter().map(|lease| format!("\"ID\" : {}", lease.id)));
        lines
    }

    fn protobuf(&self) -> Vec<u8> {
        self.encode_to_vec()
    }

    fn rows(&self) -> Option<Rows> {
        let rows = self.leases.iter().map(|lease| vec![format!("{:016x}", lease.id)]).collect();
        Some(Rows { columns: vec!["id"], rows })
    }
}
