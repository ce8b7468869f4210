//! `--watch`: scripted and random edits against an igraph that stays, compared with fresh processes.

mod cycles;
mod edges;
mod house;
mod random;
