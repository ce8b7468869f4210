pub mod queue;
pub mod retry;
pub mod tested;
