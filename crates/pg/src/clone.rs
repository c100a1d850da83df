//! Clone.
/// How far a clone is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes on disk here.
    pub done_bytes: u64,
    /// Bytes expected, as estimated by the source; None until known.
    pub total_bytes: Option<u64>,
}
