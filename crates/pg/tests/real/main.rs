//! Does this crate drive real PostgreSQL as its essays claim? One instance, then several. Skips with a line where PostgreSQL is not
//! installed; as root it runs the servers as the user `postgres`.

mod lab;
mod one;
mod three;
