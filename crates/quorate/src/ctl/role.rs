//! `role`: which keys may be read and written by those who have it.

use clap::{Args, Subcommand};
use prost::Message;
use quorate_wire::authpb::{Permission, permission};
use quorate_wire::etcdserverpb::{
    AuthRoleAddRequest, AuthRoleDeleteRequest, AuthRoleGetRequest, AuthRoleGetResponse,
    AuthRoleGrantPermissionRequest, AuthRoleListRequest, AuthRoleListResponse,
    AuthRoleRevokePermissionRequest,
};
use serde_json::Value;

use super::answer::{Answer, Done, Form, Rows, Text, header_fields};
use super::store::prefix_end;
use super::{Context, Failure, Outcome, go};

/// Verbs about roles.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Makes a role
    Add(Words),
    /// Removes a role
    Delete(Words),
    /// What a role permits
    Get(Words),
    /// Every role
    List(Words),
    /// Permits read, write or readwrite of a key or a range
    GrantPermission(Grant),
    /// Takes a permission back
    RevokePermission(Grant),
}

/// Names, and the form of the answer.
#[derive(Debug, Args)]
pub struct Words {
    #[arg(value_name = "NAME")]
    words: Vec<String>,
    #[command(flatten)]
    form: Form,
}

/// Arguments of `role grant-permission` and `role revoke-permission`.
#[derive(Debug, Args)]
pub struct Grant {
    #[arg(value_name = "ROLE [read|write|readwrite] KEY [RANGE_END]")]
    words: Vec<String>,
    /// Every key that begins with KEY
    #[arg(long)]
    prefix: bool,
    /// Every key from KEY on
    #[arg(long)]
    from_key: bool,
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
            Verb::Add(arguments) => arguments.add(context).await,
            Verb::Delete(arguments) => arguments.delete(context).await,
            Verb::Get(arguments) => arguments.get(context).await,
            Verb::List(arguments) => arguments.list(context).await,
            Verb::GrantPermission(arguments) => arguments.grant(context).await,
            Verb::RevokePermission(arguments) => arguments.revoke(context).await,
        }
    }
}

impl Words {
    fn one(&self, verb: &str) -> Result<&String, Failure> {
        match self.words.as_slice() {
            [word] => Ok(word),
            _ => {
                Err(Failure::bad_arguments(format!("role {verb} command requires role name as its argument")))
            }
        }
    }

    async fn add(&self, context: &Context) -> Outcome {
        let name = self.one("add")?;
        let printer = self.form.printer::<Done<_>>(context)?;
        let request = AuthRoleAddRequest { name: name.clone() };
        let message = context.store.tell(async |at| at.auth().role_add(request.clone()).await).await?;
        printer.done(&Done {
            name: "etcdserverpb.AuthRoleAddResponse",
            header: message.header,
            message,
            sentence: format!("Role {name} created"),
        })
    }

    async fn delete(&self, context: &Context) -> Outcome {
        let name = self.one("delete")?;
        let printer = self.form.printer::<Done<_>>(context)?;
        let request = AuthRoleDeleteRequest { role: name.clone() };
        let message = context.store.tell(async |at| at.auth().role_delete(request.clone()).await).await?;
        printer.done(&Done {
            name: "etcdserverpb.AuthRoleDeleteResponse",
            header: message.header,
            message,
            sentence: format!("Role {name} deleted"),
        })
    }

    async fn get(&self, context: &Context) -> Outcome {
        let name = self.one("get")?;
        let printer = self.form.printer::<RoleDetail>(context)?;
        let request = AuthRoleGetRequest { role: name.clone() };
        let response = context.store.ask(async |at| at.auth().role_get(request.clone()).await).await?;
        printer.done(&RoleDetail { role: name.clone(), response })
    }

    async fn list(&self, context: &Context) -> Outcome {
        if !self.words.is_empty() {
            return Err(Failure::bad_arguments("role list command requires no arguments"));
        }
        let printer = self.form.printer::<AuthRoleListResponse>(context)?;
        let request = AuthRoleListRequest {};
        printer.done(&context.store.ask(async |at| at.auth().role_list(request).await).await?)
    }
}

impl Grant {
    async fn grant(&self, context: &Context) -> Outcome {
        let [role, kind, keys @ ..] = self.words.as_slice() else { return Err(missing_for_grant()) };
        if keys.is_empty() {
            return Err(missing_for_grant());
        }
        let perm_type = match kind.to_ascii_uppercase().as_str() {
            "READ" => permission::Type::Read,
            "WRITE" => permission::Type::Write,
            "READWRITE" => permission::Type::Readwrite,
            _ => return Err(Failure::bad_arguments(format!("invalid permission type: {kind}"))),
        };
        let (key, range_end) = self.range(keys)?;
        let printer = self.form.printer::<Done<_>>(context)?;
        let perm = Permission { perm_type: perm_type.into(), key: key.into(), range_end: range_end.into() };
        let request = AuthRoleGrantPermissionRequest { name: role.clone(), perm: Some(perm) };
        let message =
            context.store.tell(async |at| at.auth().role_grant_permission(request.clone()).await).await?;
        printer.done(&Done {
            name: "etcdserverpb.AuthRoleGrantPermissionResponse",
            header: message.header,
            message,
            sentence: format!("Role {role} updated"),
        })
    }

    async fn revoke(&self, context: &Context) -> Outcome {
        let [role, keys @ ..] = self.words.as_slice() else { return Err(missing_for_revoke()) };
        let Some(shown) = keys.first() else { return Err(missing_for_revoke()) };
        let (key, range_end) = self.range(keys)?;
        let printer = self.form.printer::<Done<_>>(context)?;
        let end = String::from_utf8_lossy(&range_end).into_owned();
        let request = AuthRoleRevokePermissionRequest {
            role: role.clone(),
            key: key.into(),
            range_end: range_end.into(),
        };
        let message =
            context.store.tell(async |at| at.auth().role_revoke_permission(request.clone()).await).await?;
        let sentence = match end.as_str() {
            "" => format!("Permission of key {shown} is revoked from role {role}"),
            "\0" => format!("Permission of range [{shown}, <open ended> is revoked from role {role}"),
            end => format!("Permission of range [{shown}, {end}) is revoked from role {role}"),
        };
        printer.done(&Done {
            name: "etcdserverpb.AuthRoleRevokePermissionResponse",
            header: message.header,
            message,
            sentence,
        })
    }

    /// The keys of a permission. The empty key stands for the first one; `\0` as the end for everything behind.
    fn range(&self, words: &[String]) -> Result<(Vec<u8>, Vec<u8>), Failure> {
        if self.prefix && self.from_key {
            return Err(Failure::bad_arguments("--from-key and --prefix flags are mutually exclusive"));
        }
        match words {
            [key, ..] if key.is_empty() => {
                Ok((vec![0], if self.prefix || self.from_key { vec![0] } else { Vec::new() }))
            }
            [_, _, ..] if self.prefix || self.from_key => {
                let flag = if self.prefix { "--prefix" } else { "--from-key" };
                Err(Failure::bad_arguments(format!("unexpected endkey argument with {flag} flag")))
            }
            [key, end, ..] => Ok((key.clone().into_bytes(), end.clone().into_bytes())),
            [key] if self.prefix => Ok((key.clone().into_bytes(), prefix_end(key.as_bytes()))),
            [key] if self.from_key => Ok((key.clone().into_bytes(), vec![0])),
            [key] => Ok((key.clone().into_bytes(), Vec::new())),
            [] => Err(missing_for_revoke()),
        }
    }
}

fn missing_for_grant() -> Failure {
    Failure::bad_arguments(
        "role grant command requires role name, permission type, and key [endkey] as its argument",
    )
}

fn missing_for_revoke() -> Failure {
    Failure::bad_arguments(
        "role revoke-permission command requires role name and key [endkey] as its argument",
    )
}

/// The answer of `role get`.
pub struct RoleDetail {
    /// Its name.
    pub role: String,
    /// What it permits.
    pub response: AuthRoleGetResponse,
}

impl Answer for RoleDetail {
    fn simple(&self, _: Text) -> Vec<Vec<u8>> {
        use permission::Type::{Read, Readwrite, Write};
        let range = |perm: &Permission| {
            let mut line = b"\t".to_vec();
            if perm.range_end.is_empty() {
                line.extend_from_slice(&perm.key);
                return line;
            }
            line.push(b'[');
            line.extend_from_slice(&perm.key);
            if perm.range_end[..] == [0] {
                line.extend_from_slice(b", <open ended>");
            } else {
                line.extend_from_slice(b", ");
                line.extend_from_slice(&perm.range_end);
                line.push(b')');
            }
            if prefix_end(&perm.key) == perm.range_end[..] {
                line.extend_from_slice(b" (prefix ");
                line.extend_from_slice(&perm.key);
                line.push(b')');
            }
            line
        };
        let mut lines = vec![format!("Role {}", self.role).into_bytes()];
        for (title, kind) in [("KV Read:", Read), ("KV Write:", Write)] {
            lines.push(title.as_bytes().to_vec());
            let all = self.response.perm.iter();
            lines.extend(all.filter(|perm| [kind, Readwrite].contains(&perm.perm_type())).map(range));
        }
        lines
    }

    fn json(&self, _: Text) -> Value {
        go::json("etcdserverpb.AuthRoleGetResponse", &self.response)
    }

    fn fields(&self) -> Vec<String> {
        let mut lines = header_fields(self.response.header.as_ref());
        for perm in &self.response.perm {
            let kind = match perm.perm_type() {
                permission::Type::Read => "READ",
                permission::Type::Write => "WRITE",
                permission::Type::Readwrite => "READWRITE",
            };
            lines.push(format!("\"PermType\" :  {kind}"));
            lines.push(format!("\"Key\" : {}", go::quoted(&perm.key)));
            lines.push(format!("\"RangeEnd\" : {}", go::quoted(&perm.range_end)));
        }
        lines
    }

    fn protobuf(&self) -> Vec<u8> {
        self.response.encode_to_vec()
    }
}

impl Answer for AuthRoleListResponse {
    fn simple(&self, _: Text) -> Vec<Vec<u8>> {
        self.roles.iter().map(|role| role.clone().into_bytes()).collect()
    }

    fn json(&self, _: Text) -> Value {
        go::json("etcdserverpb.AuthRoleListResponse", self)
    }

    fn fields(&self) -> Vec<String> {
        let mut lines = header_fields(self.header.as_ref());
        let roles: String =
            self.roles.iter().map(|role| format!(" {}", go::quoted(role.as_bytes()))).collect();
        lines.push(format!("\"Roles\" :{roles}"));
        lines
    }

    fn protobuf(&self) -> Vec<u8> {
        self.encode_to_vec()
    }

    fn rows(&self) -> Option<Rows> {
        let rows = self.roles.iter().map(|role| vec![role.clone()]).collect();
        Some(Rows { columns: vec!["role"], rows })
    }
}
