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

/// The parts that are no text.
const BINARY: &[&str] = &["layers", "content", "bind content", "cache seed", "secret value", "tmpfs"];

/// Keeps the parts as text, those that are none as hexadecimal digits.
#[derive(Default, Debug, PartialEq, Eq)]
pub struct ListSink(pub Vec<(String, String)>);

impl KeySink for ListSink {
    fn part(&mut self, name: &str, value: &[u8]) {
        let text = match std::str::from_utf8(value) {
            // a digest or a number may happen to be text
            Ok(text) if !BINARY.contains(&name) => text.to_owned(),
            _ => value.iter().map(|byte| format!("{byte:02x}")).collect(),
        };
        self.0.push((name.to_owned(), text));
    }
}

/// The version of all keys: changing what a key holds changes this.
pub const VERSION: &[u8] = b"croze-key-2";

/// The parts of a command's key. `parents` is the stack it runs on, bottom first; `mounted` the content of each bind mount's
/// source and of what a cache mount begins with, in the order of `op.mounts`, the keyed digest of a secret that is to take part,
/// `None` for other mounts.
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
        sink.part("shm size", size_bytes.to_string().as_bytes());
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

/// Names what is remembered of the command with this key: the key under which its result can be adopted, see [`adoption`].
pub fn adoption_of(command: &CacheKey) -> CacheKey {
    let mut sink = HashSink::default();
    sink.part("op", b"adoption of");
    sink.part("version", VERSION);
    sink.part("command", command.0.as_bytes());
    sink.finish()
}

fn stack(parents: &[DiffId], sink: &mut dyn KeySink) {
    // one part: the last of a hundred steps has a hundred layers below it
    let layers: Vec<u8> = parents.iter().flat_map(|diff_id| diff_id.0.as_bytes()).copied().collect();
    sink.part("layers", &layers);
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
        MountKind::Cache { .. } => {
            sink.part("cache", b"");
            if let Some(content) = content {
                sink.part("cache seed", content.0.as_bytes());
            }
        }
        MountKind::Tmpfs { size_bytes } => sink.part("tmpfs", &size_bytes.unwrap_or(0).to_le_bytes()),
        MountKind::Secret { id, required, env, file, uid, gid, mode } => {
            sink.part("secret", id.as_bytes());
            sink.part("secret env", env.as_deref().unwrap_or("").as_bytes());
            sink.part("secret file", format!("{file} {uid}:{gid} {mode:o}").as_bytes());
            if let Some(content) = content {
                sink.part("secret value", content.0.as_bytes());
            }
            required.then(|| sink.part("secret required", b""));
        }
        MountKind::Ssh { id, required, uid, gid, mode } => {
            sink.part("ssh", id.as_bytes());
            sink.part("ssh socket", format!("{uid}:{gid} {mode:o}").as_bytes());
            // a command that ran without is no answer to one that must not
            required.then(|| sink.part("ssh required", b""));
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
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::graph::{InlineFile, Sharing};
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

    /// The op without what its key leaves out.
    fn decisive(op: &ExecOp) -> ExecOp {
        let mut op = op.clone();
        op.proxy_env.clear();
        op.extra_hosts.iter_mut().for_each(|(_, address)| address.clear());
        for mount in &mut op.mounts {
            match &mut mount.kind {
                // its content is a part of the key by itself
                MountKind::Bind { input, source, .. } => (*input, *source) = (0, String::new()),
                kind @ MountKind::Cache { .. } => *kind = cache("", Sharing::Shared, 0),
                MountKind::Secret { .. } | MountKind::Ssh { .. } | MountKind::Tmpfs { .. } => {}
            }
        }
        op
    }

    fn cache(id: &str, sharing: Sharing, uid: u32) -> MountKind {
        MountKind::Cache { id: id.into(), sharing, seed: None, is_owned: false, uid, gid: 0, mode: 0o755, writable: true }
    }

    fn mounts() -> impl Strategy<Value = Mount> {
        let bind =
            (0..2_usize, "[ab]", any::<bool>()).prop_map(|(input, source, writable)| MountKind::Bind { input, source, writable });
        let secret =
            (any::<bool>(), proptest::option::of("[AB]"), any::<bool>(), 0..2_u32).prop_map(|(required, env, file, uid)| {
                MountKind::Secret { id: "id".into(), required, env, file, uid, gid: 0, mode: 0o400 }
            });
        let kinds = prop_oneof![
            bind,
            ("[ab]", 0..2_u32).prop_map(|(id, uid)| cache(&id, Sharing::Locked, uid)),
            (1..3_u64).prop_map(|size_bytes| MountKind::Tmpfs { size_bytes: Some(size_bytes) }),
            secret,
            (any::<bool>(), 0..2_u32).prop_map(|(required, mode)| MountKind::Ssh {
                id: "id".into(),
                required,
                uid: 0,
                gid: 0,
                mode
            }),
        ];
        ("/[ab]", kinds).prop_map(|(target, kind)| Mount { target, kind })
    }

    /// Ops that are often equal in all but one part, with words that could be taken for each other if they were just put
    /// together.
    fn ops() -> impl Strategy<Value = ExecOp> {
        let words = || vec("[ab]{0,2}", 0..3);
        let pairs = vec(("[ab]", "[12]"), 0..2);
        let limits = vec(("[ab]", 0..2_u64, 0..2_u64), 0..2);
        let plain = (words(), words(), words(), "[ab]?", "[ab]?", proptest::option::of("[ab]"), pairs, limits);
        (plain, vec(mounts(), 0..3), any::<bool>(), proptest::option::of("[ab]{0,2}")).prop_map(
            |((args, env, proxy_env, cwd, user, hostname, extra_hosts, ulimits), mounts, host, script)| ExecOp {
                args,
                env,
                proxy_env,
                cwd,
                user,
                hostname,
                extra_hosts,
                ulimits,
                mounts,
                network: if host { Network::Host } else { Network::Default },
                script: script.map(|content| InlineFile { name: "EOT".into(), content }),
                ..op()
            },
        )
    }

    /// One op and another, which differs in one part only half of the time.
    fn pairs() -> impl Strategy<Value = (ExecOp, ExecOp)> {
        (ops(), ops(), 0..12_usize).prop_map(|(first, other, part)| {
            let mut second = first.clone();
            let ExecOp { args, env, proxy_env, cwd, user, hostname, extra_hosts, ulimits, mounts, network, script, .. } = other;
            match part {
                0 => second.args = args,
                1 => second.env = env,
                2 => second.proxy_env = proxy_env,
                3 => second.cwd = cwd,
                4 => second.user = user,
                5 => second.hostname = hostname,
                6 => second.extra_hosts = extra_hosts,
                7 => second.ulimits = ulimits,
                8 => second.mounts = mounts,
                9 => second.network = network,
                10 => second.script = script,
                _ => second.mounts.reverse(),
            }
            (first, second)
        })
    }

    proptest::proptest! {
        #[test]
        fn keys_are_equal_exactly_when_all_that_decides_is((first, second) in pairs(), parents in vec(0..2_u8, 0..3)) {
            let parents: Vec<DiffId> = parents.iter().map(|number| DiffId(Digest::of(&[*number]))).collect();
            prop_assert_eq!(key(&first, &parents) == key(&second, &parents), decisive(&first) == decisive(&second));
        }

        #[test]
        fn the_listed_parts_tell_all_that_the_hashed_ones_do((first, second) in pairs()) {
            let parts = |op: &ExecOp| {
                let mut sink = ListSink::default();
                exec(op, &[], &vec![None; op.mounts.len()], &mut sink);
                sink
            };
            prop_assert_eq!(key(&first, &[]) == key(&second, &[]), parts(&first) == parts(&second));
        }
    }
}
