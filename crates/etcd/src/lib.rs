//! quorate-etcd
