//! quorate-ha
