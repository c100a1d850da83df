//! `auth enable|disable|status`: whether the store asks who is there.

use clap::Subcommand;
use prost::Message;
use quorate_wire::etcdserverpb::{
    AuthDisableRequest, AuthEnableRequest, AuthRoleAddRequest, AuthStatusRequest, AuthStatusResponse,
    AuthUserGrantRoleRequest,
};
use serde_json::Value;

use super::answer::{Answer, Form, Forms, Text, Unformed};
use super::{Context, Failure, Outcome, go, output};

/// Verbs about authentication.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Ask everybody; the user root must exist
    Enable(Switch),
    /// Ask nobody
    Disable(Switch),
    /// Whether anybody is asked
    Status(Status),
}

/// Arguments of `auth enable` and `auth disable`.
#[derive(Debug, clap::Args)]
pub struct Switch {
    #[arg(hide = true)]
    words: Vec<String>,
    #[command(flatten)]
    unformed: Unformed,
}

/// Arguments of `auth status`.
#[derive(Debug, clap::Args)]
pub struct Status {
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
        let (name, words) = match self {
            Verb::Enable(arguments) => ("enable", &arguments.words),
            Verb::Disable(arguments) => ("disable", &arguments.words),
            Verb::Status(arguments) => ("status", &arguments.words),
        };
        if !words.is_empty() {
            return Err(Failure::bad_arguments(format!("auth {name} command does not accept any arguments")));
        }
        match self {
            Verb::Enable(arguments) => {
                arguments.unformed.check()?;
                enable(context).await
            }
            Verb::Disable(arguments) => {
                arguments.unformed.check()?;
                context.store.tell(async |at| at.auth().auth_disable(AuthDisableRequest {}).await).await?;
                output::line("Authentication Disabled");
                Ok(())
            }
            Verb::Status(arguments) => {
                let printer = arguments.form.printer::<AuthStatusResponse>(context)?;
                let request = AuthStatusRequest {};
                printer.done(&context.store.ask(async |at| at.auth().auth_status(request).await).await?)
            }
        }
    }
}

/// The user root must have been made by hand, because it needs a password; its role is made here.
async fn enable(context: &Context) -> Outcome {
    let store = &context.store;
    let rpc = async |at: super::store::Connection| at.auth().auth_enable(AuthEnableRequest {}).await;
    if let Err(failure) = store.tell(rpc).await {
        if failure.message != "etcdserver: root user does not have root role" {
            return Err(failure);
        }
        let role = AuthRoleAddRequest { name: "root".to_owned() };
        let made = store.tell(async |at| at.auth().role_add(role.clone()).await).await;
        if let Err(failure) = made
            && failure.message != "etcdserver: role name already exists"
        {
            return Err(failure);
        }
        let grant = AuthUserGrantRoleRequest { user: "root".to_owned(), role: "root".to_owned() };
        store.tell(async |at| at.auth().user_grant_role(grant.clone()).await).await?;
        store.tell(rpc).await?;
    }
    output::line("Authentication Enabled");
    Ok(())
}

impl Answer for AuthStatusResponse {
    const FORMS: Forms = Forms::NO_FIELDS;

    fn simple(&self, _: Text) -> Vec<Vec<u8>> {
        vec![
            format!("Authentication Status: {}", self.enabled).into_bytes(),
            format!("AuthRevision: {}", self.auth_revision).into_bytes(),
        ]
    }

    fn json(&self, _: Text) -> Value {
        go::json("etcdserverpb.AuthStatusResponse", self)
    }

    fn protobuf(&self) -> Vec<u8> {
        self.encode_to_vec()
    }
}
