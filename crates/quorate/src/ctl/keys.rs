//! Which keys a verb is about: etcdctl's arguments and flags. Keys and values are bytes, also on the command line.

use std::ffi::OsString;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser, ValueParserFactory};

use super::Failure;
use super::store::prefix_range;

/// An argument as bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl ValueParserFactory for Bytes {
    type Parser = clap::builder::MapValueParser<OsStringValueParser, fn(OsString) -> Bytes>;

    fn value_parser() -> Self::Parser {
        OsStringValueParser::new().map(|text| Bytes(text.into_encoded_bytes()))
    }
}

/// The keys of `get` and `del`.
#[derive(Debug, Args)]
pub struct Selection {
    /// The key, and the end of a range (exclusive)
    #[arg(value_name = "KEY [RANGE_END]")]
    pub keys: Vec<Bytes>,
    /// Every key that begins with KEY
    #[arg(long)]
    pub prefix: bool,
    /// Every key from KEY on
    #[arg(long)]
    pub from_key: bool,
}

impl Selection {
    /// Key and end of the range; no end means the key alone.
    ///
    /// # Errors
    /// They contradict one another.
    pub fn range(&self, verb: &str) -> Result<(Vec<u8>, Vec<u8>), Failure> {
        if self.prefix && self.from_key {
            return Err(Failure::bad_arguments(
                "`--prefix` and `--from-key` cannot be set at the same time, choose one",
            ));
        }
        let (key, end) = match self.keys.as_slice() {
            [key] => (key.0.clone(), None),
            [key, end] => (key.0.clone(), Some(end.0.clone())),
            _ => {
                return Err(Failure::bad_arguments(format!(
                    "{verb} command needs one argument as key and an optional argument as range_end"
                )));
            }
        };
        Ok(match end {
            Some(_) if self.prefix || self.from_key => {
                return Err(Failure::bad_arguments(
                    "too many arguments, only accept one argument when `--prefix` or `--from-key` is set",
                ));
            }
            Some(end) => (key, end),
            None if self.prefix => prefix_range(&key),
            None if self.from_key => (if key.is_empty() { vec![0] } else { key }, vec![0]),
            None => (key, Vec::new()),
        })
    }
}

/// A lease as etcdctl's users write it.
///
/// # Errors
/// It is no hexadecimal number of 63 bits, in the words that `prefix` begins.
pub fn lease_id(text: &str, prefix: &str) -> Result<i64, Failure> {
    i64::from_str_radix(text, 16).map_err(|error| {
        let reason = if *error.kind() == std::num::IntErrorKind::PosOverflow {
            "value out of range"
        } else {
            "invalid syntax"
        };
        Failure::bad_arguments(format!(
            "{prefix} (strconv.ParseInt: parsing {text:?}: {reason}), expecting ID in Hex"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_as_etcdctl_builds_them() {
        let range = |keys: &[&str], prefix, from_key| {
            let keys = keys.iter().map(|text| Bytes(text.as_bytes().to_vec())).collect();
            Selection { keys, prefix, from_key }.range("get").map_err(|failure| failure.code)
        };
        assert_eq!(range(&["a"], false, false), Ok((b"a".to_vec(), vec![])));
        assert_eq!(range(&["a"], true, false), Ok((b"a".to_vec(), b"b".to_vec())));
        assert_eq!(range(&[""], true, false), Ok((vec![0], vec![0])));
        assert_eq!(range(&["a"], false, true), Ok((b"a".to_vec(), vec![0])));
        assert_eq!(range(&["a", "c"], false, false), Ok((b"a".to_vec(), b"c".to_vec())));
        assert_eq!(range(&["a", "c"], true, false), Err(128));
        assert_eq!(range(&["a"], true, true), Err(128));
        assert_eq!(range(&[], false, false), Err(128));
    }

    #[test]
    fn a_lease_is_hexadecimal() {
        assert_eq!(lease_id("3ff2a1fb3b3968a2", "bad"), Ok(0x3ff2_a1fb_3b39_68a2));
        let refused = lease_id("xyz", "bad lease ID arg").unwrap_err();
        assert_eq!(
            refused.message,
            "bad lease ID arg (strconv.ParseInt: parsing \"xyz\": invalid syntax), expecting ID in Hex"
        );
    }
}
