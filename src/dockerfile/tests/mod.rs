//! The room as a whole, held against fixtures of our own and, where they are there, the shared tables of BuildKit and moby.

mod tables;
