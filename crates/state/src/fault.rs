//! What stops a node. An expected refusal is never a fault: it is a [`Rejection`](crate::Rejection), an answer.

use crate::{FORMAT, ViewError};

/// The node must stop: going on would let this member's state differ from the others'. Restarting helps if the engine
/// failed for a passing reason; otherwise the operator upgrades the node or rebuilds its state from a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The engine could not read.
    #[error(transparent)]
    View(#[from] ViewError),
    /// A command of a format that this build does not know.
    #[error("a command has format {format}, this build reads 1 to {FORMAT}: upgrade this node")]
    UnknownFormat {
        /// What the command says.
        format: u32,
    },
    /// A command of a known format whose kind this build does not know.
    #[error("a command is of a kind that this build does not know: upgrade this node")]
    UnknownCommand,
    /// Bytes of the log that are no command.
    #[error("an entry of the log does not decode as a command")]
    UndecodableCommand(#[source] prost::DecodeError),
    /// Bytes of the state that are not what their key says.
    #[error("the stored {what} does not decode: rebuild this node's state from its log and snapshot")]
    Undecodable {
        /// Which key space.
        what: &'static str,
        /// Why, where the decoder said.
        #[source]
        source: Option<prost::DecodeError>,
    },
    /// Two key spaces contradict each other: one of them lost a write.
    #[error("the state contradicts itself: {what}: rebuild this node's state from its log and snapshot")]
    Inconsistent {
        /// What is missing where.
        what: &'static str,
    },
}

impl Fault {
    /// Stored bytes of the wrong shape, without a decoder's word.
    pub(crate) fn shape(what: &'static str) -> Fault {
        Fault::Undecodable { what, source: None }
    }
}
