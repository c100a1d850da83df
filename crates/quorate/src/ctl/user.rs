//! `user`: who may ask the store, and with which roles.

use clap::{ArgAction, Args, Subcommand};
use prost::Message;
use quorate_wire::authpb::UserAddOptions;
use quorate_wire::etcdserverpb::{
    AuthRoleGetRequest, AuthUserAddRequest, AuthUserChangePasswordRequest, AuthUserDeleteRequest,
    AuthUserGetRequest, AuthUserGetResponse, AuthUserGrantRoleRequest, AuthUserListRequest,
    AuthUserListResponse, AuthUserRevokeRoleRequest,
};
use serde_json::Value;

use super::answer::{Answer, Done, Form, Forms, Rows, Text};
use super::role::RoleDetail;
use super::{Context, Failure, Outcome, go, output, terminal};

/// Verbs about users.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Makes a user
    Add(Add),
    /// Removes a user
    Delete(Words),
    /// A user's roles
    Get(Get),
    /// Every user
    List(Words),
    /// Changes a user's password
    Passwd(Passwd),
    /// Gives a role to a user
    GrantRole(Words),
    /// Takes a role from a user
    RevokeRole(Words),
}

/// Names, and the form of the answer.
#[derive(Debug, Args)]
pub struct Words {
    #[arg(value_name = "NAME")]
    words: Vec<String>,
    #[command(flatten)]
    form: Form,
}

/// Arguments of `user add`.
#[derive(Debug, Args)]
pub struct Add {
    #[arg(value_name = "NAME | NAME:PASSWORD")]
    words: Vec<String>,
    /// Ask for the password on the terminal, twice; otherwise it is the first word of standard input
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "true",
          default_missing_value = "true", value_parser = go::bool, value_name = "BOOL")]
    interactive: bool,
    /// The password
    #[arg(long, default_value = "", hide_default_value = true)]
    new_user_password: String,
    /// Known by a certificate's common name only
    #[arg(long)]
    no_password: bool,
    #[command(flatten)]
    form: Form,
}

/// Arguments of `user get`.
#[derive(Debug, Args)]
pub struct Get {
    #[arg(value_name = "NAME")]
    words: Vec<String>,
    /// What the roles permit, too
    #[arg(long)]
    detail: bool,
    #[command(flatten)]
    form: Form,
}

/// Arguments of `user passwd`.
#[derive(Debug, Args)]
pub struct Passwd {
    #[arg(value_name = "NAME")]
    words: Vec<String>,
    /// Ask for the password on the terminal, twice; otherwise it is the first word of standard input
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "true",
          default_missing_value = "true", value_parser = go::bool, value_name = "BOOL")]
    interactive: bool,
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
            Verb::Add(arguments) => arguments.run(context).await,
            Verb::Delete(arguments) => arguments.delete(context).await,
            Verb::Get(arguments) => arguments.run(context).await,
            Verb::List(arguments) => arguments.list(context).await,
            Verb::Passwd(arguments) => arguments.run(context).await,
            Verb::GrantRole(arguments) => arguments.grant(context).await,
            Verb::RevokeRole(arguments) => arguments.revoke(context).await,
        }
    }
}

fn one<'w>(words: &'w [String], verb: &str) -> Result<&'w String, Failure> {
    match words {
        [word] => Ok(word),
        _ => Err(Failure::bad_arguments(format!("user {verb} command requires user name as its argument"))),
    }
}

fn password(interactive: bool, name: &str) -> Result<String, Failure> {
    if interactive { terminal::new_password(name) } else { Ok(terminal::word()) }
}

impl Add {
    async fn run(&self, context: &Context) -> Outcome {
        let word = one(&self.words, "add")?;
        let printer = self.form.printer::<Done<_>>(context)?;
        let (name, password) = if self.no_password {
            (word.as_str(), String::new())
        } else if !self.new_user_password.is_empty() {
            (word.as_str(), self.new_user_password.clone())
        } else if let Some((name, password)) = word.split_once(':') {
            if name.is_empty() {
                return Err(Failure::bad_arguments("empty user name is not allowed"));
            }
            (name, password.to_owned())
        } else {
            (word.as_str(), password(self.interactive, word)?)
        };
        let request = AuthUserAddRequest {
            name: name.to_owned(),
            password,
            options: Some(UserAddOptions { no_password: self.no_password }),
            ..AuthUserAddRequest::default()
        };
        let message = context.store.tell(async |at| at.auth().user_add(request.clone()).await).await?;
        printer.done(&Done {
            name: "etcdserverpb.AuthUserAddResponse",
            header: message.header,
            message,
            sentence: format!("User {name} created"),
        })
    }
}

impl Passwd {
    async fn run(&self, context: &Context) -> Outcome {
        let name = one(&self.words, "passwd")?;
        let printer = self.form.printer::<Done<_>>(context)?;
        let request = AuthUserChangePasswordRequest {
            name: name.clone(),
            password: password(self.interactive, name)?,
            ..AuthUserChangePasswordRequest::default()
        };
        let message =
            context.store.tell(async |at| at.auth().user_change_password(request.clone()).await).await?;
        printer.done(&Done {
            name: "etcdserverpb.AuthUserChangePasswordResponse",
            header: message.header,
            message,
            sentence: "Password updated".to_owned(),
        })
    }
}

impl Get {
    async fn run(&self, context: &Context) -> Outcome {
        let name = one(&self.words, "get")?;
        let request = AuthUserGetRequest { name: name.clone() };
        let ask = async || context.store.ask(async |at| at.auth().user_get(request.clone()).await).await;
        if !self.detail {
            let printer = self.form.printer::<User>(context)?;
            return printer.done(&User { name: name.clone(), response: ask().await? });
        }
        let printer = self.form.printer::<RoleDetail>(context)?;
        let user = ask().await?;
        output::line(&format!("User: {name}"));
        for role in user.roles {
            output::line("");
            let request = AuthRoleGetRequest { role: role.clone() };
            let response = context.store.ask(async |at| at.auth().role_get(request.clone()).await).await?;
            printer.print(&RoleDetail { role, response });
        }
        Ok(())
    }
}

impl Words {
    async fn delete(&self, context: &Context) -> Outcome {
        let name = one(&self.words, "delete")?;
        let printer = self.form.printer::<Done<_>>(context)?;
        let request = AuthUserDeleteRequest { name: name.clone() };
        let message = context.store.tell(async |at| at.auth().user_delete(request.clone()).await).await?;
        printer.done(&Done {
            name: "etcdserverpb.AuthUserDeleteResponse",
            header: message.header,
            message,
            sentence: format!("User {name} deleted"),
        })
    }

    async fn list(&self, context: &Context) -> Outcome {
        if !self.words.is_empty() {
            return Err(Failure::bad_arguments("user list command requires no arguments"));
        }
        let printer = self.form.printer::<AuthUserListResponse>(context)?;
        let request = AuthUserListRequest {};
        printer.done(&context.store.ask(async |at| at.auth().user_list(request).await).await?)
    }

    async fn grant(&self, context: &Context) -> Outcome {
        let [user, role] = self.words.as_slice() else {
            return Err(Failure::bad_arguments(
                "user grant command requires user name and role name as its argument",
            ));
        };
        let printer = self.form.printer::<Done<_>>(context)?;
        let request = AuthUserGrantRoleRequest { user: user.clone(), role: role.clone() };
        let message = context.store.tell(async |at| at.auth().user_grant_role(request.clone()).await).await?;
        printer.done(&Done {
            name: "etcdserverpb.AuthUserGrantRoleResponse",
            header: message.header,
            message,
            sentence: format!("Role {role} is granted to user {user}"),
        })
    }

    async fn revoke(&self, context: &Context) -> Outcome {
        let [user, role] = self.words.as_slice() else {
            return Err(Failure::bad_arguments(
                "user revoke-role requires user name and role name as its argument",
            ));
        };
        let printer = self.form.printer::<Done<_>>(context)?;
        let request = AuthUserRevokeRoleRequest { name: user.clone(), role: role.clone() };
        let message =
            context.store.tell(async |at| at.auth().user_revoke_role(request.clone()).await).await?;
        printer.done(&Done {
            name: "etcdserverpb.AuthUserRevokeRoleResponse",
            header: message.header,
            message,
            sentence: format!("Role {role} is revoked from user {user}"),
        })
    }
}

/// The answer of `user get`.
struct User {
    name: String,
    response: AuthUserGetResponse,
}

impl Answer for User {
    const FORMS: Forms = Forms::NO_FIELDS;

    fn simple(&self, _: Text) -> Vec<Vec<u8>> {
        let roles: String = self.response.roles.iter().map(|role| format!(" {role}")).collect();
        vec![format!("User: {}", self.name).into_bytes(), format!("Roles:{roles}").into_bytes()]
    }

    fn json(&self, _: Text) -> Value {
        go::json("etcdserverpb.AuthUserGetResponse", &self.response)
    }

    fn protobuf(&self) -> Vec<u8> {
        self.response.encode_to_vec()
    }
}

impl Answer for AuthUserListResponse {
    const FORMS: Forms = Forms::NO_FIELDS;

    fn simple(&self, _: Text) -> Vec<Vec<u8>> {
        self.users.iter().map(|user| user.clone().into_bytes()).collect()
    }

    fn json(&self, _: Text) -> Value {
        go::json("etcdserverpb.AuthUserListResponse", self)
    }

    fn protobuf(&self) -> Vec<u8> {
        self.encode_to_vec()
    }

    fn rows(&self) -> Option<Rows> {
        let rows = self.users.iter().map(|user| vec![user.clone()]).collect();
        Some(Rows { columns: vec!["user"], rows })
    }
}
