//! quorate-pg
