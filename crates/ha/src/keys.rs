//! Patroni's key layout: `/<namespace>/<scope>/<key>`, doubled slashes collapsed.

/// The keys of one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    /// Of `scope` under `namespace` (Patroni's default is `/service/`).
    #[must_use]
    pub fn new(namespace: &str, scope: &str) -> Keys {
        let mut prefix = String::new();
        for part in namespace.split('/').chain(scope.split('/')).filter(|part| !part.is_empty()) {
            prefix.push('/');
            prefix.push_str(part);
        }
        prefix.push('/');
        Keys { prefix }
    }
    /// What every key of the cluster starts with, slash included.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
    /// The full key of `which`.
    #[must_use]
    pub fn path(&self, which: &Key) -> String {
        match which {
            Key::Initialize => format!("{}initialize", self.prefix),
            Key::Leader => format!("{}leader", self.prefix),
            Key::Member(name) => format!("{}members/{name}", self.prefix),
            Key::Config => format!("{}config", self.prefix),
            Key::Sync => format!("{}sync", self.prefix),
            Key::History => format!("{}history", self.prefix),
            Key::Failover => format!("{}failover", self.prefix),
            Key::Status => format!("{}status", self.prefix),
            Key::Suspicion => format!("{}suspicion", self.prefix),
        }
    }
    /// Which key a full key is; None: not of this cluster, or one that Quorate does not read.
    #[must_use]
    pub fn parse(&self, path: &str) -> Option<Key> {
        let rest = path.strip_prefix(&self.prefix)?;
        match rest {
            "initialize" => Some(Key::Initialize),
            "leader" => Some(Key::Leader),
            "config" => Some(Key::Config),
            "sync" => Some(Key::Sync),
            "history" => Some(Key::History),
            "failover" => Some(Key::Failover),
            "status" => Some(Key::Status),
            "suspicion" => Some(Key::Suspicion),
            _ => {
                let name = rest.strip_prefix("members/")?;
                (!name.is_empty() && !name.contains('/')).then(|| Key::Member(name.to_owned()))
            }
        }
    }
}

/// One key of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Key {
    Initialize,
    Leader,
    Member(String),
    Config,
    Sync,
    History,
    Failover,
    Status,
    Suspicion,
}
