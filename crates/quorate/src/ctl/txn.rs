//! `txn`: a transaction, read from standard input in etcdctl's grammar.
//!
//! ```text
//! mod("key1") > "0"          comparisons: TARGET("KEY") OPERATOR "VALUE"; TARGET is version (ver), create (c), mod (m),
//!                            value (val) or lease (a hexadecimal id); OPERATOR is =, !=, < or >
//!                            an empty line
//! put key1 "overwritten"     what is done if all of them hold: get, put and del with their flags
//!                            an empty line
//! put key1 "created"         what is done otherwise
//!                            an empty line
//! ```
//!
//! Exit code 3: the input cannot be read.

use std::ffi::OsString;
use std::io::BufRead;
use std::os::unix::ffi::OsStringExt;

use clap::{Args, Parser};
use quorate_wire::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quorate_wire::etcdserverpb::request_op::Request;
use quorate_wire::etcdserverpb::{Compare, RequestOp, TxnRequest, TxnResponse};

use super::answer::Form;
use super::{Context, Failure, Outcome, del, flags, get, go, output, put};

/// Arguments of `txn`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Ask for each part
    #[arg(short, long)]
    interactive: bool,
    #[command(flatten)]
    form: Form,
}

/// An operation's line.
#[derive(Debug, Parser)]
#[command(multicall = true)]
enum Line {
    Get(get::Operation),
    Put(put::Operation),
    Del(del::Operation),
}

impl Arguments {
    /// Does it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn run(&self, context: &Context) -> Outcome {
        let printer = self.form.printer::<TxnResponse>(context)?;
        let mut input = std::io::stdin().lock();
        let prompt = |text: &str| {
            if self.interactive {
                output::line(text);
            }
        };
        prompt("compares:");
        let compare = part(&mut input, comparison)?;
        prompt("success requests (get, put, del):");
        let success = part(&mut input, operation)?;
        prompt("failure requests (get, put, del):");
        let failure = part(&mut input, operation)?;
        drop(input);
        let request = TxnRequest { compare, success, failure };
        // A transaction that writes nothing may be asked twice.
        let reads = |op: &RequestOp| matches!(op.request, Some(Request::RequestRange(_)));
        let rpc = async |at: super::store::Connection| at.kv().txn(request.clone()).await;
        let response = if request.success.iter().chain(&request.failure).all(reads) {
            context.store.ask(rpc).await?
        } else {
            context.store.tell(rpc).await?
        };
        printer.done(&response)
    }
}

/// Lines up to an empty one.
fn part<T>(input: &mut impl BufRead, parse: impl Fn(&[u8]) -> Result<T, Failure>) -> Result<Vec<T>, Failure> {
    let mut found = Vec::new();
    loop {
        let mut line = Vec::new();
        match input.read_until(b'\n', &mut line) {
            Ok(_) if line.ends_with(b"\n") => {}
            Ok(_) => return Err(Failure::bad_input("EOF")),
            Err(error) => return Err(Failure::bad_input(error.to_string())),
        }
        let line = line.trim_ascii();
        if line.is_empty() {
            return Ok(found);
        }
        found.push(parse(line)?);
    }
}

fn comparison(line: &[u8]) -> Result<Compare, Failure> {
    let shown = String::from_utf8_lossy(line).into_owned();
    let malformed = || Failure::bad_input(format!("malformed comparison: {shown}"));
    let open = line.iter().position(|byte| *byte == b'(').ok_or_else(malformed)?;
    let (target, rest) = (&line[..open], &line[open + 1..]);
    let (key, rest) = go::unquoted(rest).ok_or_else(malformed)?;
    let rest = rest.strip_prefix(b")").ok_or_else(malformed)?.trim_ascii_start();
    let end = rest.iter().position(u8::is_ascii_whitespace).ok_or_else(malformed)?;
    let result = match &rest[..end] {
        b"=" => CompareResult::Equal,
        b"!=" => CompareResult::NotEqual,
        b">" => CompareResult::Greater,
        b"<" => CompareResult::Less,
        _ => return Err(malformed()),
    };
    let (value, _) = go::unquoted(rest[end..].trim_ascii_start()).ok_or_else(malformed)?;
    let number = |radix| {
        let text = std::str::from_utf8(&value).ok();
        text.and_then(|text| i64::from_str_radix(text, radix).ok())
            .ok_or_else(|| Failure::bad_input(format!("invalid txn compare request: {shown}")))
    };
    let (target, union) = match target {
        b"ver" | b"version" => (CompareTarget::Version, TargetUnion::Version(number(10)?)),
        b"c" | b"create" => (CompareTarget::Create, TargetUnion::CreateRevision(number(10)?)),
        b"m" | b"mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number(10)?)),
        b"val" | b"value" => (CompareTarget::Value, TargetUnion::Value(value.clone().into())),
        b"lease" => (CompareTarget::Lease, TargetUnion::Lease(number(16)?)),
        other => {
            let other = String::from_utf8_lossy(other);
            return Err(Failure::bad_input(format!(
                "malformed comparison: {shown} (unknown target {other})"
            )));
        }
    };
    Ok(Compare {
        result: result.into(),
        target: target.into(),
        key: key.into(),
        target_union: Some(union),
        ..Compare::default()
    })
}

fn operation(line: &[u8]) -> Result<RequestOp, Failure> {
    let shown = String::from_utf8_lossy(line).into_owned();
    let words = words(line).ok_or_else(|| Failure::bad_input("invalid quoted string"))?;
    if words.len() < 2 {
        return Err(Failure::bad_input(format!("invalid txn compare request: {shown}")));
    }
    let words = words.into_iter().map(OsString::from_vec);
    let line: Line =
        flags::parse(words).map_err(|_| Failure::bad_input(format!("invalid txn request: {shown}")))?;
    let request = match line {
        Line::Get(operation) => Request::RequestRange(operation.request()?),
        Line::Put(operation) => Request::RequestPut(operation.request()?),
        Line::Del(operation) => Request::RequestDeleteRange(operation.request()?),
    };
    Ok(RequestOp { request: Some(request) })
}

/// A line's words: bare ones, `'…'` as it stands, `"…"` with Go's escapes. None when a quote does not end.
#[must_use]
pub fn words(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    let mut rest = line.trim_ascii_start();
    while let Some(first) = rest.first() {
        let (word, after) = match first {
            b'"' => go::unquoted(rest)?,
            b'\'' => {
                let end = rest[1..].iter().position(|byte| *byte == b'\'')? + 1;
                (rest[1..end].to_vec(), &rest[end + 1..])
            }
            _ => {
                let end = rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len());
                (rest[..end].to_vec(), &rest[end..])
            }
        };
        found.push(word);
        rest = after.trim_ascii_start();
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparisons_are_read() {
        let found = comparison(br#"mod("k\"1") > "3""#).unwrap();
        assert_eq!((&found.key[..], found.result()), (&b"k\"1"[..], CompareResult::Greater));
        assert_eq!(found.target_union, Some(TargetUnion::ModRevision(3)));
        assert_eq!(comparison(br#"lease("a") = "1f""#).unwrap().target_union, Some(TargetUnion::Lease(31)));
        assert_eq!(comparison(br#"val("a") != "x y""#).unwrap().result(), CompareResult::NotEqual);
        for (line, code) in
            [("mod(k) = \"1\"", 3), ("mod(\"k\") ~ \"1\"", 3), ("size(\"k\") = \"1\"", 3), ("x", 3)]
        {
            assert_eq!(comparison(line.as_bytes()).unwrap_err().code, code, "{line}");
        }
        assert_eq!(
            comparison(b"mod(\"k\") = \"x\"").unwrap_err().message,
            "invalid txn compare request: mod(\"k\") = \"x\""
        );
    }

    #[test]
    fn operations_take_the_verbs_flags() {
        let op =
            |line: &str| operation(line.as_bytes()).map(|op| op.request).map_err(|failure| failure.message);
        let Ok(Some(Request::RequestPut(put))) = op("put --prev-kv key \"a \\x00 b\" --lease=1f") else {
            panic!()
        };
        assert_eq!((&put.value[..], put.lease, put.prev_kv), (&b"a \0 b"[..], 31, true));
        let Ok(Some(Request::RequestRange(get))) = op("get 'a b' --prefix=true") else { panic!() };
        assert_eq!((&get.key[..], &get.range_end[..]), (&b"a b"[..], &b"a c"[..]));
        assert!(matches!(op("del a b"), Ok(Some(Request::RequestDeleteRange(_)))));
        assert_eq!(op("get"), Err("invalid txn compare request: get".to_owned()));
        assert_eq!(op("look a"), Err("invalid txn request: look a".to_owned()));
        assert_eq!(op("get a --no"), Err("invalid txn request: get a --no".to_owned()));
    }

    #[test]
    fn a_part_ends_with_an_empty_line() {
        let mut input = &b"get a\n \nget b"[..];
        assert_eq!(part(&mut input, operation).unwrap().len(), 1);
        assert_eq!(part(&mut input, operation).unwrap_err().message, "EOF");
    }
}
