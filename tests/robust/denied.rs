//! Directories that cannot be a store. What users and machines may not do is told in `tests/rootless.rs`.

use super::common::Space;

#[test]
fn a_store_of_a_later_version_is_left_alone() {
    let space = Space::with_busybox();
    space.dockerfile("FROM busybox\n").write("store/version", "croze store 2\nflavour user\n");
    space.build(&[]).fails(
        5,
        &format!(
            "error: `{}` cannot be used as a store: its format is `croze store 2`, this program knows `croze store 1`; choose \
             another directory",
            space.text_path("store")
        ),
    );
}

#[test]
fn a_directory_with_other_things_does_not_become_a_store() {
    let space = Space::new();
    space.dockerfile("FROM scratch\n").write("store/thesis", "x");
    space.build(&[]).fails(
        5,
        &format!(
            "error: `{}` cannot be used as a store: it is no store and not empty (it holds `thesis`); choose another directory",
            space.text_path("store")
        ),
    );
}
