//! The `croze` program: arguments in, exit code out.

use croze::sandbox;

fn main() -> std::process::ExitCode {
    // The same program, started again by a build, is what forks its steps.
    if sandbox::is_launcher() {
        return sandbox::launcher_main();
    }
    croze::cli::main()
}
