//! Builds of the kind that people run: packages from Debian, PyPI and npm on a Debian base, compilers, cache mounts. Each image
//! is judged by `skopeo` and `umoci`, and what it starts is run by an OCI runtime.

#[path = "../common/mod.rs"]
mod common;
mod project;

use std::os::unix::fs::MetadataExt;

use project::Project;

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
}
