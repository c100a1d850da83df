//! The header of every answer.
//!
//! Patroni drops a node whose `raft_term` is lower than one it has seen for the same `cluster_id`, and clients resume
//! watches from `revision`: a header with a part left out is a wrong answer, not a short one. Four shapes exist:
//!
//! | answer | revision | rest |
//! |---|---|---|
//! | range, put, delete, txn, compact, lease, status, watch | the store's, as of the answer | filled |
//! | member list and membership changes | 0 | filled |
//! | an answer inside a transaction | as of that operation | 0 |
//! | a transaction inside a transaction | 0: the header is there and empty | 0 |
//!
//! Sources: etcd, `server/etcdserver/api/v3rpc/header.go`, `member.go`, `server/etcdserver/txn/txn.go`.

use quorate_node::Header;
use quorate_state::Revision;
use quorate_wire::etcdserverpb::ResponseHeader;

/// An answer of this member as of now.
pub(crate) fn full(header: Header) -> ResponseHeader {
    ResponseHeader {
        cluster_id: header.cluster_id,
        member_id: header.member_id,
        revision: header.revision,
        raft_term: header.term,
    }
}

/// An answer that speaks of a given revision: what a command came to, or what a read saw.
pub(crate) fn at(header: Header, revision: Revision) -> ResponseHeader {
    ResponseHeader { revision, ..full(header) }
}

/// An answer of a command, stamped with the larger of two terms: the one that the proposal was answered in, and the
/// one this member knows now. The term never goes backwards on one member, whichever of the two is read late.
pub(crate) fn applied(header: Header, revision: Revision, term: u64) -> ResponseHeader {
    ResponseHeader { raft_term: header.term.max(term), ..at(header, revision) }
}

/// Membership: no key-value state is involved.
pub(crate) fn without_revision(header: Header) -> ResponseHeader {
    at(header, 0)
}

/// Inside a transaction the outer header speaks for the member; only the revision is repeated.
pub(crate) fn nested(revision: Revision) -> ResponseHeader {
    ResponseHeader { cluster_id: 0, member_id: 0, revision, raft_term: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header { cluster_id: 1, member_id: 2, revision: 30, term: 4 };

    #[test]
    fn membership_has_no_revision_but_everything_else() {
        let header = without_revision(HEADER);
        assert_eq!((header.cluster_id, header.member_id, header.revision, header.raft_term), (1, 2, 0, 4));
    }

    #[test]
    fn an_answer_carries_its_own_revision() {
        assert_eq!(at(HEADER, 7).revision, 7);
        assert_eq!(at(HEADER, 7).raft_term, 4);
    }

    #[test]
    fn the_term_is_the_newest_known() {
        assert_eq!(applied(HEADER, 7, 3).raft_term, 4);
        assert_eq!(applied(HEADER, 7, 9).raft_term, 9);
    }
}
