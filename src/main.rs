//! The thin binary: hands arguments and environment to the library and exits with its code.

/// A graph is many small pieces, made and dropped by all threads: the system's allocator takes a third of the time for that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    // a sandbox's child must stay single-threaded: nothing else may have happened by then
    if let Some(code) = igraph::engine::embedded::enter_sandbox() {
        return code;
    }
    igraph::cli::main()
}
