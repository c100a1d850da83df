//! Golden scripts: an observation in, a decision out; and a simulation of whole clusters.

mod fuzz;
mod print;
mod scripts;
mod sync_rules;
mod world;
