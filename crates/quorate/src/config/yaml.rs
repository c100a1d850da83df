//! A YAML file as a tree in which every key and every value knows its line.
//!
//! The typed settings are not deserialized straight from the file: serde stops at the first mistake, and an unknown
//! key has no place in a struct. So the file first becomes this tree, which anything well-formed fits, and the
//! readers in [`super::patroni`] walk it and collect every finding with its line. Variables of the environment are
//! written into the same tree before it is read ([`super::env`]), each leaf remembering where it came from.
//!
//! Plain scalars are typed as Patroni's YAML 1.1 reader types them (`off` is a boolean, `10` a number); the text as it
//! was written is kept beside, because a password `0123` or a version `15` must not lose its spelling.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, Location, Spanned};

use super::diagnostics::{Origin, Report};

/// A value and where it was written.
#[derive(Debug, Clone)]
pub struct Node {
    /// See [`Value`].
    pub value: Value,
    /// Where it was written.
    pub origin: Origin,
    /// A scalar as it was written, without quotes.
    pub text: Option<String>,
}

/// What YAML can say.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `key:` with nothing behind it, `~` or `null`.
    Null,
    /// `true`, `off`, `yes`, …
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A number with a fraction or an exponent.
    Float(f64),
    /// Text.
    String(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order of the file.
    Map(Vec<Entry>),
}

/// One key of a mapping.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key was written.
    pub origin: Origin,
    /// Its value.
    pub node: Node,
}

// Values compare by what they say, not by where they stand.
impl PartialEq for Node {
    fn eq(&self, other: &Node) -> bool {
        self.value == other.value
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.key == other.key && self.node == other.node
    }
}

impl Node {
    /// An empty mapping that stands for a file.
    #[must_use]
    pub fn empty() -> Node {
        Node { value: Value::Map(Vec::new()), origin: Origin::File, text: None }
    }

    /// Text that did not come from the file.
    #[must_use]
    pub fn text(value: &str, origin: Origin) -> Node {
        Node { value: Value::String(value.to_owned()), origin, text: Some(value.to_owned()) }
    }

    /// The child under `key`, if this is a mapping that has it and it is not null.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries
                .iter()
                .find(|entry| entry.key == key)
                .map(|entry| &entry.node)
                .filter(|node| node.value != Value::Null),
            Value::Null
            | Value::Bool(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::String(_)
            | Value::List(_) => None,
        }
    }

    /// Sets the leaf at `path`, replacing what is there and creating the mappings above it.
    pub fn set(&mut self, path: &[&str], leaf: Node) {
        let Some((first, rest)) = path.split_first() else {
            *self = leaf;
            return;
        };
        if !matches!(self.value, Value::Map(_)) {
            self.value = Value::Map(Vec::new());
        }
        let Value::Map(entries) = &mut self.value else { return };
        let position = entries.iter().position(|entry| entry.key == *first).unwrap_or_else(|| {
            let node = Node { value: Value::Map(Vec::new()), origin: leaf.origin.clone(), text: None };
            entries.push(Entry { key: (*first).to_owned(), origin: leaf.origin.clone(), node });
            entries.len() - 1
        });
        entries[position].node.set(rest, leaf);
    }

    /// The scalar as it was written; booleans and numbers keep their spelling. None for null, lists and mappings.
    #[must_use]
    pub fn as_text(&self) -> Option<String> {
        match &self.value {
            Value::String(text) => Some(text.clone()),
            Value::Bool(on) => Some(self.text.clone().unwrap_or_else(|| on.to_string())),
            Value::Integer(number) => Some(self.text.clone().unwrap_or_else(|| number.to_string())),
            Value::Float(number) => Some(self.text.clone().unwrap_or_else(|| number.to_string())),
            Value::Null | Value::List(_) | Value::Map(_) => None,
        }
    }

    /// As JSON, for what is handed on as it stands (`bootstrap.dcs` becomes the store's `/config`).
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(on) => (*on).into(),
            Value::Integer(number) => (*number).into(),
            Value::Float(number) => serde_json::Number::from_f64(*number)
                .map_or(serde_json::Value::Null, serde_json::Value::Number),
            Value::String(text) => text.clone().into(),
            Value::List(items) => items.iter().map(Node::to_json).collect(),
            Value::Map(entries) => serde_json::Value::Object(
                entries.iter().map(|entry| (entry.key.clone(), entry.node.to_json())).collect(),
            ),
        }
    }

    /// "a list of 2", for messages. Repeats text: never call it on what may be a secret.
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Bool(on) => self.text.clone().unwrap_or_else(|| on.to_string()),
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::String(text) => format!("{text:?}"),
            Value::List(items) => format!("a list of {}", items.len()),
            Value::Map(entries) => {
                format!("a section with {}", entries.first().map_or("nothing", |e| &e.key))
            }
        }
    }
}

/// Twice as deep as any configuration. The reader calls itself for each level, and a level takes 45 KB of stack in a debug
/// build: at its own bound of 64 the 2 MiB of a thread are full. Aliases and merges count as what they stand for.
const DEEPEST: usize = 16;

/// Parses one document. A file that is not YAML leaves one error in `report` and gives the empty tree.
pub fn parse(text: &str, report: &mut Report) -> Node {
    let options = serde_saphyr::options! {
        duplicate_keys: DuplicateKeyPolicy::Error,
        with_snippet: false,
        budget: serde_saphyr::budget! { max_depth: DEEPEST },
    };
    match serde_saphyr::from_str_with_options::<Spanned<Raw>>(text, options) {
        Ok(root) => match Node::from_raw(root, text) {
            Node { value: Value::Null, .. } => Node::empty(),
            node @ Node { value: Value::Map(_), .. } => node,
            node => {
                report.error(
                    node.origin.clone(),
                    "",
                    format!("expected sections, found {}", node.describe()),
                );
                Node::empty()
            }
        },
        Err(error) => {
            let origin = error.location().map_or(Origin::File, |location| Origin::Line(location.line()));
            // The library appends its own "at line …, column …" and advice to programmers; the line is named in
            // front already.
            let message = error.to_string();
            let message = message.split(" at line ").next().unwrap_or_default().trim_end_matches(':');
            let message = message.split(", set DuplicateKeyPolicy").next().unwrap_or_default();
            report.error(origin, "", format!("not valid YAML: {message}"));
            Node::empty()
        }
    }
}

impl Node {
    fn from_raw(raw: Spanned<Raw>, source: &str) -> Node {
        // `defined` is where an alias points to: the spelling is there, and so is the line worth changing.
        let origin = Origin::Line(raw.defined.line());
        let written = slice(source, raw.defined);
        let (value, text) = match raw.value {
            Raw::Null => (Value::Null, None),
            Raw::Bool(on) => (Value::Bool(on), written),
            Raw::Integer(number) => (Value::Integer(number), written),
            Raw::Float(number) => (Value::Float(number), written),
            Raw::String(text) => (Value::String(text.clone()), Some(text)),
            Raw::List(items) => {
                (Value::List(items.into_iter().map(|item| Node::from_raw(item, source)).collect()), None)
            }
            Raw::Map(entries) => {
                let entry = |(key, node): (Spanned<String>, Spanned<Raw>)| Entry {
                    origin: Origin::Line(key.defined.line()),
                    key: key.value,
                    node: Node::from_raw(node, source),
                };
                (Value::Map(entries.into_iter().map(entry).collect()), None)
            }
        };
        Node { value, origin, text }
    }
}

fn slice(source: &str, location: Location) -> Option<String> {
    let span = location.span();
    let start = usize::try_from(span.byte_offset()?).ok()?;
    let length = usize::try_from(span.byte_len()?).ok()?;
    Some(source.get(start..start + length)?.trim().to_owned())
}

/// What serde sees; the spans are joined in [`Node::from_raw`].
enum Raw {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    String(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Raw, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Integer(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Raw, E> {
        i64::try_from(value).map(Raw::Integer).map_err(|_| E::custom("the number is too large"))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Raw, E> {
        Ok(Raw::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = entries.next_key::<Spanned<String>>()? {
            let value = entries.next_value::<Spanned<Raw>>()?;
            map.push((key, value));
        }
        Ok(Raw::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(text: &str) -> Node {
        let mut report = Report::default();
        let node = parse(text, &mut report);
        assert_eq!(report.render("f"), "");
        node
    }

    #[test]
    fn keys_and_values_know_their_lines() {
        let root = tree("scope: a\nrestapi:\n  listen: 0.0.0.0:8008\n  # comment\n  tags: [x,\n    2]\n");
        let Value::Map(entries) = &root.value else { panic!("{root:?}") };
        assert_eq!(entries[1].origin, Origin::Line(2));
        let restapi = root.get("restapi").unwrap();
        assert_eq!(restapi.get("listen").unwrap().origin, Origin::Line(3));
        let Value::List(items) = &restapi.get("tags").unwrap().value else { panic!() };
        assert_eq!((items[1].value.clone(), items[1].origin.clone()), (Value::Integer(2), Origin::Line(6)));
    }

    #[test]
    fn scalars_keep_their_spelling() {
        let root = tree("a: 0123\nb: 'off'\nc: off\nd: 1e3\ne: 0x10\nf:\ng: \"15\"\nh: &x 5432\ni: *x\n");
        let text = |key: &str| root.get(key).unwrap().as_text().unwrap();
        assert_eq!(text("a"), "0123");
        assert_eq!(root.get("b").unwrap().value, Value::String("off".into()));
        assert_eq!(root.get("c").unwrap().value, Value::Bool(false));
        assert_eq!(text("c"), "off");
        assert_eq!(text("d"), "1e3");
        assert_eq!(text("e"), "0x10");
        assert!(root.get("f").is_none());
        assert_eq!(root.get("g").unwrap().value, Value::String("15".into()));
        assert_eq!(text("i"), "5432");
    }

    #[test]
    fn what_is_not_yaml_is_one_error_with_its_line() {
        let mut report = Report::default();
        parse("a: 1\nb: [1, 2\nc: 3\n", &mut report);
        assert_eq!(report.findings().len(), 1, "{}", report.render("f"));
        let mut report = Report::default();
        parse("a: 1\nb: 2\na: 3\n", &mut report);
        let text = report.render("f.yml");
        assert!(text.starts_with("f.yml:3: error: not valid YAML: "), "{text}");
        let mut report = Report::default();
        parse("- a\n- b\n", &mut report);
        assert_eq!(report.render("f.yml"), "f.yml:1: error: expected sections, found a list of 2\n");
    }
}
