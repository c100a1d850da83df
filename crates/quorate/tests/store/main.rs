//! `quorate store` where an `etcd` binary stood: TLS, starting and stopping, and what Prometheus sees. Real processes, Debian's
//! `etcdctl`, `curl` and `prometheus`.

mod authority;
mod cluster;
mod prometheus;
mod starting;
mod tls;
