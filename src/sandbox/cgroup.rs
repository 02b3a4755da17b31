//! Control groups: the one that a user names for the steps of a build (`--cgroup-parent`), and one with limits of their own.
//!
//! The launcher moves into it, and with it whatever it starts; what the group limits, it limits for all of them together. In
//! version 2 that is one directory, in version 1 one per controller, beside a version 2 tree that has none (hybrid).
//!
//! Source: Linux `Documentation/admin-guide/cgroup-v2.rst` and `cgroup-v1/`; the meaning of the limits is that of `docker run`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What all commands of a build may use together; `None` is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// `--memory`.
    pub memory_bytes: Option<u64>,
    /// `--memory-swap`.
    pub memory_and_swap: Option<MemoryAndSwap>,
    /// `--cpu-shares`: 1024 is the weight of a group that has no other.
    pub cpu_shares: Option<u64>,
    /// `--cpu-period`, microseconds.
    pub cpu_period_us: Option<u64>,
    /// `--cpu-quota`: microseconds of each period.
    pub cpu_quota_us: Option<u64>,
    /// `--cpuset-cpus`, such as `0-3,7`.
    pub cpuset_cpus: Option<String>,
    /// `--cpuset-mems`.
    pub cpuset_mems: Option<String>,
    /// `--pids-limit`: processes and threads.
    pub pids: Option<u64>,
}

/// How much memory and swap space there is together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryAndSwap {
    /// So many bytes.
    Bytes(u64),
    /// As much as the machine has.
    Unlimited,
}

/// A group that exists for one build. Dropping it removes it, which takes that its processes are gone.
#[derive(Debug)]
pub(super) struct Group {
    directories: Vec<PathBuf>,
}

impl Drop for Group {
    fn drop(&mut self) {
        for directory in &self.directories {
            // somebody else who has moved in keeps it
            let _ = fs::remove_dir(directory);
        }
    }
}

/// Moves the process `pid` into the group `parent`, a path below the root of the hierarchies; the group is made where it is
/// missing.
///
/// # Errors
/// In words: what could not be done, and why. The process may be in the group of some controllers then.
pub(super) fn join(parent: &str, pid: u32) -> Result<(), String> {
    let inside = inside(parent)?;
    let hierarchies = hierarchies()?;
    if hierarchies.is_empty() {
        return Err("no control groups are mounted here".to_owned());
    }
    for Hierarchy { root, .. } in hierarchies {
        let group = root.join(&inside);
        let joined = fs::create_dir_all(&group).and_then(|()| inherit_cpus(&root, &group)).and_then(|()| enter(&group, pid));
        joined.map_err(|error| format!("`{}`: {error}", group.display()))?;
    }
    Ok(())
}

/// Moves the process `pid` into a new group below `parent`, or below the root, that has the limits of `resources`. What cannot
/// be had is told, one line each, and the rest is done.
pub(super) fn limit(resources: &Resources, parent: Option<&str>, pid: u32) -> (Group, Vec<String>) {
    let mut group = Group { directories: Vec::new() };
    let mut missing = Vec::new();
    let (inside, hierarchies) = match parent.map_or(Ok(PathBuf::new()), inside).and_then(|inside| Ok((inside, hierarchies()?))) {
        Ok(found) => found,
        Err(reason) => return (group, vec![format!("the limits of commands have no effect: {reason}")]),
    };
    let name = inside.join(format!("{OWN_GROUP}{pid}"));
    for Wish { flag, controller, v1, v2 } in resources.wishes() {
        let without = |reason: String| format!("`{flag}` has no effect: {reason}");
        let Some(hierarchy) = hierarchies.iter().find(|hierarchy| hierarchy.controllers.iter().any(|known| known == controller))
        else {
            missing.push(without(format!("this machine has no control groups for `{controller}`")));
            continue;
        };
        let directory = hierarchy.root.join(&name);
        let settings = if hierarchy.version == Version::One { v1 } else { v2 };
        let apply = || -> io::Result<()> {
            if !directory.is_dir() {
                sweep(directory.parent().unwrap_or(&hierarchy.root));
                fs::create_dir_all(&directory)?;
            }
            match hierarchy.version {
                Version::One => inherit_cpus(&hierarchy.root, &directory)?,
                Version::Two => pass_down(&hierarchy.root, &directory, controller)?,
            }
            settings.iter().try_for_each(|(file, value)| fs::write(directory.join(file), value))
        };
        let applied = apply();
        if directory.is_dir() && !group.directories.contains(&directory) {
            group.directories.push(directory.clone());
        }
        if let Err(error) = applied {
            missing.push(without(format!("`{}`: {error}", directory.display())));
        }
    }
    for directory in &group.directories {
        if let Err(error) = enter(directory, pid) {
            missing.push(format!("the limits of `{}` have no effect: {error}", directory.display()));
        }
    }
    (group, missing)
}

/// What the names of our groups begin with; the number of the process that they were made for follows.
const OWN_GROUP: &str = "croze-";

/// Removes groups in `parent` whose builds were killed. The kernel keeps those that still have processes.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(OWN_GROUP)?.parse::<u32>().ok());
        // one that is still to be moved into has its process already
        if number.is_some_and(|number| !Path::new(&format!("/proc/{number}")).exists()) {
            let _busy = fs::remove_dir(entry.path());
        }
    }
}

/// One limit, as each version of control groups has it.
struct Wish {
    flag: &'static str,
    controller: &'static str,
    v1: Vec<(&'static str, String)>,
    v2: Vec<(&'static str, String)>,
}

impl Resources {
    /// Whether there is any limit.
    pub fn is_limited(&self) -> bool {
        *self != Resources::default()
    }

    /// In the order in which the kernel takes them: memory before memory with swap.
    fn wishes(&self) -> Vec<Wish> {
        let mut wishes = Vec::new();
        let mut wish = |flag, controller, v1, v2| wishes.push(Wish { flag, controller, v1, v2 });
        if let Some(bytes) = self.memory_bytes {
            let bytes = bytes.to_string();
            wish("--memory", "memory", vec![("memory.limit_in_bytes", bytes.clone())], vec![("memory.max", bytes)]);
        }
        if let Some(both) = self.memory_and_swap {
            let (v1, v2) = match both {
                MemoryAndSwap::Unlimited => ("-1".to_owned(), "max".to_owned()),
                MemoryAndSwap::Bytes(bytes) => {
                    (bytes.to_string(), bytes.saturating_sub(self.memory_bytes.unwrap_or(bytes)).to_string())
                }
            };
            wish("--memory-swap", "memory", vec![("memory.memsw.limit_in_bytes", v1)], vec![("memory.swap.max", v2)]);
        }
        if let Some(shares) = self.cpu_shares {
            // runc's way from 2..262144 to 1..10000
            let weight = 1 + shares.clamp(2, 262_144).saturating_sub(2) * 9999 / 262_142;
            wish("--cpu-shares", "cpu", vec![("cpu.shares", shares.to_string())], vec![("cpu.weight", weight.to_string())]);
        }
        if self.cpu_period_us.is_some() || self.cpu_quota_us.is_some() {
            let flag = if self.cpu_quota_us.is_some() { "--cpu-quota" } else { "--cpu-period" };
            let period = self.cpu_period_us.map(|period| ("cpu.cfs_period_us", period.to_string()));
            let quota = self.cpu_quota_us.map(|quota| ("cpu.cfs_quota_us", quota.to_string()));
            let most = self.cpu_quota_us.map_or("max".to_owned(), |quota| quota.to_string());
            let v2 = vec![("cpu.max", format!("{most} {}", self.cpu_period_us.unwrap_or(100_000)))];
            wish(flag, "cpu", period.into_iter().chain(quota).collect(), v2);
        }
        for (flag, file, list) in
            [("--cpuset-cpus", "cpuset.cpus", &self.cpuset_cpus), ("--cpuset-mems", "cpuset.mems", &self.cpuset_mems)]
        {
            if let Some(list) = list {
                wish(flag, "cpuset", vec![(file, list.clone())], vec![(file, list.clone())]);
            }
        }
        if let Some(most) = self.pids {
            let setting = vec![("pids.max", most.to_string())];
            wish("--pids-limit", "pids", setting.clone(), setting);
        }
        wishes
    }
}

/// The path below a root that `name` means.
fn inside(name: &str) -> Result<PathBuf, String> {
    let parts = || Path::new(name).components();
    let inside: PathBuf = parts().filter(|part| matches!(part, std::path::Component::Normal(_))).collect();
    if inside.as_os_str().is_empty() || parts().any(|part| part == std::path::Component::ParentDir) {
        return Err(format!("`{name}` names no control group"));
    }
    Ok(inside)
}

/// A new group of cpusets (version 1) is empty and takes nobody until it has what its parent has.
fn inherit_cpus(root: &Path, group: &Path) -> io::Result<()> {
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
    Ok(())
}

/// Has each group above `group` pass a controller on to those below it (version 2).
fn pass_down(root: &Path, group: &Path, controller: &str) -> io::Result<()> {
    let above: Vec<&Path> = group.ancestors().skip(1).take_while(|path| path.starts_with(root)).collect();
    for path in above.into_iter().rev() {
        let file = path.join("cgroup.subtree_control");
        if !fs::read_to_string(&file)?.split_whitespace().any(|known| known == controller) {
            fs::write(&file, format!("+{controller}"))?;
        }
    }
    Ok(())
}

fn enter(group: &Path, pid: u32) -> io::Result<()> {
    fs::write(group.join("cgroup.procs"), pid.to_string())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// A tree of groups.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    root: PathBuf,
    version: Version,
    controllers: Vec<String>,
}

fn hierarchies() -> Result<Vec<Hierarchy>, String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(|error| format!("the mounts cannot be read: {error}"))?;
    let mut found = mounted(&mounts);
    for hierarchy in found.iter_mut().filter(|hierarchy| hierarchy.version == Version::Two) {
        let controllers = fs::read_to_string(hierarchy.root.join("cgroup.controllers")).unwrap_or_default();
        hierarchy.controllers = controllers.split_whitespace().map(str::to_owned).collect();
    }
    Ok(found)
}

/// Where hierarchies with processes in them are mounted: `proc_pid_mountinfo(5)`. Those of version 2 tell their controllers
/// themselves.
fn mounted(mountinfo: &str) -> Vec<Hierarchy> {
    let mount = |line: &str| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut words = file_system.split(' ');
        let (kind, options) = (words.next()?, words.nth(1)?);
        // only whole hierarchies: a group of a group is somebody else's
        let mut fields = mount.split(' ');
        let (root, place) = (fields.nth(3)?, fields.next()?);
        let version = match kind {
            "cgroup" => Version::One,
            "cgroup2" => Version::Two,
            _ => return None,
        };
        let controllers = match version {
            Version::One => options.split(',').map(str::to_owned).collect(),
            Version::Two => Vec::new(),
        };
        (root == "/").then(|| Hierarchy { root: PathBuf::from(place), version, controllers })
    };
    let mut found: Vec<Hierarchy> = mountinfo.lines().filter_map(mount).collect();
    found.dedup_by(|one, other| one.root == other.root);
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
                    33 24 0:28 / /proc rw - proc proc rw\n\
                    34 24 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n";
        let found = mounted(text);
        let roots: Vec<&Path> = found.iter().map(|hierarchy| hierarchy.root.as_path()).collect();
        let expected = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/cpu,cpuacct"];
        assert_eq!(roots, expected.map(Path::new));
        assert_eq!(found[2].controllers, ["rw", "cpu", "cpuacct"]);
        assert_eq!((found[0].version, found[1].version), (Version::One, Version::Two));
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for parent in ["", "/", "../x", "a/../../b"] {
            assert!(join(parent, 1).is_err(), "{parent}");
        }
    }

    #[track_caller]
    fn check(resources: Resources, v1: &[(&str, &str)], v2: &[(&str, &str)]) {
        let flat = |settings: Vec<(&'static str, String)>| settings;
        let wishes = resources.wishes();
        let one: Vec<_> = wishes.iter().flat_map(|wish| flat(wish.v1.clone())).collect();
        let two: Vec<_> = wishes.iter().flat_map(|wish| flat(wish.v2.clone())).collect();
        let text = |settings: &[(&'static str, String)]| -> Vec<(String, String)> {
            settings.iter().map(|(file, value)| ((*file).to_owned(), value.clone())).collect()
        };
        let expected = |settings: &[(&str, &str)]| -> Vec<(String, String)> {
            settings.iter().map(|(file, value)| ((*file).to_owned(), (*value).to_owned())).collect()
        };
        assert_eq!((text(&one), text(&two)), (expected(v1), expected(v2)));
    }

    #[test]
    fn limits_are_written_as_each_version_has_them() {
        let memory = Resources { memory_bytes: Some(100), ..Resources::default() };
        check(memory.clone(), &[("memory.limit_in_bytes", "100")], &[("memory.max", "100")]);
        check(
            Resources { memory_and_swap: Some(MemoryAndSwap::Bytes(150)), ..memory.clone() },
            &[("memory.limit_in_bytes", "100"), ("memory.memsw.limit_in_bytes", "150")],
            &[("memory.max", "100"), ("memory.swap.max", "50")],
        );
        check(
            Resources { memory_and_swap: Some(MemoryAndSwap::Unlimited), ..memory },
            &[("memory.limit_in_bytes", "100"), ("memory.memsw.limit_in_bytes", "-1")],
            &[("memory.max", "100"), ("memory.swap.max", "max")],
        );
        let shares = |shares| Resources { cpu_shares: Some(shares), ..Resources::default() };
        check(shares(1024), &[("cpu.shares", "1024")], &[("cpu.weight", "39")]);
        check(shares(2), &[("cpu.shares", "2")], &[("cpu.weight", "1")]);
        check(shares(262_144), &[("cpu.shares", "262144")], &[("cpu.weight", "10000")]);
        check(
            Resources { cpu_quota_us: Some(50_000), ..Resources::default() },
            &[("cpu.cfs_quota_us", "50000")],
            &[("cpu.max", "50000 100000")],
        );
        check(
            Resources { cpu_period_us: Some(20_000), cpu_quota_us: Some(5000), ..Resources::default() },
            &[("cpu.cfs_period_us", "20000"), ("cpu.cfs_quota_us", "5000")],
            &[("cpu.max", "5000 20000")],
        );
        check(Resources { pids: Some(64), ..Resources::default() }, &[("pids.max", "64")], &[("pids.max", "64")]);
        assert!(!Resources::default().is_limited());
    }
}
