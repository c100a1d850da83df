//! Golden scripts: an observation in, a decision out; and a simulation of whole clusters.

mod print;
mod scripts;
mod sync_rules;
mod world;
