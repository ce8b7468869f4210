//! The thin binary: hands arguments and environment to the library and exits with its code.

fn main() -> std::process::ExitCode {
    igraph::cli::main()
}
