//! An ordinary container, such as a CI job's: root inside, the default capabilities and the default system call filter of the
//! programs that people start containers with, nothing added.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use super::project::{debian_tar, run_bundle};
use crate::common::{Run, Space, run};

/// The default filter of Podman, Buildah and CRI-O, by names that its rules say when to use.
pub const FILTER: &str = "/usr/share/containers/seccomp.json";

/// The capabilities that these programs and Docker leave to root.
const CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// Runs a shell script in a container of Debian that shares this machine's network, with the space at `/mnt`.
#[track_caller]
pub fn run_in_container(space: &Space, script: &str) -> Run {
    let bundle = space.text_path("container");
    fs::create_dir_all(space.path("container/rootfs/dev")).expect("directories");
    let tree = format!("{bundle}/rootfs");
    run(Command::new("tar").args(["--exclude=./dev", "-C", &tree, "-xf", debian_tar()])).succeeds();
    run(Command::new("runc").args(["spec", "-b", &bundle])).succeeds();
    let mut config = space.read_json("container/config.json");
    configure(&mut config, script, &space.text_path("."));
    fs::write(space.path("container/config.json"), config.to_string()).expect("writes");
    run_bundle(&bundle, &format!("croze-test-{}-container", std::process::id()))
}

fn configure(config: &mut Value, script: &str, place: &str) {
    let process = &mut config["process"];
    process["terminal"] = json!(false);
    process["noNewPrivileges"] = json!(false);
    process["args"] = json!(["sh", "-euc", script]);
    process["env"] = json!(["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"]);
    process["rlimits"] = json!([]);
    let sets = ["bounding", "effective", "permitted"].map(|set| (set.to_owned(), json!(CAPABILITIES)));
    process["capabilities"] = sets.into_iter().collect::<serde_json::Map<_, _>>().into();
    config["root"]["readonly"] = json!(false);
    let linux = &mut config["linux"];
    linux["seccomp"] = filter();
    let namespaces = linux["namespaces"].as_array_mut().expect("a list");
    namespaces.retain(|namespace| namespace["type"] != "network");
    let bind = |source: &str, destination: &str| json!({"destination": destination, "source": source, "type": "bind", "options": ["rbind"]});
    let mounts = config["mounts"].as_array_mut().expect("a list");
    mounts.extend([bind(place, "/mnt"), bind("/etc/resolv.conf", "/etc/resolv.conf")]);
}

/// The default filter as it is for [`CAPABILITIES`] on x86-64.
fn filter() -> Value {
    let text = fs::read_to_string(FILTER).expect("the default filter");
    let profile: Value = serde_json::from_str(&text).expect("JSON");
    let names = |rule: &Value, when: &str, what: &str| -> Vec<String> {
        let list = rule[when][what].as_array().cloned().unwrap_or_default();
        list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let has = |name: &String| CAPABILITIES.contains(&name.as_str());
    let is_meant = |rule: &&Value| {
        let architectures = names(rule, "includes", "arches");
        names(rule, "includes", "caps").iter().all(has)
            && !names(rule, "excludes", "caps").iter().any(has)
            && (architectures.is_empty() || architectures.iter().any(|name| name == "amd64"))
            && names(rule, "excludes", "arches").iter().all(|name| name != "amd64")
    };
    let rule = |rule: &Value| {
        let kept = ["names", "action", "args", "errnoRet"].map(|key| (key.to_owned(), rule[key].clone()));
        Value::Object(kept.into_iter().filter(|(_, value)| !value.is_null()).collect())
    };
    let rules: Vec<Value> = profile["syscalls"].as_array().expect("a list").iter().filter(is_meant).map(rule).collect();
    json!({
        "defaultAction": profile["defaultAction"],
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": rules,
    })
}
