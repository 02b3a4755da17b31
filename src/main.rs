//! The `croze` program: arguments in, exit code out.

fn main() -> std::process::ExitCode {
    croze::cli::main()
}
