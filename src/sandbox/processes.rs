//! How many processes a step may have at once, so that one which forks without end leaves the machine its own.
//!
//! Since Linux 6.14 each namespace of processes has its own `kernel.pid_max`. It costs a write; a control group would cost more
//! than all the rest of a sandbox, as the kernel moves processes into one only after every processor has come to rest.

use std::fs;

/// What Linux machines could do for decades.
const MOST: u32 = 32_768;

/// The most processes and threads of a step; `None` where the kernel has one number for all namespaces.
pub fn most_processes() -> Option<u32> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    if !has_own_numbers(&release) {
        // a write would change the machine's
        return None;
    }
    let machine: u32 = fs::read_to_string("/proc/sys/kernel/pid_max").ok()?.trim().parse().ok()?;
    Some(MOST.min(machine / 2))
}

fn has_own_numbers(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) => (major, minor) >= (6, 14),
        _ => false,
    }
}

/// Sets the limit of the namespace that this process is the first one of.
pub(super) fn limit(most: u32) {
    // a kernel that refuses has no limit, as before
    let _ = fs::write("/proc/sys/kernel/pid_max", most.to_string());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_kernels_with_a_number_for_each_namespace_are_asked() {
        for (release, expected) in [
            ("6.14.0", true),
            ("6.18.44-fc", true),
            ("7.0-rc1", true),
            ("6.13.9", false),
            ("5.15.0-91", false),
            ("x", false),
            ("", false),
        ] {
            assert_eq!(has_own_numbers(release), expected, "{release}");
        }
    }
}
