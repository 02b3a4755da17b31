//! The network of `RUN`: what a command reaches in a machine of the test's own, a network namespace with another one outside.

mod common;

use std::process::Command;

use common::user::{MAKE_USER, RANGES};
use common::{Run, Space, run, skip_unless};

/// A machine at 198.51.100.1 with a server on its loopback device, and a server outside of it.
const MACHINE: &str = r#"
mount -t tmpfs none /run
ip link set lo up
ip netns add outside
ip link add wan type veth peer name out netns outside
ip addr add 198.51.100.1/24 dev wan
ip link set wan up
ip route add default via 198.51.100.2
ip netns exec outside ip addr add 198.51.100.2/24 dev out
ip netns exec outside ip link set out up
echo 1 > /proc/sys/net/ipv4/ip_forward
echo "nameserver 198.51.100.2" > /run/resolv
mount --bind /run/resolv /etc/resolv.conf
mkdir /run/inside /run/outside
echo inside > /run/inside/word
echo outside > /run/outside/word
busybox httpd -f -p 127.0.0.1:8080 -h /run/inside & servers=$!
ip netns exec outside busybox httpd -f -p 80 -h /run/outside & servers="$servers $!"
trap 'kill $servers' EXIT
for address in 127.0.0.1:8080 198.51.100.2; do
    tries=0
    until busybox wget -q -O /dev/null "http://$address/word"; do
        tries=$((tries + 1)); [ $tries -lt 500 ]; sleep 0.01
    done
done
"#;

/// What a command says that both servers are asked by.
const DOCKERFILE: &str = "FROM busybox\n\
    RUN (wget -q -O - http://198.51.100.2/word || echo nothing) > /out; \
    (wget -q -O - http://127.0.0.1:8080/word || echo nothing) > /in; cp /etc/resolv.conf /resolv\n";

/// A space on such a machine; `None` with the reason where it cannot be made.
fn space(test: &str) -> Option<Space> {
    if !skip_unless(test, &["unshare", "ip", "nft", "busybox"]) {
        return None;
    }
    let space = Space::with_busybox();
    space.dockerfile(DOCKERFILE);
    Some(space)
}

/// Changes the machine by `setup`, then builds `ctx` to `out` with `flags`.
fn build(space: &Space, setup: &str, flags: &[&str]) -> Run {
    let croze = env!("CARGO_BIN_EXE_croze");
    // nothing but croze, unless `setup` says more: no `pasta` that this machine may have
    let script = format!("{MACHINE}programs=/nowhere\n{setup}\nPATH=$programs \"$0\" \"$@\"");
    let mut command = Command::new("unshare");
    command.args(["-m", "-n", "sh", "-euc", &script, croze, "build", "--progress=plain", "-o", "out"]).args(flags).arg("ctx");
    command.current_dir(space.path(".")).env("CROZE_ROOT", space.path("store"));
    run(&mut command)
}

/// Builds, and gives what the command found outside and on the machine's loopback device.
#[track_caller]
fn found(space: &Space, setup: &str, flags: &[&str]) -> (String, String, Run) {
    let run = build(space, setup, flags).succeeds();
    (space.read("out/out").trim().to_owned(), space.read("out/in").trim().to_owned(), run)
}

/// The note about the network, without the number of its step.
fn note(run: &Run) -> Option<&str> {
    run.stderr.lines().find_map(|line| line.split_once("commands share this machine's network: ")).map(|(_, why)| why)
}

#[test]
fn a_command_reaches_the_outside_and_not_the_machines_loopback() {
    let Some(space) = space("a_command_reaches_the_outside_and_not_the_machines_loopback") else { return };
    let (outside, inside, run) = found(&space, "", &[]);
    assert_eq!((outside.as_str(), inside.as_str(), note(&run)), ("outside", "nothing", None));
    assert_eq!(space.read("out/resolv"), "nameserver 198.51.100.2\n");

    let (outside, inside, run) = found(&space, "", &["--no-cache", "--network=host", "--allow=network.host"]);
    assert_eq!((outside.as_str(), inside.as_str(), note(&run)), ("outside", "inside", None));
    let (outside, inside, run) = found(&space, "", &["--no-cache", "--network=none"]);
    assert_eq!((outside.as_str(), inside.as_str(), note(&run)), ("nothing", "nothing", None));
}

#[test]
fn the_commands_of_a_build_share_one_network_that_goes_with_it() {
    let Some(space) = space("the_commands_of_a_build_share_one_network_that_goes_with_it") else { return };
    space.dockerfile(
        "FROM busybox\nRUN readlink /proc/self/ns/net > /first; ls /sys/class/net > /names\nRUN readlink /proc/self/ns/net > /second\n\
         RUN --network=none readlink /proc/self/ns/net > /none; ls /sys/class/net >> /names\n",
    );
    build(&space, "", &[]).succeeds();
    assert_eq!(space.read("out/first"), space.read("out/second"));
    assert_ne!(space.read("out/first"), space.read("out/none"));
    assert_eq!(space.read("out/names"), "eth0\nlo\nlo\n");
    // killed at its worst moment: the command runs, and nothing is taken back by croze itself
    space.dockerfile("FROM busybox\nRUN wget -q -O - http://198.51.100.2/word && sleep 1000\n");
    let script = format!(
        "{MACHINE}
        mkfifo /run/said
        \"$0\" \"$@\" 2> /run/said & croze=$!
        grep -q -m 1 ' outside$' /run/said
        ip -o link show | grep -q ' croze[0-9]*@'
        nft list tables | grep -q 'ip croze'
        kill -9 $croze
        tries=0
        while ip -o link show | grep -q ' croze[0-9]*@' || nft list tables | grep -q croze; do
            tries=$((tries + 1)); [ $tries -lt 500 ]; sleep 0.01
        done"
    );
    let croze = env!("CARGO_BIN_EXE_croze");
    let mut command = Command::new("unshare");
    command.args(["-m", "-n", "sh", "-euc", &script, croze, "build", "--progress=plain", "ctx"]);
    run(command.current_dir(space.path(".")).env("CROZE_ROOT", space.path("store"))).succeeds();
}

#[test]
fn a_machine_that_cannot_is_told_and_its_own_network_serves() {
    let Some(space) = space("a_machine_that_cannot_is_told_and_its_own_network_serves") else { return };
    let shared = |setup: &str, why: &str| {
        let (outside, inside, run) = found(&space, setup, &["--no-cache"]);
        assert_eq!((outside.as_str(), inside.as_str()), ("outside", "inside"), "{}", run.stderr);
        assert_eq!(note(&run), Some(why), "{}", run.stderr);
        assert_eq!(run.stderr.matches("share this machine's network").count(), 1, "{}", run.stderr);
    };
    shared(
        "echo 0 > /proc/sys/net/ipv4/ip_forward",
        "`wan` does not forward packets (`net.ipv4.ip_forward` is 0), and `pasta` is not installed",
    );
    shared(
        "nft 'add table ip wall; add chain ip wall passing { type filter hook forward priority 0; policy drop; }'",
        "a packet filter of this machine drops forwarded packets, and `pasta` is not installed",
    );
    shared(
        "echo nameserver 127.0.0.53 > /etc/resolv.conf",
        "its resolver listens on the loopback device alone (/etc/resolv.conf)",
    );
}

/// A directory with a `pasta` that is this script.
fn stand_in(space: &Space, script: &str) -> String {
    space.write("programs/pasta", format!("#!/bin/sh\n{script}\n")).executable("programs/pasta");
    format!("echo 0 > /proc/sys/net/ipv4/ip_forward; programs={}", space.text_path("programs"))
}

#[test]
fn a_helper_that_fails_or_hangs_is_told() {
    let Some(space) = space("a_helper_that_fails_or_hangs_is_told") else { return };
    let told = |script: &str, why: &str| {
        let (outside, inside, run) = found(&space, &stand_in(&space, script), &["--no-cache"]);
        assert_eq!((outside.as_str(), inside.as_str()), ("outside", "inside"), "{}", run.stderr);
        let why = format!("`wan` does not forward packets (`net.ipv4.ip_forward` is 0), and {why}");
        assert_eq!(note(&run), Some(why.as_str()), "{}", run.stderr);
    };
    told("echo no namespace for you >&2; exit 1", "`pasta` failed: no namespace for you");
    told("exit 0", "`pasta` failed: it ended at once");
    // what it would do where `/dev/net/tun` is root's alone
    told(&format!("echo $$ > {}; exec /bin/sleep 1000", space.text_path("pid")), "`pasta` was not ready after 3 s");
    let pid = space.read("pid");
    assert!(!std::path::Path::new("/proc").join(pid.trim()).exists(), "the helper is gone");
}

#[test]
fn pasta_connects_the_commands_of_root_and_of_users() {
    let test = "pasta_connects_the_commands_of_root_and_of_users";
    let Some(space) = space(test) else { return };
    if !skip_unless(test, &["pasta", "newuidmap", "setpriv"]) {
        return;
    }
    let open_tun = "mount -t tmpfs none /dev/net; mknod -m 666 /dev/net/tun c 10 200";
    let setup = format!("echo 0 > /proc/sys/net/ipv4/ip_forward; {open_tun}; programs=$PATH");
    let (outside, inside, run) = found(&space, &setup, &[]);
    assert_eq!((outside.as_str(), inside.as_str(), note(&run)), ("outside", "nothing", None), "{}", run.stderr);

    space.write("home/.keep", "");
    std::fs::copy(env!("CARGO_BIN_EXE_croze"), space.path("croze")).expect("copies");
    std::fs::copy(common::busybox_tar(), space.path("busybox.tar")).expect("copies");
    run_in(&space, "chmod a+rx . ctx croze; chmod a+r busybox.tar ctx/Dockerfile; chown -R 4242:4242 home").succeeds();
    let script = format!("{MACHINE}{open_tun}\nsh -ec \"$0\" sh . \"{RANGES}\" '' \"$@\"");
    let mut command = Command::new("unshare");
    command.args(["-m", "-n", "sh", "-euc", &script, MAKE_USER]).current_dir(space.path("."));
    let both = "/mnt/croze import busybox.tar busybox && exec /mnt/croze build --progress=plain -o home/out ctx";
    let run = common::run(command.args(["sh", "-c", both])).succeeds();
    assert_eq!(note(&run), None, "{}", run.stderr);
    assert_eq!((space.read("home/out/out").trim(), space.read("home/out/in").trim()), ("outside", "nothing"), "{}", run.stderr);
}

fn run_in(space: &Space, script: &str) -> Run {
    common::run(Command::new("sh").args(["-ec", script]).current_dir(space.path(".")))
}

#[test]
fn a_resolver_on_loopback_gives_way_to_those_that_it_asks() {
    let Some(space) = space("a_resolver_on_loopback_gives_way_to_those_that_it_asks") else { return };
    let setup = "printf 'nameserver 127.0.0.53\\nsearch example.org\\n' > /etc/resolv.conf; mkdir -p /run/systemd/resolve; \
                 printf '# real\\nnameserver ::1\\nnameserver 198.51.100.2\\n' > /run/systemd/resolve/resolv.conf";
    let (outside, inside, _) = found(&space, setup, &[]);
    assert_eq!((outside.as_str(), inside.as_str()), ("outside", "nothing"));
    assert_eq!(space.read("out/resolv"), "# real\nnameserver 198.51.100.2\n");
}

#[test]
fn a_proxy_on_loopback_is_reached() {
    let Some(space) = space("a_proxy_on_loopback_is_reached") else { return };
    space.dockerfile("FROM busybox\nRUN wget -q -O /word http://example.invalid/word\n");
    // a server is no proxy, but that the question came to it is seen in its answer
    let run = build(&space, "", &["--build-arg", "http_proxy=http://127.0.0.1:8080"]);
    assert!(run.stderr.contains("_PROXY` is on this machine's loopback device, so the command shares"), "{}", run.stderr);
    assert!(run.stderr.contains("HTTP/1.1 40") || run.stderr.contains("HTTP/1.0 40"), "{}", run.stderr);
    // the Dockerfile's word is not the client's
    space.dockerfile("FROM busybox\nENV http_proxy=http://127.0.0.1:8080\nRUN wget -q -O /word http://example.invalid/word\n");
    let run = build(&space, "", &[]);
    assert!(run.stderr.contains("Connection refused"), "{}", run.stderr);
}

#[test]
fn the_machine_has_a_name_for_commands_that_ask_for_one() {
    let Some(space) = space("the_machine_has_a_name_for_commands_that_ask_for_one") else { return };
    space.dockerfile(
        "FROM busybox\nRUN grep up /etc/hosts | cut -f 1 > /gateway; ip route | awk '/default/ { print $3 }' > /route\n",
    );
    build(&space, "", &["--add-host", "up:host-gateway"]).succeeds();
    assert!(space.read("out/gateway").starts_with("172.29."), "{}", space.read("out/gateway"));
    assert_eq!(space.read("out/gateway"), space.read("out/route"));
}

#[test]
fn a_machine_without_a_way_out_keeps_its_commands_apart_all_the_same() {
    let Some(space) = space("a_machine_without_a_way_out_keeps_its_commands_apart_all_the_same") else { return };
    let (_, inside, run) = found(&space, "ip route del default", &[]);
    assert_eq!((inside.as_str(), note(&run)), ("nothing", None));
}
