//! `build` and `test`, once or with `--watch`: a loop of cycles, each a look at what counts and, where that finds work, a run.

mod asking;
mod cycles;
mod look;
mod reach;
mod running;

pub use cycles::run;
