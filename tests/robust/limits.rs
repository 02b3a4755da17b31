//! Limits of time and further attempts: flags for all commands, comments for one.

use super::all_end;
use super::common::Space;

#[test]
fn a_command_that_takes_too_long_is_ended_with_all_it_started() {
    let space = Space::with_busybox();
    let mark = format!("{}", 88_000 + std::process::id() % 1000);
    space.dockerfile(&format!("FROM busybox\nRUN echo before; sleep {mark}1 & sleep {mark}2; true\n"));
    space.build(&["--step-timeout", "3s"]).fails(
        1,
        &format!(
            "error: `RUN` took longer than 3s and was ended\n \
             --> Dockerfile:2:1\n  |\n\
             2 | RUN echo before; sleep {mark}1 & sleep {mark}2; true\n  \
             | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^\n  |\n  \
             = note: what ran then:\n          \
             1 /bin/sh -c echo before; sleep {mark}1 & sleep {mark}2; true\n            \
             2 sleep {mark}1\n            \
             3 sleep {mark}2\n  \
             = note: the last lines of its output:\n          \
             before\n  \
             = help: if it needs more time, raise `--step-timeout`, or write `# croze:timeout=TIME` above the instruction"
        ),
    );
    all_end(&format!("sleep {mark}"));
    // nothing of it is left in the store
    space.dockerfile("FROM busybox\nRUN echo works > /works\n");
    space.build(&["--step-timeout", "1h"]).succeeds();
}

#[test]
fn a_comment_counts_more_than_a_flag() {
    let space = Space::with_busybox();
    space.dockerfile("FROM busybox\n# croze:no-output-timeout=1s\n# why: it hangs at times\nRUN sleep 600\n");
    space.build(&["--no-output-timeout", "1h"]).fails(
        1,
        "error: `RUN` printed nothing for 1s and was ended\n \
         --> Dockerfile:4:1\n  |\n\
         4 | RUN sleep 600\n  \
         | ^^^^^^^^^^^^^\n  |\n  \
         = note: what ran then:\n          \
         1 sleep 600\n  \
         = note: it had printed nothing\n  \
         = help: if it needs more time, raise `--no-output-timeout`, or write `# croze:no-output-timeout=TIME` above the \
         instruction",
    );
    space.dockerfile("FROM busybox\n# croze:timeout=0\nRUN sleep 0.3; echo works > /works\n");
    space.build(&["--step-timeout", "100ms"]).succeeds();
}

#[test]
fn a_command_that_goes_on_printing_is_not_silent() {
    let space = Space::with_busybox();
    space.dockerfile("FROM busybox\nRUN for i in $(seq 8); do echo $i; sleep 0.5; done\n");
    space.build(&["--no-output-timeout", "3s"]).succeeds();
}

#[test]
fn arguments_of_a_command_with_secrets_are_not_shown() {
    let space = Space::with_busybox();
    space.write("token", "86396").dockerfile("FROM busybox\nRUN --mount=type=secret,id=token,env=TOKEN sleep $TOKEN\n");
    let run = space.build(&["--secret", "id=token,src=token", "--step-timeout", "1s"]);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stderr.contains("1 sleep\n"), "{}", run.stderr);
    assert!(!run.stderr.contains("86396"), "{}", run.stderr);
}

/// A command that fails twice with this message, and what it has counted.
fn fails_twice(message: &str) -> String {
    format!(
        "FROM busybox\nRUN --mount=type=cache,target=/count echo attempt >> /count/log; cp /count/log /log; touch /left-$(wc -l < /log); \
         [ $(wc -l < /log) -gt 2 ] || {{ echo '{message}' >&2; exit 7; }}\n"
    )
}

#[test]
fn a_command_that_the_network_failed_is_tried_again() {
    let space = Space::with_busybox();
    space.dockerfile(&fails_twice("wget: bad address"));
    let run = space.build(&["--progress=plain", "--retry-run", "2", "-o", "type=local,dest=out"]).succeeds();
    for number in [1, 2] {
        let note = format!("attempt {number} of 3 failed (exit code 7: `wget: bad address`); trying again\n");
        assert!(run.stderr.contains(&note), "{}", run.stderr);
    }
    assert_eq!(space.read("out/log").lines().count(), 3);
    // each attempt begins with the files that the first one had
    assert!(space.path("out/left-3").exists() && !space.path("out/left-1").exists());
}

#[test]
fn other_failures_are_tried_again_on_request() {
    let space = Space::with_busybox();
    space.dockerfile(&fails_twice("broken"));
    let run = space.build(&["--retry-run", "5"]);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    let run = space.build(&["--retry-run", "5:any"]).succeeds();
    assert_eq!(run.stderr.matches("trying again").count(), 1, "{}", run.stderr);
    let space = Space::with_busybox();
    space.dockerfile(&fails_twice("broken").replace("RUN", "# croze:retry=1:any\nRUN"));
    let run = space.build(&["--retry-run", "5:any"]);
    assert_eq!((run.code, run.stderr.matches("trying again").count()), (Some(1), 1), "{}", run.stderr);
}

#[test]
fn comments_that_say_nothing_are_told() {
    let space = Space::with_busybox();
    space.dockerfile("FROM busybox\n# croze:timeout=soon\nRUN true\n");
    space.build(&[]).fails(
        2,
        "error: invalid value for `croze:timeout`: `soon` is no duration such as `90s` or `1h30m`\n \
         --> Dockerfile:2:3\n  |\n\
         2 | # croze:timeout=soon\n  \
         |   ^^^^^^^^^^^^^^^^^^",
    );
    space.dockerfile("FROM busybox\n# croze:timeout=5s\nCOPY Dockerfile /\n# croze:timout=5s\nRUN true\n");
    let run = space.build(&[]).succeeds();
    assert!(run.stderr.contains("`# croze:timeout=5s` has an effect above `RUN` only"), "{}", run.stderr);
    assert!(run.stderr.contains("`croze:timout` means nothing"), "{}", run.stderr);
    space.build(&["--step-timeout", "5", "--retry-run", "many"]).fails(
        2,
        "error: invalid value for `--step-timeout`: `5` is no duration such as `90s` or `1h30m`\n\
         error: invalid value for `--retry-run`: `many` is not of the form `N` or `N:any`",
    );
}
