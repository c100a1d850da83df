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
    /// What the keys of the decision records start with, slash included. It sorts behind every key that a decision
    /// reads, so that who reads those for a decision reads up to here, and a hundred records cost a tick nothing.
    #[must_use]
    pub fn records(&self) -> String {
        format!("{}why/", self.prefix)
    }
    /// The key of a record; numbers in digits of one length, so that the order of keys is that of numbers.
    #[must_use]
    pub fn record(&self, number: u64) -> String {
        format!("{}why/{number:010}", self.prefix)
    }
    /// The number of a record by its key.
    #[must_use]
    pub fn record_number(&self, path: &str) -> Option<u64> {
        path.strip_prefix(&self.prefix)?.strip_prefix("why/")?.parse().ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions_read_nothing_behind_the_records() {
        let keys = Keys::new("/service/", "demo");
        let all = [
            Key::Initialize,
            Key::Leader,
            Key::Member("z".to_owned()),
            Key::Config,
            Key::Sync,
            Key::History,
            Key::Failover,
            Key::Status,
            Key::Suspicion,
        ];
        for key in all {
            let path = keys.path(&key);
            assert!(path < keys.records(), "{path}");
            assert_eq!(keys.parse(&path), Some(key));
        }
        assert_eq!(keys.record(7), "/service/demo/why/0000000007");
        assert_eq!(keys.record_number(&keys.record(7)), Some(7));
        assert_eq!(keys.parse(&keys.record(7)), None, "nobody's key but the records'");
    }
}
