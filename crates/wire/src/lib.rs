//! The protobuf messages and tonic stubs of `proto/`, and nothing else.
#![allow(missing_docs, unreachable_pub, clippy::all)]
