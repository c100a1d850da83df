//! quorate-agent
