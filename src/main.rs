//! The `croze` program: arguments in, exit code out.

use croze::sandbox;

/// musl's allocator makes threads wait for each other, and maps and unmaps memory at every turn: a walk over a context takes
/// a third longer with it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    // The same program, started again by a build, is what forks its steps.
    if sandbox::is_launcher() {
        return sandbox::launcher_main();
    }
    // The allocator asks for huge pages, and clearing one takes longer than a cached build. Where it cannot be had, no harm.
    let _lost = rustix::thread::disable_transparent_huge_pages(true);
    croze::cli::main()
}
