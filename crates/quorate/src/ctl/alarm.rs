//! `alarm list|disarm`: what keeps the store from taking writes.

use clap::Subcommand;
use prost::Message;
use quorate_wire::etcdserverpb::alarm_request::AlarmAction;
use quorate_wire::etcdserverpb::{AlarmMember, AlarmRequest, AlarmResponse, AlarmType};
use serde_json::Value;

use super::answer::{Answer, Form, Text, header_fields};
use super::{Context, Failure, Outcome, go};

/// Verbs about alarms.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Every alarm
    List(Arguments),
    /// Takes every alarm back
    Disarm(Arguments),
}

/// Arguments of both.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[arg(hide = true)]
    words: Vec<String>,
    #[command(flatten)]
    form: Form,
}

impl Verb {
    /// Does it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn run(&self, context: &Context) -> Outcome {
        let (arguments, action, word) = match self {
            Verb::List(arguments) => (arguments, AlarmAction::Get, "list"),
            Verb::Disarm(arguments) => (arguments, AlarmAction::Deactivate, "disarm"),
        };
        if !arguments.words.is_empty() {
            return Err(Failure::bad_arguments(format!("alarm {word} command accepts no arguments")));
        }
        let printer = arguments.form.printer::<AlarmResponse>(context)?;
        let ask = async |member: AlarmMember, action: AlarmAction| {
            let request =
                AlarmRequest { action: action.into(), member_id: member.member_id, alarm: member.alarm };
            context.store.ask(async |at| at.maintenance().alarm(request).await).await
        };
        let active = ask(AlarmMember::default(), AlarmAction::Get).await?;
        if action == AlarmAction::Get {
            return printer.done(&active);
        }
        // One after the other, as clientv3 does it: the store takes back what it is told by name.
        let mut disarmed = AlarmResponse { header: active.header, alarms: Vec::new() };
        for member in active.alarms {
            disarmed.alarms.extend(ask(member, action).await?.alarms);
        }
        printer.done(&disarmed)
    }
}

fn word(alarm: AlarmType) -> &'static str {
    match alarm {
        AlarmType::None => "NONE",
        AlarmType::Nospace => "NOSPACE",
        AlarmType::Corrupt => "CORRUPT",
    }
}

impl Answer for AlarmResponse {
    fn simple(&self, _: Text) -> Vec<Vec<u8>> {
        // Protobuf's text form leaves out what is zero, and ends with a blank.
        let line = |member: &AlarmMember| {
            let mut line = String::new();
            if member.member_id != 0 {
                line = format!("memberID:{} ", member.member_id);
            }
            if member.alarm() != AlarmType::None {
                line = format!("{line}alarm:{} ", word(member.alarm()));
            }
            line.into_bytes()
        };
        self.alarms.iter().map(line).collect()
    }

    fn json(&self, _: Text) -> Value {
        go::json("etcdserverpb.AlarmResponse", self)
    }

    fn fields(&self) -> Vec<String> {
        let mut lines = header_fields(self.header.as_ref());
        for member in &self.alarms {
            lines.push(format!("\"MemberID\" : {}", member.member_id));
            lines.push(format!("\"AlarmType\" : {}", word(member.alarm())));
            lines.push(String::new());
        }
        lines
    }

    fn protobuf(&self) -> Vec<u8> {
        self.encode_to_vec()
    }
}
