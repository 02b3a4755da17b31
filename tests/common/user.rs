//! A user who is not root, for as long as one command runs.
//!
//! It exists in a mount namespace of the command only: files that are bound over `/etc/passwd`, `/etc/subuid` and `/etc/subgid`
//! name it, and nothing of the machine changes.

use std::process::Command;

use super::{Run, Space, run};

/// Makes the user and becomes it: `sh -ec MAKE_USER sh SPACE RANGES COMMAND...`. The space is at `/mnt`.
pub const MAKE_USER: &str = r#"
mount --bind "$1" /mnt
cp /etc/passwd /mnt/passwd
echo 'cooper:x:4242:4242::/mnt/home:/bin/sh' >> /mnt/passwd
printf "$2" > /mnt/ranges
mount --bind /mnt/passwd /etc/passwd
for file in /etc/subuid /etc/subgid; do
    [ -e "$file" ] || touch "$file"
    mount --bind /mnt/ranges "$file"
done
eval "$3"
shift 3
cd /mnt
exec setpriv --reuid 4242 --regid 4242 --clear-groups env -i HOME=/mnt/home PATH="$PATH" SOURCE_DATE_EPOCH=86400 "$@"
"#;

/// The user's ranges of ids, for [`as_user`].
pub const RANGES: &str = "cooper:1000000:65536\\n";

/// Runs a program as the user, with the space at `/mnt` and its own directory at `/mnt/home`, after `before` as root.
pub fn as_user(space: &Space, ranges: &str, before: &str, arguments: &[&str]) -> Run {
    run(&mut user_command(space, ranges, before, arguments))
}

/// The command that [`as_user`] runs; its process becomes the program.
pub fn user_command(space: &Space, ranges: &str, before: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--", "sh", "-ec", MAKE_USER, "sh"]).arg(space.path(".")).args([ranges, before]).args(arguments);
    command
}

/// Docker's default capabilities, for `setpriv --bounding-set`: what root of an ordinary container has.
pub const CONTAINER: &str = "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,+net_raw,+sys_chroot,+mknod,+audit_write,+setfcap";
