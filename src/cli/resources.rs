//! Flags about what commands find and may use, the same for `croze build` and `croze run`, with the names and values of
//! `docker run`.

use super::request::Problems;
use super::values::{self, BadValue};
use crate::builder::{MemoryAndSwap, Resources};
use crate::graph::Network;

/// What commands find.
#[derive(Debug, clap::Args)]
pub struct CommandArgs {
    /// Network of commands: default, none, host
    #[arg(long, value_name = "MODE", default_value = "default")]
    network: String,
    /// Line for /etc/hosts of commands
    #[arg(long = "add-host", value_name = "HOST:IP")]
    add_hosts: Vec<String>,
    /// Size of /dev/shm of commands
    #[arg(long, value_name = "BYTES")]
    shm_size: Option<String>,
    /// Resource limit of commands
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]")]
    ulimits: Vec<String>,
    /// `--memory`, `--cpu-*`, `--pids-limit`.
    #[command(flatten)]
    resources: ResourceArgs,
}

/// What [`CommandArgs`] mean.
pub struct CommandSettings {
    /// `--network`.
    pub network: Network,
    /// `--add-host`: name, address.
    pub extra_hosts: Vec<(String, String)>,
    /// Limits of all commands together.
    pub resources: Resources,
    /// `--shm-size`.
    pub shm_size_bytes: Option<u64>,
    /// `--ulimit`: name, soft, hard.
    pub ulimits: Vec<(String, u64, u64)>,
}

impl CommandArgs {
    /// Reads the values.
    pub fn settings(self, problems: &mut Problems) -> CommandSettings {
        CommandSettings {
            network: problems.one("--network", &self.network, values::network).unwrap_or(Network::Default),
            extra_hosts: problems.all("--add-host", &self.add_hosts, values::host),
            resources: self.resources.resources(problems),
            shm_size_bytes: self.shm_size.and_then(|text| problems.one("--shm-size", &text, values::bytes)),
            ulimits: problems.all("--ulimit", &self.ulimits, values::ulimit),
        }
    }
}

/// Limits of all commands together.
#[derive(Debug, clap::Args)]
struct ResourceArgs {
    /// Most memory that the commands use together
    #[arg(short, long, value_name = "BYTES")]
    memory: Option<String>,
    /// Most memory and swap space; -1 for any
    #[arg(long, allow_hyphen_values = true, value_name = "BYTES")]
    memory_swap: Option<String>,
    /// Weight among other control groups; 1024 is usual
    #[arg(short, long, value_name = "WEIGHT")]
    cpu_shares: Option<String>,
    /// Period of --cpu-quota
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_period: Option<String>,
    /// Time of processors in each period
    #[arg(long, allow_hyphen_values = true, value_name = "MICROSECONDS")]
    cpu_quota: Option<String>,
    /// Processors, such as 0-3
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Most processes and threads at once; -1 for any
    #[arg(long, allow_hyphen_values = true, value_name = "NUMBER")]
    pids_limit: Option<String>,
    /// The same in buildx's words: memory, memory-swap, cpu-shares, cpu-period, cpu-quota, cpuset-cpus, cpuset-mems
    #[arg(long, value_name = "NAME=VALUE")]
    resource: Vec<String>,
}

impl ResourceArgs {
    /// `--resource NAME=VALUE`: the flag of that name.
    fn set(&mut self, entry: &str) -> Result<(), BadValue> {
        let form = || BadValue::Form { value: entry.to_owned(), form: "NAME=VALUE" };
        let (name, value) = entry.split_once('=').ok_or_else(form)?;
        let (name, value) = (name.trim(), value.trim());
        let flag = match name {
            "memory" => &mut self.memory,
            "memory-swap" => &mut self.memory_swap,
            "cpu-shares" => &mut self.cpu_shares,
            "cpu-period" => &mut self.cpu_period,
            "cpu-quota" => &mut self.cpu_quota,
            "cpuset-cpus" => &mut self.cpuset_cpus,
            "cpuset-mems" => &mut self.cpuset_mems,
            _ => return Err(BadValue::Choice { value: name.to_owned(), choices: RESOURCES }),
        };
        *flag = Some(value.to_owned());
        Ok(())
    }

    /// What they ask for; 0, and -1 where it makes sense, is no limit.
    fn resources(mut self, problems: &mut Problems) -> Resources {
        for entry in std::mem::take(&mut self.resource) {
            problems.one("--resource", &entry, |entry| self.set(entry));
        }
        let memory_bytes = self.memory.and_then(|text| problems.one("--memory", &text, values::bytes)).filter(|bytes| *bytes > 0);
        let memory_and_swap = self.memory_swap.and_then(|text| match text.as_str() {
            "-1" => Some(MemoryAndSwap::Unlimited),
            text => problems.one("--memory-swap", text, values::bytes).filter(|bytes| *bytes > 0).map(MemoryAndSwap::Bytes),
        });
        if let Some(MemoryAndSwap::Bytes(both)) = memory_and_swap
            && memory_bytes.is_none_or(|memory| both < memory)
        {
            problems
                .say("bad-flag", "`--memory-swap` is memory and swap space together: it takes a `--memory` that is not larger");
        }
        let mut number = |flag, text: Option<String>| {
            text.and_then(|text| problems.one(flag, &text, limit)).flatten().filter(|number| *number > 0)
        };
        Resources {
            memory_bytes,
            memory_and_swap,
            cpu_shares: number("--cpu-shares", self.cpu_shares),
            cpu_period_us: number("--cpu-period", self.cpu_period),
            cpu_quota_us: number("--cpu-quota", self.cpu_quota),
            pids: number("--pids-limit", self.pids_limit),
            cpuset_cpus: self.cpuset_cpus.filter(|list| !list.is_empty()),
            cpuset_mems: self.cpuset_mems.filter(|list| !list.is_empty()),
        }
    }
}

/// The names that `--resource` takes.
const RESOURCES: &str = "`memory`, `memory-swap`, `cpu-shares`, `cpu-period`, `cpu-quota`, `cpuset-cpus`, `cpuset-mems`";

/// A number; `-1` is none.
fn limit(text: &str) -> Result<Option<u64>, BadValue> {
    match text {
        "-1" => Ok(None),
        text => text.parse().map(Some).map_err(|_| BadValue::Number { value: text.to_owned(), expected: "a whole number" }),
    }
}
