//! Builds of the kind that people run: packages from Debian, PyPI and npm on a Debian base, compilers, cache mounts. Each image
//! is judged by `skopeo` and `umoci`, and what it starts is run by an OCI runtime.

#[path = "../common/mod.rs"]
mod common;
mod container;
mod project;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::thread;

use common::user::{RANGES, as_user};
use common::{Run, Space, run, skip_unless};
use container::{FILTER, run_in_container};
use project::{Project, debian_tar};

#[test]
fn a_c_program_and_a_table_of_parallel_stages_meet_in_one_image() {
    let Some(project) = Project::new("compiled", "a_c_program_and_a_table_of_parallel_stages_meet_in_one_image") else { return };
    let image = project.build_image();
    assert_eq!(image.run(), "4 staves, 890 mm on average\n");
    assert_eq!(image.inspected["Labels"]["org.opencontainers.image.title"], "gauge");
    assert_eq!(image.config["config"]["Healthcheck"]["Test"], serde_json::json!(["CMD", "gauge", "--version"]));
    assert_eq!(image.entries("opt/gauge"), ["bin", "share"], "the stage from scratch has two directories");
    assert!(!image.path("usr/bin/gcc").exists(), "the compiler stays in its stage");
    project.second_build_runs_nothing(&image);
}

#[test]
fn an_autotools_project_builds_checks_and_runs() {
    let Some(project) = Project::new("autotools", "an_autotools_project_builds_checks_and_runs") else { return };
    let image = project.build_image();
    assert_eq!(image.run(), "coopers-knot 1.2.0\nevats\npooh\n");
    assert_eq!(image.entries("usr/local/lib"), ["libknot.so", "libknot.so.1", "libknot.so.1.0.0"]);
    assert!(image.path("usr/local/lib/libknot.so").is_symlink());
    project.second_build_runs_nothing(&image);
}

#[test]
fn a_python_project_installs_from_pypi_and_runs() {
    let Some(project) = Project::new("python", "a_python_project_installs_from_pypi_and_runs") else { return };
    let image = project.build_image();
    assert_eq!(image.run(), "<h1>Casks 0.0.0-dev</h1>\n<ul>\n<li>rendered by <em>app</em></li>\n</ul>\n");
    let page = image.path("srv/app/app/page.py").metadata().expect("the page's source is in the image");
    assert_eq!((page.uid(), page.gid()), (10001, 10001));
    let packages = image.entries("var/cache/apt/archives").into_iter().filter(|name| name.ends_with(".deb"));
    assert_eq!(packages.count(), 0, "what a cache mount holds is not in the image");
    assert!(!image.path("tmp/requirements.txt").exists(), "a file mount leaves nothing behind");
    project.second_build_runs_nothing(&image);

    // the test stage runs again and says the same as before, so nothing after it does
    project.append("tests/test_page.py", "\n# a comment\n");
    let third = project.build();
    assert_eq!(third.id, image.id);
    let ran: Vec<&str> = third.steps_that_ran();
    assert_eq!(
        ran,
        [
            "[test 3/4] COPY tests ./tests",
            "[test 4/4] RUN python -m unittest discover --start-directory tests --top-level-directory . && touch /tests-passed"
        ]
    );
}

#[test]
fn a_node_project_installs_by_npm_ci_and_runs() {
    let Some(project) = Project::new("node", "a_node_project_installs_by_npm_ci_and_runs") else { return };
    let image = project.build_image();
    assert_eq!(image.run(), "cooper production: oak is seasoned for 700 days\n");
    assert_eq!(image.entries("usr/src/app/node_modules"), [".package-lock.json", "ms", "picocolors"]);
    assert_eq!(image.config["config"]["StopSignal"], "SIGINT");
    assert!(!image.path("usr/bin/npm").exists(), "npm stays in its stage");
    project.second_build_runs_nothing(&image);
    job_b_finds_what_job_a_downloaded(&project);
}

/// Another machine with an empty store builds the project with other installing commands, which may not ask the network: they find
/// their packages in the cache mount that came along. Only these steps run, and only what lies below them is fetched.
#[track_caller]
fn job_b_finds_what_job_a_downloaded(job_a: &Project) {
    let cache = job_a.text_path("cache");
    job_a.build_with(&["--cache-to", &format!("type=local,dest={cache},mode=max,mounts=/root/.npm")]);
    let job_b = Project::new("node", "job B").expect("job A was built");
    job_b.replace("Dockerfile", "npm ci", "npm ci --offline");
    let build = job_b.build_with(&["--cache-from", &format!("type=local,src={cache}")]);
    let said = &build.run.stderr;
    assert_eq!(said.matches(" added 2 packages").count(), 1, "{said}");
    assert_eq!(said.matches(" added 3 packages").count(), 1, "{said}");
    let ran = build.steps_that_ran();
    assert!(ran.iter().filter(|step| step.contains("npm ci --offline")).count() == 2, "{ran:?}");
    assert!(!ran.iter().any(|step| step.contains("apt-get")), "{ran:?}");
    let fetched = said.lines().find_map(|line| line.split_once(" layers, 1 cache mount, "));
    let (layers, bytes) = fetched.unwrap_or_else(|| panic!("{said}"));
    println!("job B fetched:{} layers and a cache mount, {bytes}", layers.rsplit(' ').next().unwrap_or_default());
}

#[test]
fn packages_of_debian_give_one_image_to_root_to_users_and_in_containers() {
    let test = "packages_of_debian_give_one_image_to_root_to_users_and_in_containers";
    if !skip_unless(test, &["mmdebstrap", "unshare", "setpriv", "newuidmap", "newgidmap", "runc", "crun"]) {
        return;
    }
    if !Path::new(FILTER).exists() {
        println!("SKIP {test}: {FILTER} is not installed");
        return;
    }
    // a set-gid program, a file capability, a group that the installation makes; and what they install works
    let space = packages(
        "python3 gcc openssh-client iputils-ping",
        "echo 'int a(void) { return 42; }' | gcc -x c -c -o /a.o - && python3 -c 'print(6 * 7)'",
    );
    let by_root = || {
        space.croze(["import", "debian.tar", "debian:12"]).succeeds();
        let mut root = space.command(flags("root-layout"));
        Run::of(root.env("SOURCE_DATE_EPOCH", "86400").output().expect("croze starts")).succeeds();
    };
    let by_user = || {
        as_user(&space, RANGES, "", &["/mnt/croze", "import", "debian.tar", "debian:12"]).succeeds();
        let arguments = flags("/mnt/home/layout");
        let arguments: Vec<&str> = ["/mnt/croze"].into_iter().chain(arguments.iter().map(String::as_str)).collect();
        as_user(&space, RANGES, "", &arguments).succeeds();
    };
    let in_container = || {
        let quoted: Vec<String> = flags("inner-layout").iter().map(|flag| format!("'{flag}'")).collect();
        let croze = "cd /mnt; export SOURCE_DATE_EPOCH=86400 CROZE_ROOT=/mnt/inner; ./croze";
        let run = run_in_container(&space, &format!("{croze} import debian.tar debian:12; ./croze {}", quoted.join(" ")));
        let run = run.succeeds();
        assert!(run.stderr.contains("note: this container allows no namespaces"), "{}", run.stderr);
    };
    thread::scope(|scope| {
        for way in [&by_root as &(dyn Fn() + Sync), &by_user, &in_container] {
            scope.spawn(way);
        }
    });
    assert_eq!(space.read("home/layout/index.json"), space.read("root-layout/index.json"), "a user's");
    assert_eq!(space.read("inner-layout/index.json"), space.read("root-layout/index.json"), "a container's");
}

#[test]
fn a_user_of_one_id_installs_packages_of_debian() {
    if !skip_unless("a_user_of_one_id_installs_packages_of_debian", &["mmdebstrap", "unshare", "setpriv"]) {
        return;
    }
    // a user, a group, a set-gid program, a file capability
    let space = packages(
        "openssh-client iputils-ping adduser",
        "adduser --system --group cooper && ssh -V && su cooper -s /bin/sh -c true && getent group _ssh cooper",
    );
    as_user(&space, "", "", &["/mnt/croze", "import", "debian.tar", "debian:12"]).succeeds();
    let arguments = flags("/mnt/home/layout");
    let arguments: Vec<&str> = ["/mnt/croze"].into_iter().chain(arguments.iter().map(String::as_str)).collect();
    let built = as_user(&space, "", "", &arguments).succeeds();
    assert!(built.stderr.contains("note: this user has no range in /etc/subuid"), "{}", built.stderr);
}

/// A space that everybody can read, with a Dockerfile that installs packages on Debian, and croze in it. It removes what differs
/// from run to run for anybody: logs with times, and caches with times and inode numbers.
fn packages(names: &str, and_then: &str) -> Space {
    let space = Space::new();
    space.dockerfile(&format!(
        "FROM debian:12\nRUN apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends {names} \
         && {and_then} && rm -rf /var/log/* /var/cache/ldconfig/aux-cache /var/cache/apt /var/lib/apt/lists\n"
    ));
    space.write("home/.keep", "");
    std::fs::copy(env!("CARGO_BIN_EXE_croze"), space.path("croze")).expect("copies");
    std::fs::copy(debian_tar(), space.path("debian.tar")).expect("copies");
    run(Command::new("chmod").args(["-R", "a+rX"]).arg(space.path("."))).succeeds();
    run(Command::new("chown").args(["-R", "4242:4242"]).arg(space.path("home"))).succeeds();
    space
}

/// Arguments of a build of `ctx` whose image says nothing about when and where it was made.
fn flags(layout: &str) -> Vec<String> {
    let proxies = ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"];
    let values = proxies.iter().filter_map(|name| Some(format!("--build-arg={name}={}", std::env::var(name).ok()?)));
    let output = format!("--output=type=oci,tar=false,dest={layout},rewrite-timestamp=true");
    ["build", "--no-cache"].map(str::to_owned).into_iter().chain(values).chain([output, "ctx".to_owned()]).collect()
}
