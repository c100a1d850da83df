//! The printer: one answer of the store, in the form that was asked for.
//!
//! ```text
//!  simple    lines for people and for shell scripts, as etcdctl prints them; ids in hexadecimal
//!  table     etcdctl's tables; only lists of members and endpoints have one
//!  json      Go's JSON of the message (go.rs); ids in decimal
//!  fields    "Name" : value, one a line; ids in decimal
//!  protobuf  the message's bytes
//!  --format  pretty | json | yaml | tsv, as every query of quoratectl has them
//! ```
//!
//! A verb says what its answer looks like by [`Answer`]; which form it is, and whether it exists, is decided here and
//! before anything is asked of the store: a write whose answer could not be printed is not made. (etcdctl makes it and
//! fails afterwards, with the same sentence and the same exit code.)

use std::marker::PhantomData;

use prost::Message;
use quorate_wire::etcdserverpb::ResponseHeader;
use serde_json::Value;

use super::output::{self, Format};
use super::{Context, Failure, Outcome, go, table};

/// Which of etcdctl's forms an answer has besides simple and json.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Forms {
    pub table: bool,
    pub fields: bool,
    pub protobuf: bool,
}

impl Forms {
    /// What answers of one message have.
    pub const MESSAGE: Forms = Forms { table: false, fields: true, protobuf: true };
    /// What answers of one message have that etcdctl does not print as fields.
    pub const NO_FIELDS: Forms = Forms { table: false, fields: false, protobuf: true };
    /// What lists of endpoints have.
    pub const LIST: Forms = Forms { table: true, fields: true, protobuf: false };
}

/// Columns and rows.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct Rows {
    pub columns: Vec<&'static str>,
    pub rows: Vec<Vec<String>>,
}

/// What a verb's answer looks like. A form that is not in `FORMS` is never asked for.
pub trait Answer {
    /// Which forms there are.
    const FORMS: Forms = Forms::MESSAGE;

    /// Lines, as bytes because keys and values are bytes.
    fn simple(&self, text: Text) -> Vec<Vec<u8>>;

    /// etcdctl's JSON.
    fn json(&self, text: Text) -> Value;

    /// `"Name" : value` lines.
    fn fields(&self) -> Vec<String> {
        Vec::new()
    }

    /// The message's bytes.
    fn protobuf(&self) -> Vec<u8> {
        Vec::new()
    }

    /// For `table` and `tsv`; without any, `tsv` is the simple lines.
    fn rows(&self) -> Option<Rows> {
        None
    }
}

/// How bytes and ids are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text {
    /// `--hex`
    pub hex: bool,
}

impl Text {
    /// A key or a value.
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Vec<u8> {
        if self.hex { go::hex(bytes).into_bytes() } else { bytes.to_vec() }
    }
}

/// `-w` as etcdctl has it and `--format` as every query has it.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Form {
    /// simple, table, json, fields or protobuf, as etcdctl prints them
    #[arg(short = 'w', long, value_name = "FORM")]
    write_out: Option<String>,
    /// As every query's; pretty is what fits the verb best
    #[arg(short = 'f', long, value_enum, conflicts_with = "write_out")]
    format: Option<Format>,
}

/// `-w` of a verb whose answer has one form only: taken, because etcdctl's global flags may stand anywhere.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Unformed {
    #[arg(short = 'w', long, value_name = "FORM", hide = true)]
    write_out: Option<String>,
}

impl Unformed {
    /// Whether it is a form at all.
    ///
    /// # Errors
    /// It is none.
    pub fn check(&self) -> Outcome {
        self.write_out.as_deref().map_or(Ok(()), |word| Shape::named(word).map(|_| ()))
    }
}

/// Both ways of asking, as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Shape {
    Simple,
    Table,
    Json,
    Fields,
    Protobuf,
    Yaml,
    Tsv,
}

impl Shape {
    /// etcdctl's word for it.
    ///
    /// # Errors
    /// There is no such form.
    pub fn named(word: &str) -> Result<Shape, Failure> {
        Ok(match word {
            "simple" => Shape::Simple,
            "table" => Shape::Table,
            "json" => Shape::Json,
            "fields" => Shape::Fields,
            "protobuf" => Shape::Protobuf,
            _ => return Err(Failure::bad_feature("unsupported output format")),
        })
    }
}

impl Form {
    /// The printer of a verb whose answer is an `A`.
    ///
    /// # Errors
    /// The answer has no such form; nothing has been asked of the store yet.
    pub fn printer<A: Answer>(&self, context: &Context) -> Result<Printer<A>, Failure> {
        let shape = match (&self.write_out, self.format) {
            (Some(word), _) => Shape::named(word)?,
            (None, Some(Format::Pretty)) if A::FORMS.table => Shape::Table,
            (None, Some(Format::Pretty)) => Shape::Simple,
            (None, Some(Format::Json)) => Shape::Json,
            (None, Some(Format::Yaml)) => Shape::Yaml,
            (None, Some(Format::Tsv)) => Shape::Tsv,
            (None, None) => context.shape,
        };
        let missing = match shape {
            Shape::Table if !A::FORMS.table => "table",
            Shape::Fields if !A::FORMS.fields => "fields",
            Shape::Protobuf if !A::FORMS.protobuf => "protobuf",
            _ => return Ok(Printer { shape, text: Text { hex: context.hex }, answer: PhantomData }),
        };
        Err(Failure::bad_feature(format!("{missing} not supported as output format")))
    }
}

/// Prints answers of one kind in a form that they have.
pub struct Printer<A> {
    /// The form.
    pub shape: Shape,
    text: Text,
    answer: PhantomData<A>,
}

impl<A: Answer> Printer<A> {
    /// Prints one.
    pub fn print(&self, answer: &A) {
        match self.shape {
            Shape::Simple => {
                for line in answer.simple(self.text) {
                    output::raw_line(&line);
                }
            }
            Shape::Json => output::line(&go::json_text(&answer.json(self.text))),
            Shape::Yaml => output::line(output::yaml(&answer.json(self.text)).trim_end()),
            Shape::Fields => {
                for line in answer.fields() {
                    output::line(&line);
                }
            }
            Shape::Protobuf => output::raw(&answer.protobuf()),
            Shape::Table | Shape::Tsv => match answer.rows() {
                Some(found) if self.shape == Shape::Table => {
                    output::line(&table::etcdctl(&found.columns, &found.rows));
                }
                Some(found) => output::line(&table::tsv(&found.columns, &found.rows)),
                None => {
                    for line in answer.simple(self.text) {
                        output::raw_line(&line);
                    }
                }
            },
        }
    }

    /// Prints one and is done.
    ///
    /// # Errors
    /// None: the form is known to exist.
    pub fn done(&self, answer: &A) -> Outcome {
        self.print(answer);
        Ok(())
    }
}

/// An answer that says no more than that it was done: a header, and a sentence made of what was asked.
pub struct Done<M> {
    /// The message's full name.
    pub name: &'static str,
    /// The message.
    pub message: M,
    /// Its header.
    pub header: Option<ResponseHeader>,
    /// The simple form.
    pub sentence: String,
}

impl<M: Message> Answer for Done<M> {
    fn simple(&self, _: Text) -> Vec<Vec<u8>> {
        vec![self.sentence.clone().into_bytes()]
    }

    fn json(&self, _: Text) -> Value {
        go::json(self.name, &self.message)
    }

    fn fields(&self) -> Vec<String> {
        header_fields(self.header.as_ref())
    }

    fn protobuf(&self) -> Vec<u8> {
        self.message.encode_to_vec()
    }
}

/// The header's lines in the `fields` form.
#[must_use]
pub fn header_fields(header: Option<&ResponseHeader>) -> Vec<String> {
    let header = header.copied().unwrap_or_default();
    vec![
        format!("\"ClusterID\" : {}", header.cluster_id),
        format!("\"MemberID\" : {}", header.member_id),
        format!("\"Revision\" : {}", header.revision),
        format!("\"RaftTerm\" : {}", header.raft_term),
    ]
}

/// A header in JSON.
#[must_use]
pub fn header_json(header: Option<&ResponseHeader>) -> Value {
    go::json("etcdserverpb.ResponseHeader", &header.copied().unwrap_or_default())
}
