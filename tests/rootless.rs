//! Builds by users who are not root. The user exists in a mount namespace of the test only: files that are bound over
//! `/etc/passwd`, `/etc/subuid` and `/etc/subgid` name it, and nothing of the machine changes.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use common::user::{CONTAINER, RANGES, as_user};
use common::{Registry, Run, Space, busybox_tar, judge, run, sample, skip_unless};
use rustix::fs::XattrFlags;

/// A user's directory with croze and a base image's tar in it, beside a store of root's.
struct Shop {
    space: Space,
}

impl Shop {
    fn open(test: &str) -> Option<Shop> {
        if !skip_unless(test, &["unshare", "setpriv", "newuidmap", "newgidmap"]) {
            return None;
        }
        let shop = Shop { space: Space::with_busybox() };
        shop.space.write("home/.keep", "");
        for (source, name) in [(env!("CARGO_BIN_EXE_croze"), "croze"), (busybox_tar(), "busybox.tar")] {
            fs::copy(source, shop.space.path(name)).expect("copies");
        }
        run(Command::new("chmod").arg("a+rx").args([".", "croze", "busybox.tar"].map(|name| shop.space.path(name)))).succeeds();
        run(Command::new("chown").args(["-R", "4242:4242"]).arg(shop.space.path("home"))).succeeds();
        Some(shop)
    }

    /// Lets everybody read a directory of the space.
    fn share(&self, name: &str) {
        run(Command::new("chmod").args(["-R", "a+rX"]).arg(self.space.path(name))).succeeds();
    }

    /// Runs a program as the user, after `before` as root.
    fn as_user(&self, ranges: &str, before: &str, arguments: &[&str]) -> Run {
        as_user(&self.space, ranges, before, arguments)
    }

    /// Builds a context as root and as the user; both must give the same image. Returns the user's run.
    #[track_caller]
    fn builds_the_same(&self, context: &str) -> Run {
        let output = |name: &str| format!("type=oci,tar=false,dest={name},rewrite-timestamp=true");
        let mut command = self.space.command(["build", "-o", &output("root-layout"), context]);
        Run::of(command.env("SOURCE_DATE_EPOCH", "86400").output().expect("croze starts")).succeeds();
        self.as_user(RANGES, "", &["/mnt/croze", "import", "/mnt/busybox.tar", "busybox"]).succeeds();
        let built =
            self.as_user(RANGES, "", &["/mnt/croze", "build", "--progress=plain", "-o", &output("/mnt/home/layout"), context]);
        let built = built.succeeds();
        assert_eq!(self.space.read("home/layout/index.json"), self.space.read("root-layout/index.json"));
        judge("skopeo", &["inspect", &format!("oci:{}", self.space.text_path("home/layout"))]);
        built
    }
}

#[test]
fn a_user_builds_roots_image() {
    let Some(shop) = Shop::open("a_user_builds_roots_image") else { return };
    run(Command::new("cp").args(["-r", &sample("multi")]).arg(shop.space.path("sample"))).succeeds();
    shop.share("sample");
    shop.builds_the_same("sample");
    let store = shop.space.path("home/.local/share/croze/version");
    assert!(store.is_file(), "the store is in the user's own directory");
}

#[test]
fn owners_modes_capabilities_and_deletions_are_roots() {
    let Some(shop) = Shop::open("owners_modes_capabilities_and_deletions_are_roots") else { return };
    // an archive with a device and a file capability: cap_net_raw, version 2
    let tree = shop.space.path("tree");
    shop.space.write("tree/bin/ping", "#!/bin/sh\n");
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    rustix::fs::setxattr(tree.join("bin/ping"), "security.capability", &capability, XattrFlags::empty()).expect("root may");
    run(Command::new("mknod").arg(tree.join("null")).args(["c", "1", "3"])).succeeds();
    rustix::fs::setxattr(tree.join("bin"), "user.kind", b"tools", XattrFlags::empty()).expect("root may");
    let tar = ["--xattrs", "--xattrs-include=*", "--mtime=@0", "--owner=7", "--group=8", "-cf"];
    fs::create_dir(shop.space.path("ctx")).expect("a directory");
    run(Command::new("tar").args(tar).arg(shop.space.path("ctx/tools.tar")).arg("-C").arg(&tree).arg(".")).succeeds();
    shop.space.dockerfile(
        r#"FROM busybox
ADD tools.tar /opt/
COPY --chown=1000:2000 --chmod=4711 Dockerfile /a
RUN cp /a /b && chown 3:65534 /b && chmod 6755 /b && ln /b /c && ln -s /nowhere /d && chown -h 9:9 /d && mkfifo /e
RUN mkdir -m 1777 /shared && rm /etc/group && rm -rf /usr && mkdir /usr && touch /usr/new && chown 5 /opt/bin
RUN rm -rf /shared && chown 12 /opt/bin/ping && touch /etc/group
USER 65534
RUN id -u > /tmp/who && umask 077 && mkdir -p /tmp/x/y
"#,
    );
    let built = shop.builds_the_same("ctx");
    assert!(built.count("DONE") > 5, "{}", built.stderr);
}

#[test]
fn a_user_of_one_id_keeps_all_owners_but_those_that_commands_set() {
    let Some(shop) = Shop::open("a_user_of_one_id_keeps_all_owners_but_those_that_commands_set") else { return };
    shop.space.write("ctx/tool", "#!/bin/sh\n").dockerfile(
        r#"FROM busybox
COPY --chown=1000:2000 --chmod=4711 tool /opt/tool
ADD --chown=7:8 tool /srv/x/
USER nobody
RUN --mount=type=cache,target=/c,uid=5 --mount=type=secret,id=s,uid=5 rm /etc/group && chown 5:6 /opt && su -s /bin/sh daemon -c 'echo /etc/*' > /list
RUN [ "$(stat -c %u:%g /opt/tool)" = 0:0 ] && touch /opt/y
"#,
    );
    let output = "type=oci,tar=false,dest=/mnt/home/layout,name=x:1";
    let flags = ["-o", output, "--secret", "id=s,src=ctx/tool", "ctx"];
    shop.as_user("", "", &["/mnt/croze", "import", "/mnt/busybox.tar", "busybox"]).succeeds();
    let built = shop.as_user("", "", &[&["/mnt/croze", "build"], &flags[..]].concat()).succeeds();
    assert!(built.stderr.contains("note: this user has no range in /etc/subuid"), "{}", built.stderr);
    let bundle = shop.space.text_path("bundle");
    judge("umoci", &["unpack", "--image", &format!("{}:1", shop.space.text_path("home/layout")), &bundle]);
    let list = judge("find", &[&format!("{bundle}/rootfs"), "-path", "*/opt*", "-printf", "%P %U:%G %m\n"]);
    let mut entries: Vec<&str> = list.stdout.lines().collect();
    entries.sort_unstable();
    assert_eq!(entries, ["opt 1000:2000 711", "opt/tool 1000:2000 4711", "opt/y 0:0 644"]);
}

#[test]
fn a_missing_mapper_is_named_with_its_package() {
    let Some(shop) = Shop::open("a_missing_mapper_is_named_with_its_package") else { return };
    shop.space.dockerfile("FROM scratch\n");
    let before = "mkdir /mnt/bin; for tool in sh env setpriv; do ln -s \"$(command -v $tool)\" /mnt/bin/; done; PATH=/mnt/bin";
    shop.as_user(RANGES, before, &["/mnt/croze", "build", "ctx"]).fails(
        5,
        "error: `newuidmap` is not installed, which gives a user the ids of `/etc/subuid`\n |\n = help: install the package `uidmap` (`shadow-utils` on Fedora)",
    );
}

#[test]
fn a_range_that_is_not_the_users_is_told_in_the_mappers_words() {
    let Some(shop) = Shop::open("a_range_that_is_not_the_users_is_told_in_the_mappers_words") else { return };
    shop.space.dockerfile("FROM scratch\n");
    let before = "printf '#!/bin/sh\\necho no such luck >&2\\nexit 1\\n' > /mnt/newuidmap; chmod 755 /mnt/newuidmap; \
                  mount --bind /mnt/newuidmap \"$(command -v newuidmap)\"";
    let run = shop.as_user(RANGES, before, &["/mnt/croze", "build", "ctx"]);
    assert_eq!(run.code, Some(5));
    assert!(run.stderr.contains("`newuidmap` does not give user 4242 the ids of `/etc/subuid`: no such luck"), "{}", run.stderr);
}

#[test]
fn a_kernel_without_user_namespaces_is_told_with_its_setting() {
    let Some(shop) = Shop::open("a_kernel_without_user_namespaces_is_told_with_its_setting") else { return };
    shop.space.dockerfile("FROM scratch\n");
    // the limit is one of each user namespace: inside this one it is 0, and the machine's stays
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-ec"]);
    let script = "echo 0 > /proc/sys/user/max_user_namespaces; cd \"$1\"; exec setpriv --bounding-set=-all \"$1/croze\" build --root home/s ctx";
    let run = run(command.args([script, "sh"]).arg(shop.space.path(".")));
    assert_eq!(run.code, Some(5), "{}", run.stderr);
    assert!(run.stderr.contains("sudo sysctl -w user.max_user_namespaces="), "{}", run.stderr);
}

#[test]
fn a_user_sends_and_fetches_images() {
    let Some(shop) = Shop::open("a_user_sends_and_fetches_images") else { return };
    if !skip_unless("a_user_sends_and_fetches_images", &["docker-registry"]) {
        return;
    }
    let registry = Registry::start();
    let name = format!("{}/shop/box:1", registry.host);
    shop.space.dockerfile("FROM busybox\nRUN echo x > /a && chown 33:44 /a && chmod 600 /a\n");
    let croze = |arguments: &[&str]| shop.as_user(RANGES, "", &[&["/mnt/croze"], arguments].concat()).succeeds();
    croze(&["import", "/mnt/busybox.tar", "busybox"]);
    croze(&["build", "-t", &name, "ctx"]);
    let sent = croze(&["push", &name]);
    let fetched = croze(&["pull", "--root", "/mnt/home/other", &name]);
    assert!(sent.stdout.contains(&name), "{}", sent.stdout);
    assert!(fetched.stdout.starts_with("sha256:"), "{}", fetched.stdout);
}

/// As whom croze runs.
#[derive(Debug, Clone, Copy)]
enum Mode {
    Root,
    User,
    RootOfContainer,
}

impl Mode {
    /// Runs croze as this one, in the shop's directory, with a store of the given name.
    #[track_caller]
    fn croze(self, shop: &Shop, store: &str, arguments: &[&str]) -> Run {
        let root = format!("home/{store}");
        let arguments = [arguments, &["--root", &root]].concat();
        let mut command = match self {
            Mode::User => return shop.as_user(RANGES, "", &[&["/mnt/croze"], &arguments[..]].concat()).succeeds(),
            Mode::Root => Command::new(shop.space.path("croze")),
            Mode::RootOfContainer => {
                let mut command = Command::new("setpriv");
                command.args(["--bounding-set", CONTAINER, "--"]).arg(shop.space.path("croze"));
                command
            }
        };
        run(command.args(arguments).current_dir(shop.space.path(".")).env("SOURCE_DATE_EPOCH", "86400")).succeeds()
    }
}

#[test]
fn images_go_out_and_come_back_alike_in_every_mode() {
    let test = "images_go_out_and_come_back_alike_in_every_mode";
    let Some(shop) = Shop::open(test) else { return };
    if !skip_unless(test, &["docker-registry", "skopeo"]) {
        return;
    }
    let registry = Registry::start();
    let name = |of: &str| format!("{}/modes/{of}:1", registry.host);
    shop.space.croze(["tag", "busybox", &name("base")]).succeeds();
    shop.space.croze(["push", &name("base")]).succeeds();
    shop.space.dockerfile(&format!(
        "FROM {}\nRUN echo x > /a && chown 33:44 /a && chmod 4750 /a && ln /a /b && mkfifo /c && rm -r /home\nUSER 5:6\n",
        name("base")
    ));
    shop.share("ctx");
    let mut seen: Vec<[String; 2]> = Vec::new();
    for (mode, of) in [(Mode::Root, "root"), (Mode::User, "user"), (Mode::RootOfContainer, "contained")] {
        let output = format!("type=image,name={},push=true,rewrite-timestamp=true", name(of));
        mode.croze(&shop, &format!("{of}-out"), &["build", "-o", &output, "ctx"]);
        // back into a store that knows nothing of it, where a step looks at it
        let back = format!("{of}-back");
        mode.croze(&shop, &back, &["pull", &name(of)]);
        let look =
            "test ! -e /home && stat -c '%n %F %a %u:%g %h %s' /a /b /c > /tmp/seen && id -u >> /tmp/seen && cat /tmp/seen";
        shop.space.write("look/Dockerfile", format!("FROM {}\nRUN {look}\n", name(of)));
        shop.share("look");
        let looked = mode.croze(&shop, &back, &["build", "--progress=plain", "look"]);
        let told: Vec<&str> = looked.stderr.lines().filter_map(|line| Some(line.split_once(' ')?.1.split_once(' ')?.1)).collect();
        let expected = "/a regular file 4750 33:44 2 2\n/b regular file 4750 33:44 2 2\n/c fifo 644 0:0 1 0\n5";
        assert!(told.join("\n").contains(expected), "{mode:?}: {}", looked.stderr);
        let layout = judge("skopeo", &["inspect", "--tls-verify=false", "--raw", &format!("docker://{}", name(of))]);
        let digest = mode.croze(&shop, &back, &["inspect", "-f", "{{.Id}}", &name(of)]).stdout;
        seen.push([layout.stdout, digest]);
    }
    assert!(seen.iter().all(|one| *one == seen[0]), "{seen:#?}");
}

#[test]
fn the_store_is_readable_without_a_namespace() {
    let Some(shop) = Shop::open("the_store_is_readable_without_a_namespace") else { return };
    shop.as_user(RANGES, "", &["/mnt/croze", "import", "/mnt/busybox.tar", "busybox"]).succeeds();
    let images = shop.as_user("", "", &["/mnt/croze", "images"]).succeeds();
    assert!(images.stdout.contains("busybox:latest"), "{}", images.stdout);
    let mode = fs::metadata(shop.space.path("home/.local/share/croze")).expect("the store").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn root_builds_the_same_image_where_the_store_can_hold_no_overlay() {
    let Some(shop) = Shop::open("root_builds_the_same_image_where_the_store_can_hold_no_overlay") else { return };
    shop.space.write("ctx/tool", "#!/bin/sh\n").write("ctx/secret", "s3cret").dockerfile(
        r#"FROM busybox AS two
RUN mkdir -p /kit/deep && echo one > /kit/one
RUN echo two > /kit/deep/two
FROM busybox
COPY --chown=1000:2000 --chmod=4711 tool /opt/tool
RUN echo x > /a && chown 3:65534 /a && chmod 6755 /a && ln /a /b && ln -s /nowhere /c && mkfifo /d && mknod /null c 1 3
RUN rm /etc/group && rm -rf /usr && mkdir /usr && touch /usr/new && rm /b && mv /opt /moved
RUN --mount=type=cache,target=/root/.cache/x echo kept > /root/.cache/x/f; sleep 1000 & echo done > /e
RUN --mount=type=cache,target=/root/.cache/x --mount=type=secret,id=s --mount=type=tmpfs,target=/var/t \
    --mount=from=two,source=/kit,target=/kit --mount=target=/ctx,rw <<EOT
cat /root/.cache/x/f /run/secrets/s /kit/one /kit/deep/two /ctx/tool > /seen
echo lost | tee /var/t/f > /ctx/tool
cat /proc/self/status | grep CapEff > /capabilities
[ "$(ls -d /proc/[0-9]* | head -1)" = /proc/1 ] && [ $$ = 1 ]
! touch /kit/three 2>/dev/null
EOT
WORKDIR /srv/w
USER 65534
RUN id -u > /tmp/who && echo > /dev/null
"#,
    );
    let layout = |name: &str| format!("type=oci,tar=false,dest={name},rewrite-timestamp=true");
    let secret = ["--secret", "id=s,src=ctx/secret"];
    let mut roots = shop.space.command(["build", "-o", &layout("root-layout"), secret[0], secret[1], "ctx"]);
    Run::of(roots.env("SOURCE_DATE_EPOCH", "86400").output().expect("croze starts")).succeeds();

    // a container's own files are an overlay, and an overlay's changes cannot lie on another one
    let script = "mkdir lower upper work merged; mount -t overlay none -o lowerdir=lower,upperdir=upper,workdir=work merged; \
                  ./croze import busybox.tar busybox; ./croze run busybox cat /etc/passwd; exec ./croze \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-euc", script, "sh", "build", "-o", &layout("inner-layout"), secret[0], secret[1], "ctx"]);
    command.current_dir(shop.space.path(".")).env("SOURCE_DATE_EPOCH", "86400").env("CROZE_ROOT", shop.space.path("merged/s"));
    let built = run(&mut command).succeeds();
    assert!(built.stdout.contains("root:x:0:0"), "{}", built.stdout);
    let notes = built.stderr.matches("commands work on copies of their files, which takes longer").count();
    assert_eq!(notes, 2, "one each for both commands: {}", built.stderr);
    assert_eq!(shop.space.read("inner-layout/index.json"), shop.space.read("root-layout/index.json"));
}

#[test]
fn root_of_an_ordinary_container_builds_roots_image_on_copies() {
    let Some(shop) = Shop::open("root_of_an_ordinary_container_builds_roots_image_on_copies") else { return };
    shop.space.write("ctx/tool", "#!/bin/sh\n").write("ctx/secret", "s3cret").dockerfile(
        r#"FROM busybox
COPY --chown=1000:2000 --chmod=4711 tool /opt/tool
RUN echo x > /a && chown 3:65534 /a && chmod 6755 /a && ln /a /b && ln -s /nowhere /c && mkfifo /d && mkdir -m 1777 /shared
RUN rm /etc/group && rm -rf /usr && mkdir /usr && touch /usr/new && rm /b && mv /opt /moved && rm -rf /shared
RUN --mount=type=cache,target=/root/.cache/x echo kept > /root/.cache/x/f; sleep 1000 & echo done > /e
RUN --mount=type=cache,target=/root/.cache/x --mount=type=secret,id=s --mount=type=tmpfs,target=/var/t <<EOT
cat /root/.cache/x/f /run/secrets/s > /seen
echo lost > /var/t/f
grep -q buildkitsandbox /etc/hosts
EOT
WORKDIR /srv/w
USER 65534
RUN id -u > /tmp/who && touch /dev/null && echo > /dev/null
"#,
    );
    let output = |name: &str| format!("type=oci,tar=false,dest={name},rewrite-timestamp=true");
    let secret = ["--secret", "id=s,src=ctx/secret"];
    let mut roots = shop.space.command(["build", "-o", &output("root-layout"), secret[0], secret[1], "ctx"]);
    Run::of(roots.env("SOURCE_DATE_EPOCH", "86400").output().expect("croze starts")).succeeds();
    let contained = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", CONTAINER, "--"]).arg(shop.space.path("croze")).args(arguments);
        command.current_dir(shop.space.path(".")).env("SOURCE_DATE_EPOCH", "86400").env("CROZE_ROOT", shop.space.path("inner"));
        run(&mut command)
    };
    contained(&["import", "busybox.tar", "busybox"]).succeeds();
    let built = contained(&["build", "-o", &output("inner-layout"), secret[0], secret[1], "ctx"]).succeeds();
    assert!(built.stderr.contains("note: this container allows no namespaces"), "{}", built.stderr);
    assert_eq!(shop.space.read("inner-layout/index.json"), shop.space.read("root-layout/index.json"));
    let again = contained(&["build", "--progress=plain", secret[0], secret[1], "ctx"]).succeeds();
    assert!(again.stderr.contains("all 7 steps cached"), "{}", again.stderr);
}
