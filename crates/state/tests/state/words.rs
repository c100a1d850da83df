//! The words of the scripts: requests as an operator types them.
//!
//! ```text
//! put KEY VALUE [lease=ID] [prev_kv=true] [ignore_value=true] [ignore_lease=true]
//! del KEY [END] [prefix=true] [from=true] [prev_kv=true]
//! get KEY [END] [prefix=true] [from=true] [rev=N] [limit=N] [order=ascend|descend] [by=key|version|create|mod|value]
//!               [keys_only=true] [count_only=true] [min_mod=N] [max_mod=N] [min_create=N] [max_create=N]
//!               [serializable=true]
//! txn [if COMPARE and COMPARE …] [then OP; OP …] [else OP; OP …]       (a literal line: > txn …)
//!   COMPARE: version|create|mod|value|lease(KEY[,END]) =|!=|<|> OPERAND
//!   OP: put …, del …, get …, { if … then … else … }, nothing
//!
//! auth on|off|state
//! user add NAME [no_password=true] | delete NAME | passwd NAME | grant NAME ROLE | revoke NAME ROLE | show NAME | list
//! role add NAME | delete NAME | grant NAME [read|write|readwrite KEY [END] …] | revoke NAME KEY [END] … | show NAME | list
//! token USER [rev=N]
//!
//! `USER: command` is asked for by that user, `nobody: command` by a client that showed nothing, a command without a prefix
//! by the program itself. The tag [stale] names the auth revision before.
//! ```
//!
//! A character below 256 is that byte, so "\xff" in a script is one byte.

use std::collections::BTreeMap;
use std::error::Error;

use bytes::Bytes;
use quorate_state::auth::{
    AuthAction, Name, Permission, RoleGrant, RoleRevoke, UserAdd, UserChangePassword, UserRole,
};
use quorate_state::{
    Compare, CompareResult, CompareTarget, DeleteRange, Done, Put, Range, SortOrder, SortTarget, Txn, TxnOp,
    TxnOpBody,
};

type Parsed<T> = Result<T, Box<dyn Error>>;

/// The arguments of one request; every one must be taken.
#[derive(Default)]
pub(crate) struct Words {
    positional: std::collections::VecDeque<String>,
    named: BTreeMap<String, String>,
}

impl Words {
    pub(crate) fn of(command: &goldenscript::Command) -> Words {
        let mut words = Words::default();
        for argument in &command.args {
            match argument {
                goldenscript::Argument::Positional(word) => words.positional.push_back(word.clone()),
                goldenscript::Argument::KeyValue(key, word) => {
                    drop(words.named.insert(key.clone(), word.clone()))
                }
                other => panic!("an argument of a new kind: {other}"),
            }
        }
        words
    }

    pub(crate) fn next(&mut self, what: &str) -> Parsed<String> {
        self.positional.pop_front().ok_or_else(|| format!("{what} is missing").into())
    }

    pub(crate) fn next_number<T: std::str::FromStr<Err: Error + 'static>>(
        &mut self,
        what: &str,
    ) -> Parsed<T> {
        Ok(self.next(what)?.parse()?)
    }

    pub(crate) fn rest(&mut self) -> Vec<String> {
        self.positional.drain(..).collect()
    }

    pub(crate) fn named<T: std::str::FromStr<Err: Error + 'static> + Default>(
        &mut self,
        name: &str,
    ) -> Parsed<T> {
        self.named.remove(name).map_or(Ok(T::default()), |word| Ok(word.parse()?))
    }

    pub(crate) fn end(self) -> Parsed<()> {
        match (self.positional.front(), self.named.first_key_value()) {
            (None, None) => Ok(()),
            (word, named) => Err(format!("not understood: {word:?} {named:?}").into()),
        }
    }

    fn key_range(&mut self) -> Parsed<(Bytes, Bytes)> {
        let key = bytes(&self.next("key")?);
        let end = if self.named("prefix")? {
            let mut end = key.to_vec();
            *end.last_mut().ok_or("a prefix of nothing")? += 1;
            end.into()
        } else if self.named("from")? {
            Bytes::from_static(b"\0")
        } else {
            self.positional.pop_front().map(|end| bytes(&end)).unwrap_or_default()
        };
        Ok((key, end))
    }
}

/// None: a question, not a change.
pub(crate) fn auth(name: &str, words: &mut Words) -> Parsed<Option<AuthAction>> {
    let verb = words.next("a verb")?;
    let mut word = |what: &str| words.next(what);
    Ok(Some(match (name, verb.as_str()) {
        ("auth", "on") => AuthAction::Enable(Done {}),
        ("auth", "off") => AuthAction::Disable(Done {}),
        ("auth", "state") | ("user" | "role", "show" | "list") => {
            words.positional.push_front(verb);
            return Ok(None);
        }
        ("user", "add") => {
            let name = word("name")?;
            let no_password = words.named("no_password")?;
            AuthAction::UserAdd(UserAdd { name, password_hash: "hash".into(), no_password })
        }
        ("user", "delete") => AuthAction::UserDelete(Name { name: word("name")? }),
        ("user", "passwd") => {
            let name = word("name")?;
            AuthAction::UserChangePassword(UserChangePassword { name, password_hash: "other".into() })
        }
        ("user", "grant") => AuthAction::UserGrantRole(UserRole { user: word("user")?, role: word("role")? }),
        ("user", "revoke") => {
            AuthAction::UserRevokeRole(UserRole { user: word("user")?, role: word("role")? })
        }
        ("role", "add") => AuthAction::RoleAdd(Name { name: word("name")? }),
        ("role", "delete") => AuthAction::RoleDelete(Name { name: word("name")? }),
        ("role", "grant") => {
            let role = word("role")?;
            let kind = match words.positional.pop_front().as_deref() {
                None => None,
                Some("read") => Some(0),
                Some("write") => Some(1),
                Some("readwrite") => Some(2),
                Some(number) => Some(number.parse()?),
            };
            let permission = match kind {
                None => None,
                Some(kind) => {
                    let (key, range_end) = words.key_range()?;
                    Some(Permission { kind, key, range_end })
                }
            };
            AuthAction::RoleGrant(RoleGrant { role, permission })
        }
        ("role", "revoke") => {
            let role = word("role")?;
            let (key, range_end) = words.key_range()?;
            AuthAction::RoleRevoke(RoleRevoke { role, key, range_end })
        }
        (name, verb) => return Err(format!("{name} {verb} is not understood").into()),
    }))
}

pub(crate) fn bytes(text: &str) -> Bytes {
    text.chars().map(|char| u8::try_from(u32::from(char)).expect("scripts keep to bytes")).collect()
}

pub(crate) fn put(mut words: Words) -> Parsed<Put> {
    let put = Put {
        key: bytes(&words.next("key")?),
        value: bytes(&words.positional.pop_front().unwrap_or_default()),
        lease: words.named("lease")?,
        prev_kv: words.named("prev_kv")?,
        ignore_value: words.named("ignore_value")?,
        ignore_lease: words.named("ignore_lease")?,
    };
    words.end()?;
    Ok(put)
}

pub(crate) fn delete(mut words: Words) -> Parsed<DeleteRange> {
    let (key, range_end) = words.key_range()?;
    let delete = DeleteRange { key, range_end, prev_kv: words.named("prev_kv")? };
    words.end()?;
    Ok(delete)
}

pub(crate) fn range(mut words: Words) -> Parsed<Range> {
    let (key, range_end) = words.key_range()?;
    let sort_order = match words.named::<String>("order")?.as_str() {
        "" => SortOrder::None.into(),
        "ascend" => SortOrder::Ascend.into(),
        "descend" => SortOrder::Descend.into(),
        number => number.parse()?,
    };
    let sort_target = match words.named::<String>("by")?.as_str() {
        "" | "key" => SortTarget::Key.into(),
        "version" => SortTarget::Version.into(),
        "create" => SortTarget::Create.into(),
        "mod" => SortTarget::Mod.into(),
        "value" => SortTarget::Value.into(),
        number => number.parse()?,
    };
    let range = Range {
        key,
        range_end,
        limit: words.named("limit")?,
        revision: words.named("rev")?,
        sort_order,
        sort_target,
        serializable: words.named("serializable")?,
        keys_only: words.named("keys_only")?,
        count_only: words.named("count_only")?,
        min_mod_revision: words.named("min_mod")?,
        max_mod_revision: words.named("max_mod")?,
        min_create_revision: words.named("min_create")?,
        max_create_revision: words.named("max_create")?,
    };
    words.end()?;
    Ok(range)
}

/// `text` is what follows the word txn.
pub(crate) fn txn(text: &str) -> Parsed<Txn> {
    let mut tokens = Tokens { left: split(text)? };
    let txn = tokens.txn()?;
    if tokens.left.is_empty() { Ok(txn) } else { Err(format!("not understood: {:?}", tokens.left).into()) }
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Quoted(String),
    Sign(&'static str),
}

const SIGNS: [&str; 10] = ["!=", "=", "<", ">", "(", ")", "{", "}", ";", ","];

fn split(text: &str) -> Parsed<std::collections::VecDeque<Token>> {
    let mut tokens = std::collections::VecDeque::new();
    let mut left = text.trim_start();
    while let Some(first) = left.chars().next() {
        if let Some(sign) = SIGNS.into_iter().find(|sign| left.starts_with(sign)) {
            tokens.push_back(Token::Sign(sign));
            left = &left[sign.len()..];
        } else if first == '"' {
            let end = left[1..].find('"').ok_or("a quote is not closed")?;
            tokens.push_back(Token::Quoted(left[1..=end].replace("\\0", "\0")));
            left = &left[end + 2..];
        } else {
            let end = left.find(|char: char| char.is_whitespace() || "!=<>(){};,\"".contains(char));
            let (word, rest) = left.split_at(end.unwrap_or(left.len()));
            tokens.push_back(Token::Word(word.to_owned()));
            left = rest;
        }
        left = left.trim_start();
    }
    Ok(tokens)
}

struct Tokens {
    left: std::collections::VecDeque<Token>,
}

impl Tokens {
    fn take(&mut self, token: &Token) -> bool {
        let found = self.left.front() == Some(token);
        if found {
            self.left.pop_front();
        }
        found
    }

    fn take_word(&mut self, word: &str) -> bool {
        self.take(&Token::Word(word.to_owned()))
    }

    fn string(&mut self) -> Parsed<String> {
        match self.left.pop_front() {
            Some(Token::Word(word) | Token::Quoted(word)) => Ok(word),
            other => Err(format!("a word is missing before {other:?}").into()),
        }
    }

    fn sign(&mut self) -> Parsed<&'static str> {
        match self.left.pop_front() {
            Some(Token::Sign(sign)) => Ok(sign),
            other => Err(format!("a sign is missing before {other:?}").into()),
        }
    }

    fn txn(&mut self) -> Parsed<Txn> {
        let mut txn = Txn::default();
        if self.take_word("if") {
            txn.compare.push(self.compare()?);
            while self.take_word("and") {
                txn.compare.push(self.compare()?);
            }
        }
        if self.take_word("then") {
            txn.success = self.ops()?;
        }
        if self.take_word("else") {
            txn.failure = self.ops()?;
        }
        Ok(txn)
    }

    fn compare(&mut self) -> Parsed<Compare> {
        let target = self.string()?;
        self.sign()?;
        let key = bytes(&self.string()?);
        let range_end = if self.take(&Token::Sign(",")) { bytes(&self.string()?) } else { Bytes::new() };
        self.sign()?;
        let result = match self.sign()? {
            "=" => CompareResult::Equal,
            "!=" => CompareResult::NotEqual,
            "<" => CompareResult::Less,
            ">" => CompareResult::Greater,
            sign => return Err(format!("{sign} compares nothing").into()),
        };
        let operand = self.string()?;
        let target = match target.as_str() {
            "version" => CompareTarget::Version(operand.parse()?),
            "create" => CompareTarget::Create(operand.parse()?),
            "mod" => CompareTarget::Mod(operand.parse()?),
            "lease" => CompareTarget::Lease(operand.parse()?),
            "value" => CompareTarget::Value(bytes(&operand)),
            other => return Err(format!("{other} is no target").into()),
        };
        Ok(Compare { result: result.into(), key, range_end, target: Some(target) })
    }

    fn ops(&mut self) -> Parsed<Vec<TxnOp>> {
        let mut ops = vec![self.op()?];
        while self.take(&Token::Sign(";")) {
            ops.push(self.op()?);
        }
        Ok(ops)
    }

    fn op(&mut self) -> Parsed<TxnOp> {
        if self.take(&Token::Sign("{")) {
            let nested = self.txn()?;
            self.take(&Token::Sign("}"));
            return Ok(TxnOp { body: Some(TxnOpBody::Txn(nested)) });
        }
        let name = self.string()?;
        let mut words = Words::default();
        while let Some(Token::Word(_) | Token::Quoted(_)) = self.left.front() {
            if self.left.front() == Some(&Token::Word("else".to_owned())) {
                break;
            }
            let word = self.string()?;
            if self.take(&Token::Sign("=")) {
                words.named.insert(word, self.string()?);
            } else {
                words.positional.push_back(word);
            }
        }
        let body = match name.as_str() {
            "put" => Some(TxnOpBody::Put(put(words)?)),
            "del" => Some(TxnOpBody::DeleteRange(delete(words)?)),
            "get" => Some(TxnOpBody::Range(range(words)?)),
            "nothing" => None,
            other => return Err(format!("{other} is no operation").into()),
        };
        Ok(TxnOp { body })
    }
}
