//! The protobuf messages and tonic stubs of `proto/`, and nothing else.
//!
//! One module per protobuf package, named as the package's own references expect them (the generated code says
//! `super::mvccpb::KeyValue`). `bytes` fields are [`bytes::Bytes`]: a decoded key or value shares the buffer of
//! the message that brought it. Clients and servers are generated side by side, because the same packages are
//! spoken by the server crates, by `quoratectl` and by the tests.
#![allow(missing_docs, unreachable_pub, clippy::all)]

/// etcd's key-value and event messages.
pub mod mvccpb {
    tonic::include_proto!("mvccpb");
}

/// etcd's permission messages.
pub mod authpb {
    tonic::include_proto!("authpb");
}

/// etcd's v3 services: KV, Watch, Lease, Cluster, Maintenance, Auth.
pub mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}

/// etcd's lock service.
pub mod v3lockpb {
    tonic::include_proto!("v3lockpb");
}

/// etcd's election service.
pub mod v3electionpb {
    tonic::include_proto!("v3electionpb");
}

/// gRPC's health service.
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}

/// Between members: Raft, formation, forwarded requests; and consensus' own records on disk.
pub mod raft {
    tonic::include_proto!("quorate.raft.v1");
}

/// An encoded `google.protobuf.FileDescriptorSet` of all of the above, for what works on messages by their description:
/// the JSON gateway.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
