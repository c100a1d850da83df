//! Errors, split by what the caller may do.

/// Why an agent did not start. The sentence names what is wrong and the remedy; nothing has been changed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The REST API's address cannot be listened on.
    #[error("cannot listen on {address} for the REST API: {remedy}")]
    Bind {
        /// As configured in `restapi.listen`.
        address: String,
        /// What the operator can do.
        remedy: String,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// Another process answers under this member's name.
    #[error(
        "there is already a node named '{name}' running at {api_url}: names must be unique in a cluster, change 'name' in this node's configuration"
    )]
    DuplicateName {
        /// The configured name.
        name: String,
        /// Where the other one answers.
        api_url: String,
    },
    /// A value of the configuration cannot work.
    #[error("{0}")]
    Config(String),
    /// The operating system refused something the agent needs (a timer, a thread).
    #[error("{what}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
}

/// Why a write of the cluster's keys did not happen, or may not have.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The guard does not hold any more: the decision was made on a state that is gone. Observe and decide again.
    #[error("the guard no longer holds")]
    GuardFailed,
    /// The store has no answer in time. It may still happen: observe before anything is done on the strength of it.
    #[error("the store did not answer")]
    Unavailable(#[source] quorate_node::ProposeError),
    /// The store's refusal, which stands until its state changes.
    #[error("the store refused")]
    Refused(#[source] quorate_node::ProposeError),
}
