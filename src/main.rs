//! The thin binary: hands arguments and environment to the library and exits with its code.

/// A graph is many small pieces, made and dropped by all threads: the system's allocator takes a third of the time for that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    igraph::cli::main()
}
