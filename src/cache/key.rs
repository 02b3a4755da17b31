//! What a step's result depends on, as named parts.
//!
//! One function per op writes the parts to a [`KeySink`]; one sink hashes them into a [`CacheKey`], another lists them for
//! people, so the key and its explanation cannot disagree.

use crate::digest::{CacheKey, ContentDigest, DiffId, Digest, Hasher};
use crate::graph::{ExecOp, Mount, MountKind, Network, Security};

/// Takes the parts of a key in a fixed order.
pub trait KeySink {
    /// One named part.
    fn part(&mut self, name: &str, value: &[u8]);
}

/// Hashes the parts.
#[derive(Default)]
pub struct HashSink(Hasher);

impl HashSink {
    /// The key of all parts.
    pub fn finish(self) -> CacheKey {
        CacheKey(self.0.finish())
    }
}

impl KeySink for HashSink {
    fn part(&mut self, name: &str, value: &[u8]) {
        self.0.field(name.as_bytes());
        self.0.field(value);
    }
}

/// Keeps the parts as text.
#[derive(Default, Debug, PartialEq, Eq)]
pub struct ListSink(pub Vec<(String, String)>);

impl KeySink for ListSink {
    fn part(&mut self, name: &str, value: &[u8]) {
        self.0.push((name.to_owned(), String::from_utf8_lossy(value).into_owned()));
    }
}

/// The version of all keys: changing what a key holds changes this.
const VERSION: &[u8] = b"croze-key-1";

/// The parts of a command's key. `parents` is the stack it runs on, bottom first; `mounted` the content of each bind mount's
/// source, in the order of `op.mounts`, `None` for other mounts.
///
/// Not in it, as in BuildKit: proxy variables, addresses of extra hosts, secret values, identity and sharing of cache mounts.
pub fn exec(op: &ExecOp, parents: &[DiffId], mounted: &[Option<ContentDigest>], sink: &mut dyn KeySink) {
    sink.part("op", b"exec");
    sink.part("version", VERSION);
    stack(parents, sink);
    for arg in &op.args {
        sink.part("argument", arg.as_bytes());
    }
    for variable in &op.env {
        sink.part("env", variable.as_bytes());
    }
    sink.part("cwd", op.cwd.as_bytes());
    sink.part("user", op.user.as_bytes());
    sink.part("platform", op.platform.to_string().as_bytes());
    sink.part("network", network(op.network));
    sink.part("security", if op.security == Security::Insecure { b"insecure" } else { b"sandbox" });
    if let Some(hostname) = &op.hostname {
        sink.part("hostname", hostname.as_bytes());
    }
    for (host, _address) in &op.extra_hosts {
        sink.part("extra host", host.as_bytes());
    }
    if let Some(size_bytes) = op.shm_size_bytes {
        sink.part("shm size", &size_bytes.to_le_bytes());
    }
    for (name, soft, hard) in &op.ulimits {
        sink.part("ulimit", format!("{name}={soft}:{hard}").as_bytes());
    }
    if let Some(script) = &op.script {
        sink.part("script name", script.name.as_bytes());
        sink.part("script", script.content.as_bytes());
    }
    for (mount, content) in op.mounts.iter().zip(mounted) {
        self::mount(mount, *content, sink);
    }
}

/// The parts of a `COPY`'s or `WORKDIR`'s key: `decided_by` digests everything that decides the layer, lookups in the parent
/// included, so the stack itself is not in it.
pub fn file(kind: &str, decided_by: &Digest, sink: &mut dyn KeySink) {
    sink.part("op", kind.as_bytes());
    sink.part("version", VERSION);
    sink.part("content", decided_by.as_bytes());
}

/// The key under which a command's result can be adopted: the layers it ran on and what it left there.
pub fn adoption(parents: &[DiffId], content: &[u8]) -> CacheKey {
    let mut sink = HashSink::default();
    sink.part("op", b"adopt");
    sink.part("version", VERSION);
    stack(parents, &mut sink);
    sink.part("content", content);
    sink.finish()
}

fn stack(parents: &[DiffId], sink: &mut dyn KeySink) {
    for diff_id in parents {
        sink.part("layer", diff_id.0.as_bytes());
    }
}

fn mount(mount: &Mount, content: Option<ContentDigest>, sink: &mut dyn KeySink) {
    sink.part("mount", mount.target.as_bytes());
    match &mount.kind {
        MountKind::Bind { writable, .. } => {
            sink.part("bind", if *writable { b"rw" } else { b"ro" });
            if let Some(content) = content {
                sink.part("bind content", content.0.as_bytes());
            }
        }
        MountKind::Cache { .. } => sink.part("cache", b""),
        MountKind::Tmpfs { size_bytes } => sink.part("tmpfs", &size_bytes.unwrap_or(0).to_le_bytes()),
        MountKind::Secret { id, env, file, uid, gid, mode, .. } => {
            sink.part("secret", id.as_bytes());
            sink.part("secret env", env.as_deref().unwrap_or("").as_bytes());
            sink.part("secret file", format!("{file} {uid}:{gid} {mode:o}").as_bytes());
        }
        MountKind::Ssh { id, uid, gid, mode, .. } => {
            sink.part("ssh", id.as_bytes());
            sink.part("ssh socket", format!("{uid}:{gid} {mode:o}").as_bytes());
        }
    }
}

fn network(network: Network) -> &'static [u8] {
    match network {
        Network::Default => b"default",
        Network::None => b"none",
        Network::Host => b"host",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::Platform;

    fn op() -> ExecOp {
        ExecOp {
            args: vec!["/bin/sh".into(), "-c".into(), "make".into()],
            env: vec!["PATH=/bin".into()],
            proxy_env: Vec::new(),
            cwd: "/".into(),
            user: String::new(),
            mounts: Vec::new(),
            network: Network::Default,
            security: Security::Sandbox,
            hostname: None,
            extra_hosts: Vec::new(),
            shm_size_bytes: None,
            ulimits: Vec::new(),
            platform: Platform::host(),
            script: None,
        }
    }

    fn key(op: &ExecOp, parents: &[DiffId]) -> CacheKey {
        let mut sink = HashSink::default();
        exec(op, parents, &vec![None; op.mounts.len()], &mut sink);
        sink.finish()
    }

    #[test]
    fn what_decides_the_result_decides_the_key() {
        let parent = DiffId(Digest::of(b"parent"));
        let changes: Vec<fn(&mut ExecOp)> = vec![
            |op| op.args[2] = "make all".into(),
            |op| op.args = vec!["/bin/sh".into(), "-cmake".into()],
            |op| op.env.push("A=1".into()),
            |op| op.cwd = "/w".into(),
            |op| op.user = "1".into(),
            |op| op.network = Network::None,
            |op| op.security = Security::Insecure,
            |op| op.hostname = Some("h".into()),
            |op| op.extra_hosts.push(("h".into(), "1.2.3.4".into())),
            |op| op.shm_size_bytes = Some(1),
        ];
        let mut keys = vec![key(&op(), &[]), key(&op(), &[parent]), key(&op(), &[parent, parent])];
        for change in changes {
            let mut op = op();
            change(&mut op);
            keys.push(key(&op, &[]));
        }
        let count = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), count);
    }

    #[test]
    fn proxies_and_addresses_do_not_decide() {
        let mut proxied = op();
        proxied.proxy_env.push("HTTP_PROXY=http://a.invalid".into());
        assert_eq!(key(&proxied, &[]), key(&op(), &[]));
        let with_address = |address: &str| ExecOp { extra_hosts: vec![("h".into(), address.into())], ..op() };
        assert_eq!(key(&with_address("1.1.1.1"), &[]), key(&with_address("2.2.2.2"), &[]));
    }

    #[test]
    fn parts_can_be_read() {
        let mut sink = ListSink::default();
        exec(&op(), &[], &[], &mut sink);
        assert!(sink.0.contains(&("argument".to_owned(), "make".to_owned())));
    }
}
