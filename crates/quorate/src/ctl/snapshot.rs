//! `snapshot`: the store in a file, what such a file holds, and a member of a new cluster that begins with it.
//!
//! ```text
//!   save     member ──stream──► FILE.part ──verified, synced──► FILE
//!   restore  FILE ──verified──► DIR.restoring ──synced──► DIR
//! ```
//!
//! A file is there whole or not at all, under its name only when it was verified. `save` replaces a file of that name, as
//! etcdctl does, and says that it did: the older snapshot is given up only for a newer one that is whole.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use quorate_node::{Restore, SnapshotStatus, restore_snapshot, snapshot_status};
use quorate_wire::etcdserverpb::SnapshotRequest;
use ring::digest::{Context as Sha256, SHA256};
use serde_json::{Value, json};

use super::answer::{Answer, Form, Forms, Rows, Text, Unformed};
use super::{Context, Failure, Outcome, go, output};
use crate::process::chain;

/// The end of a saved snapshot.
const DIGEST: usize = 32;
/// How our own snapshots begin; one of etcd's is saved like any other, but only its own tools look into it.
const OURS: &[u8] = b"QRTSNAP\n";

/// Verbs about snapshots.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Saves what one member holds, as of one instant
    Save(Save),
    /// What a saved snapshot holds; verifies all of it
    Status(Status),
    /// Makes the data directory of one member of a new cluster; once for each member, from the same file
    Restore(RestoreArguments),
}

/// Arguments of `snapshot save`.
#[derive(Debug, Args)]
pub struct Save {
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    unformed: Unformed,
}

/// Arguments of `snapshot status`.
#[derive(Debug, Args)]
pub struct Status {
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    form: Form,
}

/// Arguments of `snapshot restore`.
#[derive(Debug, Args)]
pub struct RestoreArguments {
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Must not exist, or be empty [default: NAME.etcd]
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Of this member
    #[arg(long, default_value = "default")]
    name: String,
    /// Every member of the new cluster, NAME=URL with commas between
    #[arg(long, default_value = "default=http://localhost:2380")]
    initial_cluster: String,
    /// This member's URL in that list
    #[arg(long, default_value = "http://localhost:2380")]
    initial_advertise_peer_urls: String,
    /// One that was never used before: the new cluster's ids follow from it
    #[arg(long, default_value = "etcd-cluster")]
    initial_cluster_token: String,
    /// The file has no digest at its end: only the checksums inside are checked
    #[arg(long)]
    skip_hash_check: bool,
    /// etcd's; the log lives in the data directory
    #[arg(long, hide = true)]
    wal_dir: Option<PathBuf>,
    #[command(flatten)]
    unformed: Unformed,
}

impl Verb {
    /// Does it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn run(&self, context: &Context) -> Outcome {
        match self {
            Verb::Save(arguments) => arguments.run(context).await,
            Verb::Status(arguments) => arguments.run(context),
            Verb::Restore(arguments) => arguments.run(),
        }
    }
}

impl Save {
    async fn run(&self, context: &Context) -> Outcome {
        self.unformed.check()?;
        let [file] = self.files.as_slice() else {
            return Err(Failure::bad_arguments("snapshot save expects one argument"));
        };
        if let endpoints @ [_, _, ..] = context.store.endpoints() {
            return Err(Failure::bad_arguments(format!(
                "snapshot must be requested to one selected node, not multiple {endpoints:?}"
            )));
        }
        let part = part(file);
        let saved = receive(context, &part).await.and_then(|()| {
            let replaced = file.exists();
            fs::rename(&part, file).map_err(|error| failed("renaming", &part, &error))?;
            sync_parent(file)?;
            Ok(replaced)
        });
        match saved {
            Ok(replaced) => {
                if replaced {
                    output::complain(&format!("{} was there and has been replaced", file.display()));
                }
                output::line(&format!("Snapshot saved at {}", file.display()));
                Ok(())
            }
            Err(failure) => {
                let _ = fs::remove_file(&part);
                Err(failure)
            }
        }
    }
}

/// Beside the file, so that a rename is enough; etcdctl's name for it.
fn part(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_os_string();
    name.push(".part");
    name.into()
}

fn failed(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(format!("{what} {}: {error}", path.display()))
}

/// Streams a snapshot into `part`, verified and synced.
async fn receive(context: &Context, part: &Path) -> Outcome {
    let patience = context.store.timeout();
    let connection = context.store.any().await?;
    let late = || Failure::new("the member sent nothing for longer than --command-timeout");
    // The member writes its state down before it sends the first message; how long that takes depends on its size.
    let mut messages =
        tokio::time::timeout(patience.max(FIRST), connection.maintenance().snapshot(SnapshotRequest {}))
            .await
            .map_err(|_| late())?
            .map_err(|status| Failure::new(status.message()))?
            .into_inner();
    let mut out = BufWriter::new(File::create(part).map_err(|error| failed("creating", part, &error))?);
    let mut digest = Sha256::new(&SHA256);
    // The last 32 bytes are the digest of everything before; they may come in any message.
    let mut tail: Vec<u8> = Vec::new();
    let mut ours = None;
    let mut remaining = None;
    while let Some(message) = tokio::time::timeout(patience, messages.message())
        .await
        .map_err(|_| late())?
        .map_err(|status| Failure::new(status.message()))?
    {
        ours.get_or_insert_with(|| message.blob.starts_with(OURS));
        remaining = Some(message.remaining_bytes);
        out.write_all(&message.blob).map_err(|error| failed("writing", part, &error))?;
        tail.extend_from_slice(&message.blob);
        let content = tail.len().saturating_sub(DIGEST);
        digest.update(&tail[..content]);
        tail.drain(..content);
    }
    let whole = remaining == Some(0) && tail.len() == DIGEST && digest.finish().as_ref() == tail;
    if !whole {
        return Err(Failure::new(
            "the snapshot did not arrive whole: its SHA-256 digest is missing or wrong",
        ));
    }
    let file = out.into_inner().map_err(|error| failed("writing", part, error.error()))?;
    file.sync_all().map_err(|error| failed("syncing", part, &error))?;
    if ours == Some(true) {
        snapshot_status(part, true).map_err(|error| Failure::new(chain(&error)))?;
    }
    Ok(())
}

/// A database of some gigabytes is written down in less.
const FIRST: Duration = Duration::from_secs(120);

fn sync_parent(file: &Path) -> Outcome {
    let parent = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(|error| failed("syncing", parent, &error))
}

impl Status {
    fn run(&self, context: &Context) -> Outcome {
        let [file] = self.files.as_slice() else {
            return Err(Failure::bad_arguments("snapshot status requires exactly one argument"));
        };
        let printer = self.form.printer::<SnapshotStatus>(context)?;
        let status = snapshot_status(file, true).map_err(|error| Failure::new(chain(&error)))?;
        printer.done(&status)
    }
}

impl RestoreArguments {
    fn run(&self) -> Outcome {
        self.unformed.check()?;
        let [file] = self.files.as_slice() else {
            return Err(Failure::bad_arguments("snapshot restore requires exactly one argument"));
        };
        if self.wal_dir.is_some() {
            return Err(Failure::bad_feature(
                "--wal-dir is not supported: the log lives in the data directory",
            ));
        }
        let mut initial_cluster = Vec::new();
        for one in self.initial_cluster.split(',').map(str::trim).filter(|one| !one.is_empty()) {
            let (name, url) = one.split_once('=').ok_or_else(|| {
                Failure::bad_arguments(format!("--initial-cluster: expected NAME=URL, found {one:?}"))
            })?;
            initial_cluster.push((name.to_owned(), url.trim_end_matches('/').to_owned()));
        }
        let advertise = self.initial_advertise_peer_urls.split(',').next().unwrap_or_default();
        let restore = Restore {
            name: self.name.clone(),
            data_dir: self.data_dir.clone().unwrap_or_else(|| format!("{}.etcd", self.name).into()),
            peer_advertise: advertise.trim().trim_end_matches('/').to_owned(),
            initial_cluster,
            cluster_token: self.initial_cluster_token.clone(),
            digest: !self.skip_hash_check,
        };
        let status = restore_snapshot(file, &restore).map_err(|error| Failure::new(chain(&error)))?;
        output::complain(&format!(
            "restored revision {} into {}; start the member with the same name, token and list of members",
            status.revision,
            restore.data_dir.display()
        ));
        Ok(())
    }
}

impl Answer for SnapshotStatus {
    const FORMS: Forms = Forms { table: true, fields: true, protobuf: false };

    fn simple(&self, _: Text) -> Vec<Vec<u8>> {
        self.rows().unwrap_or_default().rows.iter().map(|row| row.join(", ").into_bytes()).collect()
    }

    fn json(&self, _: Text) -> Value {
        json!({
            "hash": self.hash,
            "revision": self.revision,
            "totalKey": self.total_keys,
            "totalSize": self.total_bytes,
        })
    }

    fn fields(&self) -> Vec<String> {
        vec![
            format!("\"Hash\" : {}", self.hash),
            format!("\"Revision\" : {}", self.revision),
            format!("\"Keys\" : {}", self.total_keys),
            format!("\"Size\" : {}", self.total_bytes),
        ]
    }

    fn rows(&self) -> Option<Rows> {
        Some(Rows {
            columns: vec!["Hash", "Revision", "Total Keys", "Total Size"],
            rows: vec![vec![
                format!("{:x}", self.hash),
                self.revision.to_string(),
                self.total_keys.to_string(),
                go::size(i64::try_from(self.total_bytes).unwrap_or(i64::MAX)),
            ]],
        })
    }
}
