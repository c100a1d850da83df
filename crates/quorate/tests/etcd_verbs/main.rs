//! `quoratectl` beside Debian's `etcdctl`, on loopback: the same words in every format, the same exit codes, the same sentences.
//!
//! Each command line is run by both tools against one real server; what comes out is compared after ids and revisions that
//! must differ have been masked. Each comparison is made against a real `etcd`, which shows that `quoratectl` is a faithful
//! client, and against `quorate store`, started with the same command line. Where etcdctl 3.5 says something else than
//! Debian's 3.4, the expectation is 3.5's and stands in the test.

mod auth;
mod cluster;
mod kv;
mod lease;
mod queue;
mod servers;
mod tls;
mod watch;
