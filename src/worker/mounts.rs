//! The mounts of a command: where each comes from on this machine, and the mount points that the image lacks.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::agent::{AgentSocket, Behind};
use super::error::WorkError;
use super::{Output, Shared, SshAgent};
use crate::digest::{CacheKey, Digest};
use crate::graph::{ExecOp, Mount, MountKind, Sharing};
use crate::sandbox;
use crate::snapshot::{FileKind, Last, TreePath, View, dir, resolve};
use crate::store::{MountAbout, StepLock, TempDir};

/// Mounts ready for the sandbox, and what must live as long as the command.
#[derive(Default)]
pub struct Mounted {
    /// In order.
    pub mounts: Vec<sandbox::Mount>,
    /// Variables that come from secrets.
    pub env: Vec<String>,
    /// Dropped when the command has ended.
    pub held: Vec<Held>,
}

/// Something that a mount needs while the command runs.
pub enum Held {
    /// Temporary files on disk.
    Temp(TempDir),
    /// The socket of an ssh agent.
    Agent(AgentSocket),
    /// The lock of a cache mount.
    Lock(StepLock),
}

/// The trees that bind mounts read, one per mount of the op, `None` for other kinds: layer directories bottom first.
pub type Trees = Vec<Option<Vec<PathBuf>>>;

/// The names of the directories behind the cache mounts of `op`, whose inputs are `inputs`; `None` for other mounts.
///
/// Owner, mode and seed are part of what a cache is, as in BuildKit: one that starts with another stage's files is another one.
/// A seed from a context counts as the same whatever the context holds.
pub fn cache_names(op: &ExecOp, inputs: &[Output]) -> Vec<Option<Digest>> {
    let name = |mount: &Mount| {
        let MountKind::Cache { id, seed, is_owned, uid, gid, mode, .. } = &mount.kind else { return None };
        let mut name = format!("{id}\0{uid}:{gid}:{mode:o}");
        if *is_owned {
            name.push_str("\0owned");
        }
        if let Some((input, path)) = seed {
            name.push_str(&format!("\0{path}"));
            if let Output::Stack(stack) = &inputs[*input] {
                name.extend(stack.layers().iter().map(|layer| format!("\0{}", layer.diff_id)));
            }
        }
        Some(Digest::of(name.as_bytes()))
    };
    op.mounts.iter().map(name).collect()
}

/// The name of the directory behind a cache mount without a seed whose owner nobody has set on purpose.
pub fn cache_name(about: &MountAbout) -> Digest {
    Digest::of(format!("{}\0{}:{}:{:o}", about.id, about.uid, about.gid, about.mode).as_bytes())
}

/// The cache directories that `op` wants for itself, as keys to lock before it starts; `names` are its [`cache_names`]. In one
/// order for all steps and each once, so that no two steps wait for each other and none for itself.
pub fn locked_caches(op: &ExecOp, names: &[Option<Digest>]) -> BTreeSet<CacheKey> {
    let locked = |mount: &Mount| matches!(mount.kind, MountKind::Cache { sharing: Sharing::Locked, .. });
    let names = op.mounts.iter().zip(names).filter(|(mount, _)| locked(mount)).filter_map(|(_, name)| *name);
    names.map(CacheKey).collect()
}

/// Makes the mounts of `op`, whose [`locked_caches`] the caller holds. Blocks.
pub fn prepare(op: &ExecOp, trees: &Trees, cache_names: &[Option<Digest>], shared: &Shared) -> Result<Mounted, WorkError> {
    let mut mounted = Mounted::default();
    if let Some(script) = &op.script {
        mounted.mounts.push(sandbox::Mount {
            target: format!("/dev/pipes/{}", script.name),
            kind: sandbox::MountKind::File { content: script.content.clone().into_bytes(), uid: 0, gid: 0, mode: 0o755 },
        });
    }
    for ((mount, trees), cache_name) in op.mounts.iter().zip(trees).zip(cache_names) {
        one(mount, trees.as_deref(), *cache_name, shared, &mut mounted)?;
    }
    Ok(mounted)
}

/// Puts mounts in the order in which they are made: sorted by target, so that one may be inside another that was written behind
/// it; of several at one target the last one is meant. Memory on a directory of the image takes over its mode, as runc has it.
pub fn arrange(mounts: &mut Vec<sandbox::Mount>, view: &View) -> Result<(), WorkError> {
    mounts.reverse();
    let mut targets = BTreeSet::new();
    mounts.retain(|mount| targets.insert(mount.target.clone()));
    mounts.sort_by(|left, right| left.target.cmp(&right.target));
    for mount in mounts {
        if let sandbox::MountKind::Tmpfs { mode, .. } = &mut mount.kind
            && let Some(meta) = resolve(view, &TreePath::clean(mount.target.as_bytes()), Last::Follow)?.meta
        {
            *mode = meta.mode & 0o7777;
        }
    }
    Ok(())
}

fn one(
    mount: &Mount,
    trees: Option<&[PathBuf]>,
    cache_name: Option<Digest>,
    shared: &Shared,
    mounted: &mut Mounted,
) -> Result<(), WorkError> {
    let kind = match &mount.kind {
        MountKind::Bind { source, writable, .. } => bind(mount, source, *writable, trees.unwrap_or_default(), shared, mounted)?,
        MountKind::Cache { .. } => cache(mount, cache_name, trees, shared, mounted)?,
        MountKind::Tmpfs { size_bytes } => sandbox::MountKind::Tmpfs { size_bytes: *size_bytes, mode: 0o1777 },
        MountKind::Secret { id, required, env, file, uid, gid, mode } => {
            let Some(value) = secret(id, shared)? else {
                if *required {
                    return Err(WorkError::NotGiven { what: "secret", id: id.clone() });
                }
                // the variable is there, empty; the file is not
                mounted.env.extend(env.as_ref().map(|name| format!("{name}=")));
                return Ok(());
            };
            if let Some(name) = env {
                mounted.env.push(format!("{name}={}", String::from_utf8_lossy(&value)));
            }
            if !file {
                return Ok(());
            }
            sandbox::MountKind::File { content: value, uid: *uid, gid: *gid, mode: *mode }
        }
        MountKind::Ssh { id, required, uid, gid, mode } => {
            let Some(agent) = shared.ssh.iter().find(|agent| agent.id == *id).and_then(SshAgent::socket) else {
                return if *required { Err(WorkError::NotGiven { what: "ssh agent", id: id.clone() }) } else { Ok(()) };
            };
            let temp = shared.store.temp_dir()?;
            let socket = AgentSocket::open(&temp.path, Behind::Agent(agent.to_owned()), (*uid, *gid), *mode);
            let socket = socket.map_err(WorkError::system("make a socket for the ssh agent"))?;
            let source = socket.path.clone();
            mounted.held.push(Held::Agent(socket));
            mounted.held.push(Held::Temp(temp));
            sandbox::MountKind::Bind { source, subpath: String::new(), writable: true }
        }
    };
    mounted.mounts.push(sandbox::Mount { target: mount.target.clone(), kind });
    Ok(())
}

fn bind(
    mount: &Mount,
    source: &str,
    writable: bool,
    trees: &[PathBuf],
    shared: &Shared,
    mounted: &mut Mounted,
) -> Result<sandbox::MountKind, WorkError> {
    let view = View::new(trees.to_vec())?;
    let path = TreePath::clean(source.as_bytes());
    let found = resolve(&view, &path, Last::Follow)?;
    if found.meta.is_none() && !path.is_root() {
        let reason = format!("`{source}` not found in what is mounted");
        return Err(WorkError::Mount { target: mount.target.clone(), reason });
    }
    let temp = shared.store.temp_dir()?;
    let make = |name: &str| -> Result<PathBuf, WorkError> {
        let path = temp.path.join(name);
        std::fs::create_dir(&path).map_err(WorkError::system("create a directory for a mount"))?;
        Ok(path)
    };
    let lowers = if trees.is_empty() { vec![make("empty")?] } else { trees.to_vec() };
    let writes = match writable {
        true => Some(sandbox::Writes { upper: make("upper")?, work: make("work")? }),
        false => None,
    };
    mounted.held.push(Held::Temp(temp));
    Ok(sandbox::MountKind::Overlay { lowers, subpath: source.to_owned(), writes })
}

fn cache(
    mount: &Mount,
    name: Option<Digest>,
    seed_trees: Option<&[PathBuf]>,
    shared: &Shared,
    mounted: &mut Mounted,
) -> Result<sandbox::MountKind, WorkError> {
    let (MountKind::Cache { id, sharing, seed, uid, gid, mode, writable, .. }, Some(mut name)) = (&mount.kind, name) else {
        unreachable!("only cache mounts come here")
    };
    match sharing {
        Sharing::Shared | Sharing::Locked => {}
        Sharing::Private => {
            let mut number = 0;
            loop {
                let own = Digest::of(format!("{name} private {number}").as_bytes());
                if let Some(lock) = shared.store.try_lock_step(&CacheKey(own))? {
                    mounted.held.push(Held::Lock(lock));
                    name = own;
                    break;
                }
                number += 1;
            }
        }
    }
    let data = shared.store.cache_mount_path(&name).join("data");
    if !data.exists() {
        let fresh = shared.store.temp_dir()?;
        let tree = fresh.path.join("data");
        std::fs::create_dir(&tree).map_err(WorkError::system("create a cache mount"))?;
        set_owner_and_mode(&tree, *uid, *gid, *mode)?;
        if let (Some((_, source)), Some(trees)) = (seed, seed_trees) {
            let view = View::new(trees.to_vec())?;
            let source = TreePath::clean(source.as_bytes());
            super::copy::copy_tree(&view, &source, &tree)?;
            // the seed's own directory becomes the cache's
            if let Some(meta) = resolve(&view, &source, Last::Follow)?.meta {
                set_owner_and_mode(&tree, meta.uid, meta.gid, meta.mode)?;
            }
        }
        let about = MountAbout { id: id.clone(), uid: *uid, gid: *gid, mode: *mode };
        shared.store.publish_cache_mount(&name, &tree, &about)?;
    }
    Ok(sandbox::MountKind::Bind { source: data, subpath: String::new(), writable: *writable })
}

fn secret(id: &str, shared: &Shared) -> Result<Option<Vec<u8>>, WorkError> {
    let secret = shared.secrets.iter().find(|secret| secret.id == id);
    secret.map(|secret| secret.value().map_err(WorkError::system("read a secret"))).transpose()
}

fn set_owner_and_mode(path: &Path, uid: u32, gid: u32, mode: u32) -> Result<(), WorkError> {
    let owned = std::fs::File::open(path).and_then(|file| dir::set_owner(file, uid, gid));
    owned.map_err(WorkError::system("set the owner of a mount"))?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
        .map_err(WorkError::system("set the mode of a mount"))
}

/// Why the place of a mount at `target` is not there: it lies in another mount, or where nothing can be made.
pub fn no_mount_point(target: &str, op: &ExecOp) -> WorkError {
    let contains = |outer: &str| target.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'));
    let outer = op.mounts.iter().filter(|mount| contains(&mount.target)).max_by_key(|mount| mount.target.len());
    let (reason, help) = match outer {
        Some(outer) => {
            let at = &outer.target;
            let inside = target[at.len()..].trim_start_matches('/');
            let help = match outer.kind {
                MountKind::Bind { .. } => format!("put `{inside}` into what is mounted at `{at}`, or add `rw` to that mount"),
                _ => format!("put `{inside}` into what is mounted at `{at}`"),
            };
            (format!("what is mounted at `{at}` has no `{inside}`, and it cannot be made there"), Some(help))
        }
        None => ("nothing is there, and nothing can be made there".to_owned(), None),
    };
    WorkError::MountPoint { target: target.to_owned(), reason, help }
}

/// What must be at a mount's target.
pub fn target_kind(mount: &sandbox::Mount) -> FileKind {
    let directory = match &mount.kind {
        sandbox::MountKind::Bind { source, .. } => source.is_dir(),
        sandbox::MountKind::File { .. } => false,
        sandbox::MountKind::Tmpfs { .. } => true,
        sandbox::MountKind::Overlay { lowers, subpath, .. } => {
            let found =
                View::new(lowers.clone()).and_then(|view| resolve(&view, &TreePath::clean(subpath.as_bytes()), Last::Follow));
            found.is_ok_and(|found| found.meta.is_some_and(|meta| meta.kind == FileKind::Directory))
        }
    };
    if directory { FileKind::Directory } else { FileKind::File }
}
