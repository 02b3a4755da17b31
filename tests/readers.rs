//! What the programs of others find in images that were built here: Docker, containerd and Podman, each with storage of its own,
//! so that nothing of the machine's changes.

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::{Run, Space, judge, run, skip_unless};

/// All kinds of files, and files that a later layer takes away or replaces.
const DOCKERFILE: &str = "FROM busybox\n\
    RUN mkdir -p /made/keep /made/gone && echo one > /made/keep/file && ln /made/keep/file /made/keep/hard && \
        ln -s keep /made/link && chmod 4755 /made/keep/file && chown 5:6 /made && mkfifo /made/pipe && \
        mkdir -m 1777 /made/sticky /made/anew && echo x > /made/anew/old\n\
    RUN rm -r /made/gone /made/anew /home && mkdir /made/anew && echo new > /made/anew/new\n\
    ENV A=1 B=\"two words\"\n\
    USER 5:6\n\
    CMD [\"/bin/sh\", \"-c\", \"true\"]\n";

/// What `/made` is then, as [`listed`] tells it.
const MADE: [&str; 9] = [
    " d 755 5:6",
    "anew d 755 0:0",
    "anew/new f 644 0:0 1 4 ",
    "keep d 755 0:0",
    "keep/file f 4755 0:0 2 4 ",
    "keep/hard f 4755 0:0 2 4 ",
    "link l 777 0:0 1 4 keep",
    "pipe p 644 0:0 1 0 ",
    "sticky d 1777 0:0",
];

fn built() -> Space {
    let space = Space::with_busybox();
    space.dockerfile(DOCKERFILE);
    space
}

/// Writes the image `app:NAME` to an archive of that name; gives the archive's path, and the digests of manifest and config.
fn archive(space: &Space, name: &str, output: &str) -> (String, [String; 2]) {
    let path = space.text_path(&format!("{name}.tar"));
    let tag = format!("app:{name}");
    space.build(&["-t", &tag, "-o", &format!("{output},dest={path}"), "--metadata-file", "metadata.json"]).succeeds();
    let metadata = space.read_json("metadata.json");
    let digest = |key: &str| metadata[key].as_str().expect("a digest").to_owned();
    (path, ["containerimage.digest", "containerimage.config.digest"].map(digest))
}

/// The tree at `root` is the image's.
#[track_caller]
fn check_tree(root: &Path) {
    let made = root.join("made");
    let formats = ["-type", "d", "-printf", "%P %y %m %U:%G\\n", "-o", "-printf", "%P %y %m %U:%G %n %s %l\\n"];
    let listed = run(Command::new("find").arg(&made).args(formats)).succeeds().stdout;
    let mut entries: Vec<&str> = listed.lines().collect();
    entries.sort_unstable();
    assert_eq!(entries, MADE);
    assert_eq!(std::fs::read_to_string(made.join("keep/hard")).expect("there"), "one\n");
    assert!(root.join("bin/busybox").is_file() && !root.join("home").exists());
}

/// dockerd with the containerd that it starts: without a network, in a process and a mount namespace of their own, with whose
/// first process all of them end.
struct Docker {
    child: Child,
    directory: tempfile::TempDir,
}

impl Docker {
    fn start() -> Docker {
        // names of sockets are short
        let directory = tempfile::tempdir().expect("a temporary directory");
        // a containerd or settings of the machine's own would be taken
        let script = "mount -t tmpfs none /run; mkdir -p /etc/docker; mount -t tmpfs none /etc/docker; \
            exec timeout 900 dockerd --host unix://$0/sock --data-root $0/data --exec-root $0/exec --pidfile $0/pid \
            --storage-driver vfs --bridge none --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-ec", script]);
        let mut child = command.arg(directory.path()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
        let mut said = Vec::new();
        let listens = lines.by_ref().inspect(|line| said.push(line.clone())).any(|line| line.contains("API listen on"));
        // somebody must go on reading, or it stops at a full pipe
        std::thread::spawn(move || lines.for_each(drop));
        let docker = Docker { child, directory };
        assert!(listens, "dockerd ended:\n{}", said.join("\n"));
        docker
    }

    fn address(&self) -> String {
        format!("unix://{}/sock", self.directory.path().display())
    }

    #[track_caller]
    fn docker(&self, arguments: &[&str]) -> String {
        run(Command::new("docker").args(["--host", &self.address()]).args(arguments)).succeeds().stdout.trim().to_owned()
    }

    #[track_caller]
    fn ctr(&self, arguments: &[&str]) -> String {
        let socket = self.directory.path().join("exec/containerd/containerd.sock");
        run(Command::new("ctr").arg("--address").arg(socket).args(["--namespace", "croze"]).args(arguments)).succeeds().stdout
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // it may have ended by itself
        let _lost = self.child.kill();
        let _lost = self.child.wait();
    }
}

#[test]
fn docker_and_containerd_read_what_was_built() {
    if !skip_unless("docker_and_containerd_read_what_was_built", &["dockerd", "docker", "ctr", "unshare"]) {
        return;
    }
    let space = built();
    let daemon = Docker::start();
    let check_image = |name: &str, config: &str| {
        assert_eq!(daemon.docker(&["image", "inspect", "--format", "{{.Id}}", name]), config);
        let container = daemon.docker(&["create", name]);
        let (tar, tree) = (space.text_path("files.tar"), space.path("files"));
        daemon.docker(&["export", "--output", &tar, &container]);
        std::fs::create_dir(&tree).expect("creates");
        judge("tar", &["-C", &space.text_path("files"), "-xpf", &tar]);
        check_tree(&tree);
        std::fs::remove_dir_all(tree).expect("removes");
        daemon.docker(&["rm", &container]);
        daemon.docker(&["rmi", name]);
    };
    for (name, output) in [
        ("docker", "type=docker"),
        ("oci", "type=oci"),
        ("plain", "type=oci,compression=uncompressed"),
        ("estargz", "type=oci,compression=estargz"),
        ("zstd", "type=oci,compression=zstd"),
    ] {
        let (archive, [manifest, config]) = archive(&space, name, output);
        let tag = format!("app:{name}");
        // Docker reads zstd since version 23
        if name != "zstd" {
            assert_eq!(daemon.docker(&["load", "--input", &archive]), format!("Loaded image: {tag}"));
            check_image(&tag, &config);
        }
        daemon.ctr(&["images", "import", "--snapshotter", "native", &archive]);
        let name = format!("docker.io/library/{tag}");
        let images = daemon.ctr(&["images", "ls"]);
        assert!(images.contains(&format!("{name} ")) && images.contains(&format!(" {manifest} ")), "{images}");
        // its configs are blobs like any other: what is there is what was built
        assert_eq!(croze::digest::Digest::of(daemon.ctr(&["content", "get", &config]).as_bytes()).to_string(), config);
        let mounted = space.path("mounted");
        std::fs::create_dir(&mounted).expect("creates");
        // `ctr` mounts in its own namespace of mounts: what is looked at there has to be looked at by its side
        let script = "ctr --address $1 --namespace croze images mount --snapshotter native $2 $3 >&2; cp -a $3/. $4";
        let socket = daemon.directory.path().join("exec/containerd/containerd.sock");
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-ec", script, "sh"]).arg(socket).arg(&name).arg(&mounted);
        run(command.arg(space.path("copied"))).succeeds();
        check_tree(&space.path("copied"));
        for directory in ["copied", "mounted"] {
            std::fs::remove_dir_all(space.path(directory)).expect("removes");
        }
    }

    let mut command = space.command(["build", "-t", "app:sent", "--load", "--metadata-file", "metadata.json", "ctx"]);
    let sent = Run::of(command.env("DOCKER_HOST", daemon.address()).output().expect("croze starts")).succeeds();
    assert!(sent.stderr.contains("Loaded image: app:sent"), "{}", sent.stderr);
    let metadata = space.read_json("metadata.json");
    check_image("app:sent", metadata["containerimage.config.digest"].as_str().expect("a digest"));
}

#[test]
fn podman_reads_what_was_built() {
    if !skip_unless("podman_reads_what_was_built", &["podman", "unshare"]) {
        return;
    }
    let space = built();
    let below = tempfile::tempdir().expect("a temporary directory");
    let directory = |name: &str| below.path().join(name).display().to_string();
    let settings =
        format!("[storage]\ndriver = \"vfs\"\ngraphroot = \"{}\"\nrunroot = \"{}\"\n", directory("root"), directory("run"));
    space.write("storage.conf", settings);
    let podman = |arguments: &[&str]| {
        let mut command = Command::new("podman");
        run(command.args(arguments).env("CONTAINERS_STORAGE_CONF", space.path("storage.conf")))
            .succeeds()
            .stdout
            .trim()
            .to_owned()
    };
    let check_image = |name: &str, config: &str| {
        let id = podman(&["image", "inspect", "--format", "{{.Id}} {{.Config.User}} {{.Config.Env}}", name]);
        let config = config.trim_start_matches("sha256:");
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        assert_eq!(id, format!("{config} 5:6 [{path} A=1 B=two words]"));
        check_tree(Path::new(&podman(&["image", "mount", name])));
        podman(&["image", "unmount", name]);
        podman(&["rmi", name]);
    };
    for (name, output) in [
        ("docker", "type=docker"),
        ("oci", "type=oci"),
        ("estargz", "type=oci,compression=estargz"),
        ("zstd", "type=oci,compression=zstd"),
    ] {
        let (archive, [_, config]) = archive(&space, name, output);
        assert_eq!(podman(&["load", "--input", &archive]), format!("Loaded image: docker.io/library/app:{name}"));
        check_image(&format!("app:{name}"), &config);
    }

    // Podman is asked where no Docker answers
    let mut command = space.command(["build", "-t", "app:sent", "--load", "--metadata-file", "metadata.json", "ctx"]);
    command.env("CONTAINERS_STORAGE_CONF", space.path("storage.conf"));
    command.env("DOCKER_HOST", format!("unix://{}", space.text_path("nobody")));
    let sent = Run::of(command.output().expect("croze starts")).succeeds();
    assert!(sent.stderr.contains("Loaded image: docker.io/library/app:sent"), "{}", sent.stderr);
    let metadata = space.read_json("metadata.json");
    check_image("app:sent", metadata["containerimage.config.digest"].as_str().expect("a digest"));
}
