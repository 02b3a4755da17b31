//! The network of commands that ask for none in particular: one that the build's commands share, out of reach of what listens on
//! this machine's loopback or on abstract sockets. Where that cannot be had, the machine's own, and a note says why.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};

use super::LocalWorker;
use super::attend::Output;
use super::error::WorkError;
use crate::event::StepNumber;
use crate::graph::{self, ExecOp};
use crate::sandbox::{self, Isolation, SharedNetwork};
use crate::task;

/// What commands without a network of their own choice find.
#[derive(Debug)]
pub struct DefaultNetwork {
    network: sandbox::Network,
    resolv_conf: Vec<u8>,
    gateway: Ipv4Addr,
}

/// What one command finds.
pub struct Seen<'a> {
    /// The network.
    pub network: sandbox::Network,
    /// Who answers for names there.
    pub resolv_conf: &'a [u8],
    /// What `host-gateway` of `--add-host` stands for.
    pub gateway: Ipv4Addr,
    /// What people should know about it.
    pub note: Option<String>,
}

impl LocalWorker {
    /// Starts the launcher and, for the first command that needs it, the network. Both take a few milliseconds, side by side.
    pub(super) async fn start(&self, op: &ExecOp, number: Option<StepNumber>) -> Result<(), WorkError> {
        if op.network != graph::Network::Default {
            self.launcher(number).await?;
            return Ok(());
        }
        let start = || async {
            let (launcher, connected) = tokio::join!(self.launcher(number), task::blocking(connect));
            let launcher = launcher?;
            Ok::<_, WorkError>(match connected {
                _ if launcher.isolation() == Isolation::Root => DefaultNetwork::of_machine(),
                Ok((network, shared)) => {
                    launcher.share(shared)?;
                    network
                }
                Err(why) => {
                    Output::new(&self.shared, number).note(format!("commands share this machine's network: {why}"));
                    DefaultNetwork::of_machine()
                }
            })
        };
        self.network.get_or_try_init(start).await?;
        Ok(())
    }
}

/// Makes the network, or says why not.
fn connect() -> Result<(DefaultNetwork, SharedNetwork), String> {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    // what systemd's own resolver asks
    let behind_stub = || fs::read_to_string("/run/systemd/resolve/resolv.conf").ok();
    let resolv_conf = reachable(&text).or_else(|| reachable(&behind_stub()?));
    let resolv_conf = resolv_conf.ok_or("its resolver listens on the loopback device alone (/etc/resolv.conf)")?;
    let routes = |name: &str| fs::read_to_string(format!("/proc/net/{name}")).unwrap_or_default();
    if !has_default_route(&routes("route")) && has_default_route_6(&routes("ipv6_route")) {
        return Err("the way out of this machine is of version 6, which the network of commands does not speak".to_owned());
    }
    let shared = SharedNetwork::connect().map_err(|error| error.to_string())?;
    let gateway = shared.gateway().unwrap_or(Ipv4Addr::LOCALHOST);
    let network = DefaultNetwork { network: sandbox::Network::Shared, resolv_conf: resolv_conf.into_bytes(), gateway };
    Ok((network, shared))
}

impl DefaultNetwork {
    /// This machine's own network.
    pub fn of_machine() -> DefaultNetwork {
        let resolv_conf = fs::read("/etc/resolv.conf").unwrap_or_default();
        DefaultNetwork { network: sandbox::Network::Host, resolv_conf, gateway: Ipv4Addr::LOCALHOST }
    }

    /// What `op` finds.
    pub fn seen_by<'a>(&'a self, op: &ExecOp, of_machine: &'a DefaultNetwork) -> Seen<'a> {
        let network = match op.network {
            graph::Network::None => sandbox::Network::None,
            graph::Network::Host => sandbox::Network::Host,
            graph::Network::Default => self.network,
        };
        if network != sandbox::Network::Shared {
            return of_machine.seen(network, None);
        }
        match op.proxy_env.iter().find(|variable| is_on_loopback(variable)) {
            // the client's own word, not the Dockerfile's: what it names is to be reached
            Some(variable) => {
                let name = variable.split('=').next().unwrap_or_default();
                let note = format!("`{name}` is on this machine's loopback device, so the command shares this machine's network");
                of_machine.seen(sandbox::Network::Host, Some(note))
            }
            None => self.seen(network, None),
        }
    }

    fn seen(&self, network: sandbox::Network, note: Option<String>) -> Seen<'_> {
        Seen { network, resolv_conf: &self.resolv_conf, gateway: self.gateway, note }
    }
}

/// A resolver's configuration without the servers that only this machine can ask; `None` if no server is left of some.
///
/// The network speaks version 4, so servers of version 6 count as out of reach, too.
fn reachable(text: &str) -> Option<String> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        let name = (words.next() == Some("nameserver")).then(|| words.next()).flatten()?;
        name.split('%').next()?.parse::<IpAddr>().ok()
    };
    let stays = |line: &&str| server(line).is_none_or(|address| address.is_ipv4() && !address.is_loopback());
    let has_servers = |text: &str| text.lines().any(|line| server(line).is_some());
    let kept: String = text.lines().filter(stays).flat_map(|line| [line, "\n"]).collect();
    (!has_servers(text) || has_servers(&kept)).then_some(kept)
}

/// Whether `/proc/net/route` has a way to everywhere: its second column is the destination.
fn has_default_route(routes: &str) -> bool {
    routes.lines().any(|route| route.split_whitespace().nth(1) == Some("00000000"))
}

/// The same of `/proc/net/ipv6_route`: destination and prefix come first, the device last. The kernel's own route to nowhere is
/// on the loopback device.
fn has_default_route_6(routes: &str) -> bool {
    routes.lines().any(|route| {
        let mut words = route.split_whitespace();
        let is_everywhere = words.next().is_some_and(|to| to.bytes().all(|digit| digit == b'0')) && words.next() == Some("00");
        is_everywhere && words.next_back() != Some("lo")
    })
}

/// Whether a variable names a proxy that listens where only this machine's own network leads.
fn is_on_loopback(variable: &str) -> bool {
    let Some((name, value)) = variable.split_once('=') else { return false };
    let authority = value.split_once("://").map_or(value, |(_, rest)| rest).split('/').next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    !name.eq_ignore_ascii_case("no_proxy")
        && (host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_on_loopback_are_left_out() {
        let text = "search example.org\nnameserver 127.0.0.53\nnameserver 10.0.0.1\noptions ndots:1\n";
        assert_eq!(reachable(text).as_deref(), Some("search example.org\nnameserver 10.0.0.1\noptions ndots:1\n"));
        assert_eq!(reachable("nameserver 10.0.0.1"), Some("nameserver 10.0.0.1\n".to_owned()));
        assert_eq!(reachable("nameserver 127.0.0.53\nnameserver ::1\n"), None);
        assert_eq!(reachable("nameserver fe80::1%eth0\n"), None);
        // no resolver at all: nothing is lost
        assert_eq!(reachable("# none\n"), Some("# none\n".to_owned()));
        assert_eq!(reachable(""), Some(String::new()));
    }

    #[test]
    fn ways_out_are_told_from_ways_to_neighbours() {
        let heading = "Iface\tDestination\tGateway \tFlags\n";
        assert!(has_default_route(&format!("{heading}eth0\t00000000\t010200C0\t0003\n")));
        assert!(!has_default_route(&format!("{heading}eth0\t000200C0\t00000000\t0001\n")));
        let zeros = "0".repeat(32);
        let route = |to: &str, prefix: &str, device: &str| {
            format!("{to} {prefix} {zeros} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003 {device}\n")
        };
        assert!(has_default_route_6(&route(&zeros, "00", "eth0")));
        assert!(!has_default_route_6(&route(&zeros, "00", "lo")));
        assert!(!has_default_route_6(&route("20010db8000000000000000000000000", "20", "eth0")));
    }

    #[test]
    fn proxies_on_loopback_are_known() {
        for proxy in
            ["http://127.0.0.1:3128", "localhost:3128", "http://user:pass@LOCALHOST/", "socks5://[::1]:1080", "127.1.2.3"]
        {
            assert!(is_on_loopback(&format!("http_proxy={proxy}")), "{proxy}");
        }
        for variable in
            ["http_proxy=http://10.0.0.1:3128", "HTTPS_PROXY=proxy.example.com:80", "no_proxy=localhost", "all_proxy=", "x"]
        {
            assert!(!is_on_loopback(variable), "{variable}");
        }
    }
}
