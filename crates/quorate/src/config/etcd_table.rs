//! Every flag that an etcd of the lines 3.4 to 3.6 has, and what becomes of it here: it is read, or it changes nothing and
//! the reason is said, or it asks for something that cannot be given.

/// What becomes of a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Takes a value and is read.
    Value,
    /// A switch that is read: alone it is true.
    Switch,
    /// Takes a value, changes nothing; why.
    Ignored(&'static str),
    /// A switch that changes nothing; why.
    IgnoredSwitch(&'static str),
    /// Takes a value. The listed ones, and none at all, are what is done here anyway; any other cannot be given; why.
    Refused(&'static [&'static str], &'static str),
    /// A switch that can only be off; why.
    RefusedSwitch(&'static str),
}

use Kind::{Ignored, IgnoredSwitch, Refused, RefusedSwitch, Switch, Value};

impl Kind {
    /// May stand without a value.
    pub(super) fn is_switch(self) -> bool {
        match self {
            Switch | IgnoredSwitch(_) | RefusedSwitch(_) => true,
            Value | Ignored(_) | Refused(..) => false,
        }
    }
}

const NO_V2: &str = "the v2 API does not exist here; v3 is always served";
const ALWAYS: &str = "it is always so here";
const NO_DISCOVERY: &str = "discovery is not supported; name the members in --initial-cluster";
const DISCOVERY_ONLY: &str = "it matters to discovery alone, which is not supported";
const PROXY_ONLY: &str = "it matters to a v2 proxy alone, which does not exist here";
const BACKEND: &str = "it tunes a file of etcd's that does not exist here";
const FILES: &str = "old files are removed as soon as they are not needed";
const PINGS: &str =
    "silent connections are found by pings every 30 s, and clients may ping as often as they like";
const LOG: &str =
    "the log goes to standard error, one line each; leave files and rotation to the service manager";
const TRACING: &str = "traces are not exported";
const CHECKS: &str = "what was read from the disk is always checked, and there is no such check beyond that";
const EXPERIMENTAL: &str = "an experiment of etcd's that does not exist here";
const AUTO_TLS: &str = "certificates made at the start protect from nobody; have them issued and set the certificate and the key";

/// Sorted by etcd's own help.
pub(super) const FLAGS: &[(&str, Kind)] = &[
    ("config-file", Value),
    // Member.
    ("name", Value),
    ("data-dir", Value),
    ("wal-dir", Refused(&[], "the log lives in --data-dir; mount that on the fast disk")),
    ("snapshot-count", Value),
    ("heartbeat-interval", Value),
    ("election-timeout", Value),
    ("initial-election-tick-advance", IgnoredSwitch("elections here are short from the start")),
    ("listen-peer-urls", Value),
    ("listen-client-urls", Value),
    (
        "listen-client-http-urls",
        Refused(&[], "HTTP and gRPC share a port here; add the URL to --listen-client-urls"),
    ),
    ("max-snapshots", Ignored(FILES)),
    ("max-wals", Ignored(FILES)),
    ("quota-backend-bytes", Value),
    ("backend-bbolt-freelist-type", Ignored(BACKEND)),
    ("backend-batch-interval", Ignored(BACKEND)),
    ("backend-batch-limit", Ignored(BACKEND)),
    ("max-txn-ops", Value),
    ("max-learners", Value),
    ("max-request-bytes", Value),
    ("max-concurrent-streams", Ignored("a connection may have 4096 calls under way")),
    ("enable-grpc-gateway", IgnoredSwitch("the JSON gateway is always served")),
    ("grpc-keepalive-min-time", Ignored(PINGS)),
    ("grpc-keepalive-interval", Ignored(PINGS)),
    ("grpc-keepalive-timeout", Ignored(PINGS)),
    ("socket-reuse-port", IgnoredSwitch("a port that another process has is refused")),
    ("socket-reuse-address", IgnoredSwitch(ALWAYS)),
    // Clustering.
    ("initial-advertise-peer-urls", Value),
    ("initial-cluster", Value),
    ("initial-cluster-state", Value),
    ("initial-cluster-token", Value),
    ("advertise-client-urls", Value),
    ("discovery", Refused(&[], NO_DISCOVERY)),
    ("discovery-srv", Refused(&[], NO_DISCOVERY)),
    ("discovery-token", Refused(&[], NO_DISCOVERY)),
    ("discovery-endpoints", Refused(&[], NO_DISCOVERY)),
    ("discovery-fallback", Ignored(DISCOVERY_ONLY)),
    ("discovery-proxy", Ignored(DISCOVERY_ONLY)),
    ("discovery-srv-name", Ignored(DISCOVERY_ONLY)),
    ("discovery-dial-timeout", Ignored(DISCOVERY_ONLY)),
    ("discovery-request-timeout", Ignored(DISCOVERY_ONLY)),
    ("discovery-keepalive-time", Ignored(DISCOVERY_ONLY)),
    ("discovery-keepalive-timeout", Ignored(DISCOVERY_ONLY)),
    ("discovery-insecure-transport", IgnoredSwitch(DISCOVERY_ONLY)),
    ("discovery-insecure-skip-tls-verify", IgnoredSwitch(DISCOVERY_ONLY)),
    ("discovery-cert", Ignored(DISCOVERY_ONLY)),
    ("discovery-key", Ignored(DISCOVERY_ONLY)),
    ("discovery-cacert", Ignored(DISCOVERY_ONLY)),
    ("discovery-user", Ignored(DISCOVERY_ONLY)),
    ("discovery-password", Ignored(DISCOVERY_ONLY)),
    ("strict-reconfig-check", IgnoredSwitch("a change that would lose the quorum is always refused")),
    ("pre-vote", IgnoredSwitch(ALWAYS)),
    ("auto-compaction-mode", Value),
    ("auto-compaction-retention", Value),
    ("enable-v2", IgnoredSwitch(NO_V2)),
    ("v2-deprecation", Ignored(NO_V2)),
    // Security.
    ("cert-file", Value),
    ("key-file", Value),
    ("client-cert-file", Ignored("the gateway needs no connection to its own port here")),
    ("client-key-file", Ignored("the gateway needs no connection to its own port here")),
    ("client-cert-auth", Switch),
    ("client-crl-file", Value),
    ("client-cert-allowed-hostname", Value),
    ("trusted-ca-file", Value),
    ("auto-tls", RefusedSwitch(AUTO_TLS)),
    ("peer-cert-file", Value),
    ("peer-key-file", Value),
    ("peer-client-cert-file", Value),
    ("peer-client-key-file", Value),
    ("peer-client-cert-auth", Switch),
    ("peer-trusted-ca-file", Value),
    ("peer-cert-allowed-cn", Value),
    ("peer-cert-allowed-hostname", Value),
    ("peer-auto-tls", RefusedSwitch(AUTO_TLS)),
    ("peer-crl-file", Value),
    ("self-signed-cert-validity", Ignored("certificates are not made here")),
    ("cipher-suites", Value),
    ("tls-min-version", Value),
    ("tls-max-version", Value),
    ("cors", Ignored("browsers of other origins are not told that they may call")),
    ("host-whitelist", Ignored("requests are answered whatever host they name")),
    // Auth.
    ("auth-token", Value),
    ("bcrypt-cost", Value),
    ("auth-token-ttl", Value),
    // Profiling and monitoring.
    ("enable-pprof", IgnoredSwitch("profiles of a Go program do not exist here")),
    ("metrics", Ignored("histograms are always among the metrics")),
    ("listen-metrics-urls", Value),
    // Logging.
    ("logger", Ignored(LOG)),
    ("log-outputs", Ignored(LOG)),
    ("log-level", Value),
    ("log-format", Value),
    ("enable-log-rotation", IgnoredSwitch(LOG)),
    ("log-rotation-config-json", Ignored(LOG)),
    ("log-package-levels", Ignored("RUST_LOG sets levels of single modules")),
    ("debug", Switch),
    // v2 proxy.
    ("proxy", Refused(&["off"], "a proxy mode does not exist here")),
    ("proxy-failure-wait", Ignored(PROXY_ONLY)),
    ("proxy-refresh-interval", Ignored(PROXY_ONLY)),
    ("proxy-dial-timeout", Ignored(PROXY_ONLY)),
    ("proxy-write-timeout", Ignored(PROXY_ONLY)),
    ("proxy-read-timeout", Ignored(PROXY_ONLY)),
    // Features; 3.6 has some of the experiments under their plain names.
    ("watch-progress-notify-interval", Value),
    ("experimental-watch-progress-notify-interval", Value),
    ("experimental-initial-corrupt-check", IgnoredSwitch(CHECKS)),
    ("initial-corrupt-check", IgnoredSwitch(CHECKS)),
    ("experimental-corrupt-check-time", Ignored(CHECKS)),
    ("corrupt-check-time", Ignored(CHECKS)),
    ("experimental-compact-hash-check-enabled", IgnoredSwitch(CHECKS)),
    ("experimental-compact-hash-check-time", Ignored(CHECKS)),
    ("compact-hash-check-time", Ignored(CHECKS)),
    ("experimental-enable-v2v3", Refused(&[], NO_V2)),
    (
        "experimental-enable-lease-checkpoint",
        IgnoredSwitch("remaining times always survive a change of leader"),
    ),
    ("experimental-enable-lease-checkpoint-persist", IgnoredSwitch(ALWAYS)),
    ("experimental-peer-skip-client-san-verification", IgnoredSwitch(ALWAYS)),
    ("experimental-enable-distributed-tracing", IgnoredSwitch(TRACING)),
    ("enable-distributed-tracing", IgnoredSwitch(TRACING)),
    ("distributed-tracing-address", Ignored(TRACING)),
    ("distributed-tracing-service-name", Ignored(TRACING)),
    ("distributed-tracing-instance-id", Ignored(TRACING)),
    ("distributed-tracing-sampling-rate", Ignored(TRACING)),
    ("experimental-txn-mode-write-with-shared-buffer", IgnoredSwitch(BACKEND)),
    ("experimental-memory-mlock", IgnoredSwitch(EXPERIMENTAL)),
    ("memory-mlock", IgnoredSwitch(EXPERIMENTAL)),
    ("experimental-stop-grpc-service-on-defrag", IgnoredSwitch("nothing is ever defragmented")),
    ("compaction-batch-limit", Ignored("compaction goes in small slices of its own size")),
    ("compaction-sleep-interval", Ignored("compaction goes in small slices of its own size")),
    ("warning-apply-duration", Ignored("slow requests show in the metrics")),
    ("warning-unary-request-duration", Ignored("slow requests show in the metrics")),
    ("bootstrap-defrag-threshold-megabytes", Ignored("nothing is ever defragmented")),
    ("downgrade-check-time", Ignored("all members run one version's format")),
    ("snapshot-catchup-entries", Ignored("5000 entries are kept for followers that were away")),
    ("feature-gates", Ignored(EXPERIMENTAL)),
    // Unsafe.
    ("force-new-cluster", Switch),
    ("unsafe-no-fsync", RefusedSwitch("what was acknowledged is always on disk")),
];

/// The flag of this name. The experiments of other releases come and go: they are accepted, and change nothing.
pub(super) fn find(name: &str) -> Option<(&'static str, Kind)> {
    FLAGS
        .iter()
        .find(|(flag, _)| *flag == name)
        .copied()
        .or_else(|| name.starts_with("experimental-").then_some(("experimental", Ignored(EXPERIMENTAL))))
}
