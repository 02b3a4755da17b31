//! Control groups: the one that a user names for the steps of a build (`--cgroup-parent`).
//!
//! The launcher moves into it, and with it whatever it starts; what the group limits, it limits for all of them together. In
//! version 2 that is one directory, in version 1 one per controller, beside a version 2 tree that has none (hybrid).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Moves the process `pid` into the group `parent`, a path below the root of the hierarchies; the group is made where it is
/// missing.
///
/// # Errors
/// In words: what could not be done, and why. The process may be in the group of some controllers then.
pub(super) fn join(parent: &str, pid: u32) -> Result<(), String> {
    let inside: PathBuf = Path::new(parent).components().filter(|part| matches!(part, std::path::Component::Normal(_))).collect();
    if inside.as_os_str().is_empty() || Path::new(parent).components().any(|part| part == std::path::Component::ParentDir) {
        return Err(format!("`{parent}` names no control group"));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(|error| format!("the mounts cannot be read: {error}"))?;
    let roots = hierarchies(&mounts);
    if roots.is_empty() {
        return Err("no control groups are mounted here".to_owned());
    }
    for root in roots {
        let group = root.join(&inside);
        let joined = fs::create_dir_all(&group).and_then(|()| enter(&root, &group, pid));
        joined.map_err(|error| format!("`{}`: {error}", group.display()))?;
    }
    Ok(())
}

fn enter(root: &Path, group: &Path, pid: u32) -> io::Result<()> {
    // a new group of cpusets is empty and takes nobody until it has what its parent has
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let mut at = root.to_owned();
        for part in group.strip_prefix(root).unwrap_or(Path::new("")) {
            let above = at.join(file);
            at.push(part);
            let inherited = fs::read_to_string(&above);
            if let (Ok(inherited), Ok(own)) = (inherited, fs::read_to_string(at.join(file)))
                && own.trim().is_empty()
                && !inherited.trim().is_empty()
            {
                fs::write(at.join(file), inherited.trim())?;
            }
        }
    }
    fs::write(group.join("cgroup.procs"), pid.to_string())
}

/// Where hierarchies with processes in them are mounted: `proc_pid_mountinfo(5)`.
fn hierarchies(mountinfo: &str) -> Vec<PathBuf> {
    let mount = |line: &str| {
        let (mount, file_system) = line.split_once(" - ")?;
        let kind = file_system.split(' ').next()?;
        // only whole hierarchies: a group of a group is somebody else's
        let mut fields = mount.split(' ');
        let (root, place) = (fields.nth(3)?, fields.next()?);
        (matches!(kind, "cgroup" | "cgroup2") && root == "/").then(|| PathBuf::from(place))
    };
    let mut found: Vec<PathBuf> = mountinfo.lines().filter_map(mount).collect();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_both_versions_are_found() {
        let text = "30 24 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                    31 24 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                    32 24 0:26 /docker/x /mnt rw - cgroup cgroup rw,memory\n\
                    33 24 0:28 / /proc rw - proc proc rw\n";
        assert_eq!(hierarchies(text), [Path::new("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup/unified")]);
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for parent in ["", "/", "../x", "a/../../b"] {
            assert!(join(parent, 1).is_err(), "{parent}");
        }
    }
}
