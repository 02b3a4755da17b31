//! Ports of `EXPOSE`.

use std::net::IpAddr;

/// What a word looks like that is understood.
pub(super) const FORM: &str =
    "ports are numbers up to 65535 or ranges such as `8000-8010`, with `/tcp`, `/udp` or `/sctp`, separated by blanks";

/// What one word of `EXPOSE` names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ports {
    /// `80/tcp`, in order.
    pub ports: Vec<String>,
    /// Whether the protocol has upper-case letters.
    pub odd_case: bool,
    /// Whether it maps to an address or port of the host, which means nothing here.
    pub mapped: bool,
}

/// Reads `[[ip:]host:]container[-container][/protocol]`.
///
/// # Errors
/// One line that says what is wrong.
pub(super) fn parse(text: &str) -> Result<Ports, String> {
    let (outer, port_proto) = text.rsplit_once(':').map_or((None, text), |(outer, rest)| (Some(outer), rest));
    let (address, host_port) = match outer {
        Some(outer) => outer.rsplit_once(':').map_or(("", outer), |(address, port)| (address, port)),
        None => ("", ""),
    };
    let (container, protocol) = port_proto.split_once('/').unwrap_or((port_proto, ""));
    if container.is_empty() {
        return Err(format!("invalid port `{text}`: no port specified"));
    }
    let lower = if protocol.is_empty() { "tcp".to_owned() } else { protocol.to_lowercase() };
    if !matches!(lower.as_str(), "tcp" | "udp" | "sctp") {
        return Err(format!("invalid port `{text}`: invalid protocol `{protocol}`, it should be tcp, udp or sctp"));
    }
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    if !address.is_empty() && bare.parse::<IpAddr>().is_err() {
        return Err(format!("invalid IP address `{address}`"));
    }
    let (first, last) = range(container).ok_or_else(|| format!("invalid containerPort: {container}"))?;
    if !host_port.is_empty() {
        let (host_first, host_last) = range(host_port).ok_or_else(|| format!("invalid hostPort: {host_port}"))?;
        if last != first && last - first != host_last - host_first {
            return Err(format!("invalid ranges specified for container and host ports: {container} and {host_port}"));
        }
    }
    Ok(Ports {
        ports: (first..=last).map(|port| format!("{port}/{lower}")).collect(),
        odd_case: !protocol.is_empty() && protocol != lower,
        mapped: outer.is_some_and(|outer| !outer.is_empty()),
    })
}

/// `80` or `80-90`, both at most 65535.
fn range(text: &str) -> Option<(u16, u16)> {
    let number = |text: &str| text.strip_prefix('+').unwrap_or(text).parse::<u16>().ok();
    match text.split_once('-') {
        Some((first, last)) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some((first, last))
        }
        None => number(text).map(|port| (port, port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(parse(text).map(|ports| ports.ports.join(" ")).as_deref(), Ok(expected));
    }

    #[test]
    fn ports_ranges_and_mappings() {
        check("80", "80/tcp");
        check("81/TCP", "81/tcp");
        check("8000-8002/udp", "8000/udp 8001/udp 8002/udp");
        check("127.0.0.1:80:8080", "8080/tcp");
        check("[::1]:80:8080", "8080/tcp");
        check("8080:80/tcp", "80/tcp");
        check("0", "0/tcp");
    }

    #[test]
    fn bad_ports_say_which() {
        for (text, word) in [
            ("70000", "invalid containerPort: 70000"),
            ("90-80", "90-80"),
            ("80/icmp", "icmp"),
            ("", "no port"),
            ("a:1:2", "IP address"),
            ("1-2:3-5", "ranges"),
        ] {
            assert!(parse(text).is_err_and(|message| message.contains(word)), "{text}");
        }
    }

    #[test]
    fn oddities_are_told() {
        assert!(parse("80/TCP").is_ok_and(|ports| ports.odd_case && !ports.mapped));
        assert!(parse("1:2").is_ok_and(|ports| ports.mapped && !ports.odd_case));
    }
}
