//! One test for each way out of a build that some builder or runtime has had, and that this one must not have.
//!
//! | known as | what it demands |
//! | --- | --- |
//! | CVE-2019-5736 | no step gets hold of croze's own program to write to it |
//! | CVE-2024-21626 | no descriptor of ours reaches a step, no `WORKDIR` leads to one |
//! | CVE-2024-23651, CVE-2021-30465 | sources and targets of mounts are found inside their trees, whatever somebody puts there |
//! | CVE-2024-23652 | nothing is removed after a step by a path that the step could bend |
//! | CVE-2024-23653 | no way to more rights goes past the entitlements |
//! | CVE-2025-31133, CVE-2025-52565, CVE-2025-52881 | masks and devices come from the machine, not from the image |
//! | devices | their nodes are a step's own; others can be made, and opened by nobody |
//! | CVE-2022-0492 | no mount of control groups, no namespace to make one in |
//! | overlay marks | redirects, opaque marks and whiteouts that an image or archive brings are files like others, or nothing |
//! | CVE-2018-15664, zip slip | links in an image, a context or an archive end inside, to read and to write |
//! | hostile accounts | `/etc/passwd` of an image is text of limited meaning, or nothing |
//!
//! Each goes through the program, and each has something outside that must stay as it is.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use common::user::CONTAINER;
use common::{Run, Space, busybox_tar, run, skip_unless};

/// A space with a directory `outside`, which no build may read or change.
struct Guarded {
    space: Space,
}

impl Guarded {
    fn new() -> Guarded {
        let space = Space::with_busybox();
        space.write("outside/secret", "secret of the machine\n").write("outside/etc/passwd", "spy:x:0:0::/:/bin/sh\n");
        fs::create_dir(space.path("outside/dir")).expect("a directory");
        Guarded { space }
    }

    fn outside(&self) -> String {
        self.space.text_path("outside")
    }

    /// Builds the Dockerfile, in which `OUTSIDE` stands for the directory, to `out`.
    fn build(&self, dockerfile: &str, flags: &[&str]) -> Run {
        self.space.dockerfile(&dockerfile.replace("OUTSIDE", &self.outside()));
        if self.space.path("out").exists() {
            fs::remove_dir_all(self.space.path("out")).expect("removes the former output");
        }
        let run = self.space.build(&[flags, &["--progress=plain", "-o", "out"]].concat());
        self.is_untouched(&run);
        run
    }

    /// The same without an output, for builds whose files nobody asks about.
    fn attempt(&self, dockerfile: &str, flags: &[&str]) -> Run {
        self.space.dockerfile(&dockerfile.replace("OUTSIDE", &self.outside()));
        let run = self.space.build(flags);
        self.is_untouched(&run);
        run
    }

    #[track_caller]
    fn is_untouched(&self, run: &Run) {
        assert_eq!(names(&self.space.path("outside")), ["dir", "etc", "secret"], "{}", run.stderr);
        assert_eq!(names(&self.space.path("outside/etc")), ["passwd"], "{}", run.stderr);
        assert_eq!(names(&self.space.path("outside/dir")), [""; 0], "{}", run.stderr);
        assert_eq!(self.space.read("outside/secret"), "secret of the machine\n");
        assert!(!run.stderr.contains("secret of the machine"), "{}", run.stderr);
        let leaked = self.space.path("out").exists()
            && files(&self.space.path("out"))
                .iter()
                .any(|file| fs::read(file).is_ok_and(|bytes| bytes.starts_with(b"secret of")));
        assert!(!leaked, "the secret is in the image");
    }

    fn read(&self, file: &str) -> String {
        self.space.read(&format!("out/{file}"))
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names
}

/// All regular files below a directory.
fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory").flatten() {
        match entry.file_type().expect("a type") {
            kind if kind.is_dir() => found.extend(files(&entry.path())),
            kind if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    found
}

/// One entry of an archive.
struct Entry<'a> {
    path: &'a str,
    kind: tar::EntryType,
    link: &'a str,
    data: &'a str,
    xattrs: &'a [(&'a str, &'a str)],
}

impl<'a> Entry<'a> {
    fn file(path: &'a str, data: &'a str) -> Entry<'a> {
        Entry { path, kind: tar::EntryType::Regular, link: "", data, xattrs: &[] }
    }

    fn dir(path: &'a str) -> Entry<'a> {
        Entry { path, kind: tar::EntryType::Directory, link: "", data: "", xattrs: &[] }
    }

    fn link(path: &'a str, kind: tar::EntryType, link: &'a str) -> Entry<'a> {
        Entry { path, kind, link, data: "", xattrs: &[] }
    }
}

/// A tar of entries whose names are taken as they are, `..` and leading slashes too.
fn archive(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries {
        let xattrs: Vec<(String, &[u8])> =
            entry.xattrs.iter().map(|(name, value)| (format!("SCHILY.xattr.{name}"), value.as_bytes())).collect();
        if !xattrs.is_empty() {
            builder.append_pax_extensions(xattrs.iter().map(|(name, value)| (name.as_str(), *value))).expect("attributes");
        }
        let mut header = tar::Header::new_gnu();
        let raw = header.as_gnu_mut().expect("a GNU header");
        raw.name[..entry.path.len()].copy_from_slice(entry.path.as_bytes());
        raw.linkname[..entry.link.len()].copy_from_slice(entry.link.as_bytes());
        header.set_entry_type(entry.kind);
        header.set_size(entry.data.len() as u64);
        header.set_mode(if entry.kind == tar::EntryType::Directory { 0o755 } else { 0o644 });
        header.set_mtime(1);
        if entry.kind == tar::EntryType::Char {
            header.set_device_major(0).and_then(|()| header.set_device_minor(0)).expect("numbers");
        }
        header.set_cksum();
        builder.append(&header, entry.data.as_bytes()).expect("an entry");
    }
    builder.into_inner().expect("an archive")
}

#[test]
fn cve_2019_5736_the_program_of_croze_is_not_writable_from_a_step() {
    let guarded = Guarded::new();
    // a copy of our own: others use the original at the same time
    let croze = guarded.space.path("croze");
    fs::copy(env!("CARGO_BIN_EXE_croze"), &croze).expect("a copy");
    let before = fs::read(&croze).expect("the program");
    let build = |dockerfile: &str| {
        guarded.space.dockerfile(dockerfile);
        let mut command = std::process::Command::new(&croze);
        command
            .args(["build", "--progress=plain", "ctx"])
            .current_dir(guarded.space.path("."))
            .env("CROZE_ROOT", guarded.space.path("store"));
        run(&mut command)
    };
    let script = "#!/proc/self/exe\\n";
    for (dockerfile, why) in [
        ("FROM busybox\nRUN [\"/proc/self/exe\"]\n".to_owned(), "cannot execute"),
        ("FROM busybox\nRUN ln -s /proc/self/exe /run-me\nRUN [\"/run-me\"]\n".to_owned(), "cannot execute"),
        // the interpreter of a script is looked up by the kernel: there it is our own program, on a mount that nobody can write
        (format!("FROM busybox\nRUN printf '{script}' > /run-me && chmod +x /run-me\nRUN [\"/run-me\"]\n"), "exit code"),
        ("FROM busybox\nSHELL [\"/proc/self/exe\", \"-c\"]\nRUN true\n".to_owned(), "cannot execute"),
        ("FROM busybox\nRUN for exe in /proc/*/exe; do echo x > $exe; done; exit 9\n".to_owned(), "exit code 9"),
    ] {
        let run = build(&dockerfile);
        assert_eq!(run.code, Some(1), "{}", run.stderr);
        assert!(run.stderr.contains(why), "{}", run.stderr);
        assert!(fs::read(&croze).expect("the program") == before, "the program was changed by {dockerfile}");
    }
}

#[test]
fn cve_2024_21626_no_descriptor_leads_out() {
    let guarded = Guarded::new();
    let run = guarded.build("FROM busybox\nRUN [\"ls\", \"-x\", \"/proc/self/fd\"]\n", &[]).succeeds();
    // the fourth is its own, of the directory that it lists
    let listed = run.stderr.lines().any(|line| line.split_whitespace().skip(2).eq(["0", "1", "2", "3"]));
    assert!(listed, "{}", run.stderr);
    for number in 3..16 {
        for workdir in [format!("/proc/self/fd/{number}"), format!("/proc/1/fd/{number}")] {
            let run = guarded
                .attempt(&format!("FROM busybox\nWORKDIR {workdir}\nRUN cat OUTSIDE/secret ./OUTSIDE/secret; ls ..\n"), &[]);
            assert_ne!(run.code, Some(0), "{workdir}: {}", run.stderr);
        }
    }
    let run = guarded
        .build("FROM busybox\nRUN ln -s /proc/self/cwd /here\nWORKDIR /here/../../..\nRUN pwd > /pwd; cat OUTSIDE/secret\n", &[]);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
}

#[test]
fn cve_2024_23651_sources_and_targets_of_mounts_stay_inside() {
    let guarded = Guarded::new();
    // what is planted in a stage or a cache is followed inside of it
    let planted = "FROM busybox AS planted\nRUN mkdir -p /OUTSIDE/sub && echo mine > /OUTSIDE/secret && ln -s OUTSIDE /absolute && \
                   ln -s ../../../../../../../../OUTSIDE /relative && ln -s /proc/1/root/OUTSIDE /magic && ln -s /proc/self/root/OUTSIDE /self\n";
    for (link, found) in [("absolute", true), ("relative", true), ("magic", false), ("self", false)] {
        let run = guarded.build(
            &format!("{planted}FROM busybox\nRUN --mount=from=planted,source=/{link},target=/m cat /m/secret > /found\n"),
            &[],
        );
        assert_eq!(run.code == Some(0), found, "{link}: {}", run.stderr);
        if found {
            assert_eq!(guarded.read("found"), "mine\n");
        }
    }
    // a target inside a cache that another step has filled with links
    let fill = "FROM busybox\nRUN --mount=type=cache,id=c,target=/c rm -rf /c/*; ln -s OUTSIDE /c/out; ln -s /proc/self/attr /c/attr; ln -s /sys /c/sys\n";
    let run = guarded.build(
        &format!("{fill}RUN --mount=type=cache,id=c,target=/c --mount=type=tmpfs,target=/c/out/dir echo x > /c/out/dir/x\n"),
        &[],
    );
    assert_ne!(run.code, Some(70), "{}", run.stderr);
    for link in ["attr", "sys"] {
        let run = guarded
            .build(&format!("{fill}RUN --mount=type=cache,id=c,target=/c --mount=type=tmpfs,target=/c/{link} true\n"), &[]);
        assert_ne!(run.code, Some(0), "{link}: {}", run.stderr);
    }
    // and while another one swaps a directory for a link, over and over
    let run = guarded.build(
        "FROM busybox AS swaps\n\
         RUN --mount=type=cache,id=race,target=/c for i in $(seq 100); do rm -rf /c/sub; mkdir /c/sub; rm -rf /c/sub; ln -s OUTSIDE /c/sub; done; touch /done\n\
         FROM busybox AS mounts\n\
         RUN --mount=type=cache,id=race,target=/c --mount=type=tmpfs,target=/c/sub/dir touch /c/sub/dir/x /done || touch /done\n\
         FROM busybox\nCOPY --from=swaps /done /swapped\nCOPY --from=mounts /done /mounted\n",
        &[],
    );
    assert_ne!(run.code, Some(70), "{}", run.stderr);
}

#[test]
fn a_link_in_place_of_a_cache_is_no_cache_where_commands_work_on_copies() {
    if !skip_unless("a_link_in_place_of_a_cache_is_no_cache_where_commands_work_on_copies", &["setpriv"]) {
        return;
    }
    let guarded = Guarded::new();
    let contained = |arguments: &[&str]| {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--bounding-set", CONTAINER, "--", env!("CARGO_BIN_EXE_croze")]).args(arguments);
        run(command.current_dir(guarded.space.path(".")).env("CROZE_ROOT", guarded.space.path("inner")))
    };
    contained(&["import", busybox_tar(), "busybox"]).succeeds();
    let mount = "RUN --mount=type=cache,id=c,target=/deep/c";
    for plant in ["rm -rf /deep/c && ln -s OUTSIDE /deep/c", "mv /deep /moved && ln -s OUTSIDE/dir /deep"] {
        guarded.space.dockerfile(&format!("FROM busybox\n{mount} {}\n", plant.replace("OUTSIDE", &guarded.outside())));
        let planted = contained(&["build", "ctx"]);
        assert_ne!(planted.code, Some(70), "{}", planted.stderr);
        guarded.is_untouched(&planted);
        guarded
            .space
            .dockerfile(&format!("FROM busybox\n{mount} cat /deep/c/secret /deep/c/*; rm -rf /deep/c/*; touch /deep/c/x\n"));
        let read = contained(&["build", "--no-cache", "--progress=plain", "ctx"]);
        assert_ne!(read.code, Some(70), "{}", read.stderr);
        guarded.is_untouched(&read);
    }
}

#[test]
fn cve_2024_23652_nothing_is_removed_outside_after_a_step() {
    let guarded = Guarded::new();
    let run = guarded.build(
        "FROM busybox\nRUN --mount=type=tmpfs,target=/stub/dir --mount=type=bind,source=.,target=/other/secret true; \
         mv /stub /moved 2>/dev/null; mv /other /gone 2>/dev/null; rm -rf /etc/hosts /etc/resolv.conf; ln -s OUTSIDE /stub; ln -s OUTSIDE /other; true\n\
         RUN --mount=type=tmpfs,target=/link/dir rm -rf /link; ln -s OUTSIDE /link; true\n",
        &[],
    );
    assert_ne!(run.code, Some(70), "{}", run.stderr);
}

#[test]
fn cve_2024_23653_every_way_to_more_rights_asks_for_the_entitlement() {
    let guarded = Guarded::new();
    let space = &guarded.space;
    let refused = |dockerfile: &str, flags: &[&str]| {
        let run = guarded.build(dockerfile, flags);
        assert_eq!(run.code, Some(4), "{dockerfile}: {}", run.stderr);
        assert!(run.stderr.contains("is not allowed"), "{}", run.stderr);
    };
    refused("FROM busybox\nRUN --security=insecure true\n", &[]);
    refused("FROM busybox\nRUN --security=insecure true\n", &["--allow=network.host"]);
    refused("FROM busybox\nRUN --network=host true\n", &["--allow=security.insecure"]);
    refused("FROM busybox\nRUN true\n", &["--network=host"]);
    // by a base image
    space.dockerfile("FROM busybox\nONBUILD RUN --security=insecure true\nONBUILD RUN --network=host true\n");
    space.build(&["-t", "trap"]).succeeds();
    refused("FROM trap\n", &[]);
    // a mode that nobody knows is no way either
    let run = guarded.build("FROM busybox\nARG mode=insecure\nRUN --security=$mode mount -t tmpfs none /tmp\n", &[]);
    assert_ne!(run.code, Some(0), "{}", run.stderr);
}

#[test]
fn cve_2025_31133_masks_and_devices_are_the_machines() {
    let guarded = Guarded::new();
    let pattern = || fs::read_to_string("/proc/sys/kernel/core_pattern").expect("a setting");
    let before = pattern();
    // the image has links where devices, the console and system directories go
    let run = guarded.build(
        "FROM busybox AS bent\n\
         RUN mkdir -p /new/bin /new/dev/pts && cp /bin/busybox /new/bin/sh && ln -s /proc/sys/kernel/core_pattern /new/dev/null && \
         ln -s /proc/sys/kernel/core_pattern /new/dev/console && ln -s /proc/sysrq-trigger /new/dev/pts/0 && ln -s /proc/sys/kernel/core_pattern /new/dev/ptmx\n\
         FROM scratch AS base\nCOPY --from=bent /new /\n\
         FROM base AS seen\nRUN sh -c 'echo owned > /dev/null; echo owned > /dev/console; echo owned > /proc/sys/kernel/core_pattern; true'; \
         sh -c '[ -c /dev/null ] && [ -c /proc/timer_list ] && [ -c /proc/keys ] && echo masked > /result'\n\
         FROM scratch\nCOPY --from=seen /result /\n",
        &[],
    );
    run.succeeds();
    assert_eq!(guarded.read("result"), "masked\n");
    assert_eq!(pattern(), before);
    // `/proc` and `/dev` as links to elsewhere: followed inside, or refused
    for place in ["proc", "dev", "sys"] {
        let run = guarded.build(
            &format!(
                "FROM busybox AS bent\nRUN mkdir -p /new/bin /new/elsewhere && cp /bin/busybox /new/bin/sh && ln -s /elsewhere /new/{place}\n\
                 FROM scratch AS base\nCOPY --from=bent /new /\nFROM base AS seen\nRUN sh -c 'echo owned > /proc/sys/kernel/core_pattern; true'\n\
                 FROM scratch\nCOPY --from=seen /elsewhere /\n"
            ),
            &[],
        );
        assert_ne!(run.code, Some(70), "{place}: {}", run.stderr);
        assert_eq!(pattern(), before);
    }
}

#[test]
fn the_machines_devices_stay_as_they_are() {
    use std::os::unix::fs::MetadataExt;
    let guarded = Guarded::new();
    let states = || {
        ["null", "zero", "full", "random", "urandom", "tty"].map(|name| {
            let node = fs::metadata(format!("/dev/{name}")).expect("a device");
            (node.mode(), node.uid(), node.gid(), node.rdev())
        })
    };
    let before = states();
    // a mode that is harmless should it arrive: every user keeps every right
    let run = guarded.build(
        "FROM busybox\nRUN for node in /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty; do \
         chmod 0676 $node && chown 0:7 $node && touch -d '2001-01-01 00:00:00' $node && echo $node >> /changed; done; \
         for mask in /proc/keys /proc/timer_list /proc/interrupts; do chmod 0676 $mask 2>/dev/null && echo $mask >> /changed; done; \
         echo x > /dev/null && [ $(head -c 3 /dev/zero | wc -c) = 3 ] && ! echo x > /dev/full && cat /changed\n\
         RUN [ $(stat -c %a:%g /dev/null) = 666:0 ]\n",
        &[],
    );
    run.succeeds();
    assert_eq!(states(), before);
    let nodes = ["null", "zero", "full", "random", "urandom", "tty"].map(|name| format!("/dev/{name}\n"));
    assert_eq!(guarded.read("changed"), nodes.concat());
}

#[test]
fn device_nodes_can_be_made_and_not_opened() {
    let guarded = Guarded::new();
    // block devices of every disk driver that a machine may have, memory, and the kernel's log
    let run = guarded.build(
        "FROM busybox\nRUN --mount=type=cache,target=/c --mount=type=tmpfs,target=/t --mount=type=bind,target=/b,rw \
         for place in / /dev /dev/shm /tmp /c /t /b; do \
         for numbers in 'b 1 0' 'b 7 0' 'b 8 0' 'b 252 0' 'b 253 0' 'b 254 0' 'b 259 0' 'c 1 1' 'c 1 11' 'c 10 229' 'c 10 237'; do \
         rm -f $place/node; mknod $place/node $numbers || continue; \
         if head -c 1 $place/node > /dev/null 2>&1 || (: > $place/node) 2>/dev/null; then echo $place $numbers >> /opened; fi; \
         echo made >> /made; done; rm -f $place/node; done; mknod /kept b 7 0\n\
         RUN [ ! -e /opened ] || { cat /opened; exit 1; }\nRUN [ -b /kept ] && grep -q made /made && ! head -c 1 /kept\n",
        &[],
    );
    run.succeeds();
}

#[test]
fn cve_2022_0492_control_groups_cannot_be_mounted_or_written() {
    let guarded = Guarded::new();
    guarded
        .build(
            "FROM busybox\nRUN mkdir /g; (mount -t cgroup -o memory none /g || mount -t cgroup2 none /g || unshare -UrmC mount -t cgroup none /g || \
             mkdir /sys/fs/cgroup/x || echo 1 > /sys/fs/cgroup/notify_on_release) 2>/dev/null || echo refused > /result\n",
            &[],
        )
        .succeeds();
    assert_eq!(guarded.read("result"), "refused\n");
}

#[test]
fn overlay_marks_of_images_and_archives_mean_nothing() {
    let guarded = Guarded::new();
    let marks: [&[(&str, &str)]; 6] = [
        &[("trusted.overlay.redirect", "/hidden")],
        &[("user.overlay.redirect", "/hidden")],
        &[("trusted.overlay.opaque", "y"), ("user.overlay.opaque", "y")],
        &[("trusted.overlay.metacopy", ""), ("user.overlay.metacopy", "")],
        &[("trusted.overlay.whiteout", "y"), ("user.overlay.whiteout", "y")],
        &[("trusted.overlay.origin", "x"), ("user.overlay.impure", "y")],
    ];
    for xattrs in marks {
        let entries = [
            Entry::dir("hidden/"),
            Entry::file("hidden/word", "hidden\n"),
            Entry { xattrs, ..Entry::dir("shown/") },
            Entry { xattrs, ..Entry::file("shown/file", "of the archive\n") },
        ];
        let archive = archive(&entries);
        guarded.space.write("ctx/marks.tar", &archive).write("marks.tar", &archive);
        // on top of a directory of that name with another file in it
        let run = guarded.build(
            "FROM busybox AS under\nRUN mkdir /shown && echo below > /shown/below\nFROM under\nADD marks.tar /\nRUN cat /shown/* > /all; ls /shown > /names\n",
            &[],
        );
        run.succeeds();
        assert_eq!(
            (guarded.read("all"), guarded.read("names")),
            ("below\nof the archive\n".to_owned(), "below\nfile\n".to_owned()),
            "{xattrs:?}"
        );
        // as a base image
        guarded.space.croze(["import", "marks.tar", "marked"]).succeeds();
        guarded
            .build("FROM marked AS base\nCOPY --from=busybox /bin /bin\nRUN cat /shown/* > /all; ls /shown > /names\n", &[])
            .succeeds();
        assert_eq!(
            (guarded.read("all"), guarded.read("names")),
            ("of the archive\n".to_owned(), "file\n".to_owned()),
            "{xattrs:?}"
        );
    }
    // a whiteout as overlayfs has it
    let bytes = archive(&[Entry::dir("shown/"), Entry::link("shown/below", tar::EntryType::Char, "")]);
    guarded.space.write("ctx/marks.tar", bytes);
    let run = guarded.build("FROM busybox AS under\nRUN mkdir /shown && echo below > /shown/below\nFROM under\nADD marks.tar /\nRUN ls /shown > /names\n", &[]);
    assert_ne!(run.code, Some(70), "{}", run.stderr);
}

#[test]
fn links_of_an_image_end_inside() {
    let guarded = Guarded::new();
    guarded.space.write("ctx/file", "of the context\n").write("ctx/archive.tar", archive(&[Entry::file("unpacked", "x")]));
    let links = "FROM busybox\nRUN ln -s OUTSIDE /absolute; ln -s ../../../../../../../../../..OUTSIDE /relative; ln -s /proc/self/root/OUTSIDE /magic; \
                 mkdir -p /OUTSIDE\n";
    for link in ["absolute", "relative", "magic"] {
        for instruction in [
            "COPY file /LINK/copied",
            "COPY --link file /LINK/linked",
            "COPY file /LINK",
            "ADD archive.tar /LINK/",
            "ADD archive.tar /LINK/deep/er/",
            "WORKDIR /LINK/made",
            "RUN --mount=type=cache,target=/LINK/cache touch /LINK/cache/x",
            "RUN --mount=type=secret,id=s,target=/LINK/secret2 true",
            "RUN --mount=type=bind,source=file,target=/LINK/bound true",
        ] {
            let run =
                guarded.attempt(&format!("{links}{}\n", instruction.replace("LINK", link)), &["--secret", "id=s,src=ctx/file"]);
            assert_ne!(run.code, Some(70), "{instruction}: {}", run.stderr);
        }
        let read = format!("{links}FROM scratch\nCOPY --from=0 /{link}/secret /stolen\n");
        assert_ne!(guarded.build(&read, &[]).code, Some(0), "{link}");
        let all = format!("{links}FROM scratch\nCOPY --from=0 /{link}/ /stolen/\n");
        guarded.build(&all, &[]);
    }
}

#[test]
fn links_of_a_context_end_inside() {
    let guarded = Guarded::new();
    symlink(guarded.outside(), guarded.space.path("ctx-links")).expect("a link");
    fs::create_dir_all(guarded.space.path("ctx")).expect("a directory");
    symlink(guarded.outside(), guarded.space.path("ctx/absolute")).expect("a link");
    symlink("../outside", guarded.space.path("ctx/relative")).expect("a link");
    symlink(format!("{}/secret", guarded.outside()), guarded.space.path("ctx/file")).expect("a link");
    for dockerfile in [
        "FROM scratch\nCOPY absolute/secret /stolen\n",
        "FROM scratch\nCOPY relative/secret /stolen\n",
        "FROM scratch\nCOPY file /stolen\n",
        "FROM scratch\nADD file /stolen\n",
        "FROM scratch\nCOPY ../outside/secret /stolen\n",
        "FROM scratch\nCOPY relative/* /stolen/\n",
        "FROM scratch\nCOPY . /all/\n",
        "FROM busybox\nRUN --mount=type=bind,target=/m cp -rL /m /stolen; true\n",
        "FROM busybox\nRUN --mount=type=bind,source=relative,target=/m cp -rL /m /stolen; true\n",
        "FROM busybox\nRUN --mount=type=bind,source=file,target=/m cp -rL /m /stolen; true\n",
    ] {
        let run = guarded.build(dockerfile, &[]);
        assert_ne!(run.code, Some(70), "{dockerfile}: {}", run.stderr);
    }
    // a Dockerfile that is such a link is the client's own business, an ignore file, too: neither shows its text
}

#[test]
fn archives_do_not_write_through_links() {
    let guarded = Guarded::new();
    let outside = guarded.outside();
    let through = format!("{outside}/pwned");
    let climbing = format!("../../../../../../../../../..{outside}/pwned");
    let secret = format!("{outside}/secret");
    let relative_secret = format!("../../../../../../../../../..{secret}");
    if climbing.len() > 100 || relative_secret.len() > 100 {
        println!("SKIP archives_do_not_write_through_links: the test's own path is too long for a tar's name field");
        return;
    }
    use tar::EntryType::{Link, Symlink};
    let archives: [&[Entry<'_>]; 8] = [
        &[Entry::link("a", Symlink, &outside), Entry::file("a/pwned", "x")],
        &[Entry::link("a", Symlink, &through), Entry::file("a", "x")],
        &[Entry::link("a", Symlink, "/proc/self/root"), Entry::link("b", Symlink, "a"), Entry::file("b/tmp/pwned", "x")],
        &[Entry::file(&climbing, "x")],
        &[Entry::file(&through, "x")],
        &[Entry::link("stolen", Link, &secret)],
        &[Entry::link("stolen", Link, &relative_secret)],
        &[Entry::link("d", Symlink, &outside), Entry::dir("d/"), Entry::file("d/pwned", "x"), Entry::link("e", Link, "d/secret")],
    ];
    for entries in archives {
        let bytes = archive(entries);
        guarded.space.write("ctx/evil.tar", &bytes).write("evil.tar", &bytes);
        let what: Vec<&str> = entries.iter().map(|entry| entry.path).collect();
        for dockerfile in [
            "FROM scratch\nADD evil.tar /\n",
            "FROM busybox\nADD evil.tar /deep/er/\n",
            "FROM busybox\nRUN ln -s OUTSIDE /to\nADD evil.tar /to/\n",
        ] {
            let run = guarded.build(dockerfile, &[]);
            assert_ne!(run.code, Some(70), "{what:?}: {}", run.stderr);
        }
        let run = guarded.space.croze(["import", "evil.tar", "evil"]);
        assert_ne!(run.code, Some(70), "{what:?}: {}", run.stderr);
        guarded.is_untouched(&run);
        if run.code == Some(0) {
            guarded.build("FROM evil\nCOPY --from=busybox /bin/busybox /bin/sh\nRUN echo x > /tmp2; true\n", &[]);
        }
    }
}

#[test]
fn hostile_accounts_are_text_or_nothing() {
    let guarded = Guarded::new();
    let user = |make: &str, user: &str| {
        let dockerfile = format!(
            "FROM busybox AS base\nRUN mkdir -p /etc && rm -rf /etc/passwd /etc/group && {make}\nFROM base\nUSER {user}\nRUN id -u > /tmp/id\n"
        );
        guarded.build(&dockerfile, &[])
    };
    // what is no file within bounds names nobody; above all it ends
    for make in [
        "ln -s OUTSIDE/etc/passwd /etc/passwd",
        "ln -s /proc/1/root/OUTSIDE/etc/passwd /etc/passwd",
        "ln -s /etc/passwd /etc/passwd",
        "mkfifo /etc/passwd",
        "mkdir /etc/passwd",
        "mknod /etc/passwd c 1 5",
        "mknod /etc/passwd c 1 8",
        "dd if=/dev/zero of=/etc/passwd bs=1 count=1 seek=33554432 2>/dev/null",
        "head -c 3000000 /dev/urandom > /etc/passwd",
        "printf 'spy\\n:::::\\nspy:x\\n\\0spy:x:0\\n' > /etc/passwd",
    ] {
        let run = user(make, "spy");
        assert_ne!(run.code, Some(70), "{make}: {}", run.stderr);
        if run.code == Some(0) {
            assert!(make.starts_with("printf"), "{make}: nobody is called spy");
        }
    }
    // numbers that do not fit become nobody's, not root's
    for uid in ["4294967296", "-1", "4294967295", "18446744073709551616", "99999999999999999999"] {
        let run = user(
            &format!(
                "printf 'spy:x:{uid}:{uid}::/:/bin/sh\\n' > /etc/passwd && chmod 1777 /tmp 2>/dev/null || mkdir -m 1777 /tmp"
            ),
            "spy",
        );
        if run.code == Some(0) {
            assert_ne!(guarded.read("tmp/id").trim(), "0", "{uid}");
        }
    }
}
