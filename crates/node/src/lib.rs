//! One embeddable cluster member: propose, linearizable read, watch, lease behind one cheap [`Handle`].

pub mod clock;
pub mod config;
pub mod error;
pub mod handle;

pub use config::Config;
pub use error::{ProposeError, ReadError, StartError};
pub use handle::{Applied, Handle, Header, Leadership, Member, Node, Renewal, Status, WatchItem, WatchSpec, Watcher};
