//! Commands on copies of their files: where nothing can be mounted, and where the kernel makes no overlay of the store's
//! directories, as it has no overlayfs or as the store lies on an overlay itself (a container's own files).

use std::fs;
use std::path::PathBuf;

use rustix::io::Errno;

use super::attend::Output;
use super::error::WorkError;
use super::exec::Surroundings;
use super::identity::Identity;
use super::mounts::target_kind;
use super::workplace::Workplace;
use crate::diagnostic::with_causes;
use crate::sandbox::{Isolation, Mount, MountKind, Plan, Root, SandboxError, Stage};
use crate::snapshot::flat::copy_into;
use crate::snapshot::{Dir, FileKind, Last, TreePath, View, resolve};
use crate::store::TempDir;

/// What a copy is made of, and where.
pub struct Files<'a> {
    /// Who the command runs as.
    pub identity: &'a Identity,
    /// What it sees.
    pub view: &'a View,
    /// Whose `upper` holds its changes.
    pub temp: &'a TempDir,
    /// The step's.
    pub surroundings: &'a Surroundings<'a>,
}

impl Files<'_> {
    /// Does `work`, which starts the command of `plan`, on overlays if there can be any; else on copies, whose workplace is
    /// returned to be finished. The first step that learns of it says so.
    ///
    /// # Errors
    /// Those of `work`, and of copying.
    pub fn work_on<T>(
        &self,
        plan: &mut Plan,
        mut work: impl FnMut(&Plan) -> Result<T, WorkError>,
    ) -> Result<(T, Option<Workplace>), WorkError> {
        let Surroundings { launcher, fittings, shared, number, .. } = self.surroundings;
        let has_mounts = launcher.isolation() != Isolation::Root;
        if has_mounts && fittings.can_overlay() {
            match work(plan) {
                Err(WorkError::Sandbox(error)) if is_for_lack_of_overlays(&error) => {
                    if fittings.give_up_overlays() {
                        let why = with_causes(&error);
                        let note = format!("commands work on copies of their files, which takes longer: {why}");
                        Output::new(shared, *number).note(note);
                    }
                }
                done => return Ok((done?, None)),
            }
        }
        let workplace = self.copy(plan, has_mounts)?;
        Ok((work(plan)?, Some(workplace)))
    }

    /// Makes the root of `plan` a copy, in the place of the upper directory. Without mounts the copy holds what they would show.
    fn copy(&self, plan: &mut Plan, has_mounts: bool) -> Result<Workplace, WorkError> {
        let upper = self.temp.path.join("upper");
        // the directory of the command may be there already, alone
        fs::remove_dir_all(&upper)
            .and_then(|()| fs::create_dir(&upper))
            .map_err(WorkError::system("create a directory for the step"))?;
        let wanted = std::mem::take(&mut plan.mounts);
        let placed = if has_mounts {
            plan.mounts =
                wanted.into_iter().enumerate().map(|(at, mount)| self.without_overlay(at, mount)).collect::<Result<_, _>>()?;
            plan.mounts.iter().filter_map(mount_point).collect()
        } else {
            wanted
        };
        let workplace = Workplace::make(self.view, upper.clone(), &placed)?;
        workplace.make_cwd(&plan.cwd, self.identity, self.view)?;
        plan.root = Root::Bind { source: upper };
        Ok(workplace)
    }

    /// The same mount, of a copy if it takes an overlay.
    fn without_overlay(&self, number: usize, mount: Mount) -> Result<Mount, WorkError> {
        let kind = match mount.kind {
            MountKind::Overlay { lowers, subpath, writes } if lowers.len() > 1 || writes.is_some() => {
                let directory = self.directory(number)?;
                let view = View::new(lowers)?;
                let from = resolve(&view, &TreePath::clean(subpath.as_bytes()), Last::Follow)?.path;
                let into = Dir::open(&directory).map_err(WorkError::system("open a directory for a mount"))?;
                copy_into(&view, &from, &into, &TreePath::clean(b"data"))?;
                MountKind::Bind { source: directory.join("data"), subpath: String::new(), writable: writes.is_some() }
            }
            kind => kind,
        };
        Ok(Mount { kind, ..mount })
    }

    fn directory(&self, number: usize) -> Result<PathBuf, WorkError> {
        let path = self.temp.path.join(format!("mount-{number}"));
        fs::create_dir(&path).map_err(WorkError::system("create a directory for a mount"))?;
        Ok(path)
    }
}

/// Whether a command could not start because the kernel refused to make an overlay of these directories.
fn is_for_lack_of_overlays(error: &SandboxError) -> bool {
    let SandboxError::Setup { stage: Stage::MountOverlay, source, .. } = error else { return false };
    let refusals = [Errno::INVAL, Errno::NODEV, Errno::OPNOTSUPP, Errno::NOSYS];
    Errno::from_io_error(source).is_some_and(|errno| refusals.contains(&errno))
}

/// What stands in the copy where `mount` will be mounted; nothing where a system mount covers it.
fn mount_point(mount: &Mount) -> Option<Mount> {
    let target = TreePath::clean(mount.target.as_bytes());
    let is_covered = target.components().next().is_some_and(|top| matches!(top, b"dev" | b"proc" | b"sys"));
    let kind = match target_kind(mount) {
        FileKind::Directory => MountKind::Tmpfs { size_bytes: None, mode: 0o755 },
        _ => MountKind::File { content: Vec::new(), uid: 0, gid: 0, mode: 0o644 },
    };
    (!is_covered).then(|| Mount { target: mount.target.clone(), kind })
}
