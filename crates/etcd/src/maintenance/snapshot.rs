//! `Maintenance.Snapshot`: a file sent in chunks, and its digest last.
//!
//! The size of the file is known before the first byte is sent, so `remaining_bytes` counts down to 0 exactly; the message
//! behind it has the SHA-256 of everything before. What a client wrote down is a multiple of 512 bytes and 32 more, which
//! etcd's tools take for a whole snapshot.
//!
//! A client that reads slowly holds a file on this member's disk, of which there are few at a time; it holds neither memory
//! nor a view of the database.

use std::io::Read;

use quorate_node::Snapshot;
use quorate_wire::etcdserverpb::SnapshotResponse;
use ring::digest::{Context, SHA256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::{ETCD_VERSION, status};

/// One message. etcd sends 32 KiB; a few times that is still small beside a stream's window.
const CHUNK: usize = 128 << 10;
/// Messages read ahead of the connection.
const AHEAD: usize = 4;

/// The messages of one snapshot.
pub(super) fn messages(snapshot: Snapshot) -> ReceiverStream<Result<SnapshotResponse, Status>> {
    let (send, messages) = mpsc::channel(AHEAD);
    // Blocking reads, and a blocking wait for the connection: not on a worker of the runtime.
    tokio::task::spawn_blocking(move || {
        // Kept whole: its place among the few is given back when it has been sent.
        let mut file = &snapshot.file;
        let mut left = snapshot.bytes;
        let mut context = Context::new(&SHA256);
        let message = |blob: Vec<u8>, left: u64| SnapshotResponse {
            // etcd sends none.
            header: None,
            remaining_bytes: left,
            blob: blob.into(),
            version: ETCD_VERSION.to_owned(),
        };
        while left > 0 {
            let mut blob = vec![0; usize::try_from(left).unwrap_or(CHUNK).min(CHUNK)];
            if let Err(error) = file.read_exact(&mut blob) {
                tracing::error!(%error, "a snapshot cannot be read back");
                let _ = send.blocking_send(Err(status::STOPPED.into()));
                return;
            }
            context.update(&blob);
            left -= blob.len() as u64;
            // A client that has left needs nothing more.
            if send.blocking_send(Ok(message(blob, left))).is_err() {
                return;
            }
        }
        let digest = context.finish().as_ref().to_vec();
        let _ = send.blocking_send(Ok(message(digest, 0)));
    });
    ReceiverStream::new(messages)
}
