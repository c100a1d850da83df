//! Why: one sentence for the operator, with Patroni's words where people search their logs for them.

use std::fmt;

/// Why a decision is what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// The sentence.
    pub sentence: String,
    /// The agent must end: going on can only do harm (S13). The sentence names the remedy.
    pub fatal: bool,
}

impl Reason {
    /// A reason to go on.
    #[must_use]
    pub fn new(sentence: impl Into<String>) -> Reason {
        Reason { sentence: sentence.into(), fatal: false }
    }
    /// A reason to end the agent.
    #[must_use]
    pub fn fatal(sentence: impl Into<String>) -> Reason {
        Reason { sentence: sentence.into(), fatal: true }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}
