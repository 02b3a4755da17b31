//! Variables: what is set where, in which order, and how words see it.

use std::cell::RefCell;
use std::collections::BTreeSet;

use super::Options;
use crate::dockerfile::check;
use crate::dockerfile::expand::Environment;

/// Variables in the order in which they were last set: the order that commands get them in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Scope {
    variables: Vec<(String, String)>,
}

impl Scope {
    /// The arguments that `FROM` lines can use without declaring them.
    pub(super) fn predefined(options: &Options, target: &str) -> Scope {
        let (build, wanted) = (&options.build_platform, &options.target_platform);
        let mut scope = Scope::default();
        for (name, value) in [
            ("BUILDPLATFORM", build.to_string().as_str()),
            ("BUILDOS", build.os.as_str()),
            ("BUILDOSVERSION", ""),
            ("BUILDARCH", build.architecture.as_str()),
            ("BUILDVARIANT", build.variant.as_str()),
            ("TARGETPLATFORM", wanted.to_string().as_str()),
            ("TARGETOS", wanted.os.as_str()),
            ("TARGETOSVERSION", ""),
            ("TARGETARCH", wanted.architecture.as_str()),
            ("TARGETVARIANT", wanted.variant.as_str()),
            ("TARGETSTAGE", target),
        ] {
            scope.set(name, options.build_arg(name).unwrap_or(value));
        }
        scope
    }

    /// Sets a variable; it becomes the last one.
    pub(super) fn set(&mut self, name: &str, value: &str) {
        self.unset(name);
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    /// Takes a variable out.
    pub(super) fn unset(&mut self, name: &str) {
        self.variables.retain(|(known, _)| known != name);
    }

    /// The value of a variable.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// All names, in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.iter().map(|(name, _)| name.as_str())
    }

    /// `NAME=value` of all, in order.
    pub(super) fn lines(&self) -> Vec<String> {
        self.variables.iter().map(|(name, value)| format!("{name}={value}")).collect()
    }
}

impl Environment for Scope {
    fn get(&self, name: &str) -> Option<String> {
        self.value(name).map(str::to_owned)
    }
}

/// A scope that remembers which of its variables a word has used.
pub(super) struct Watched<'a> {
    scope: &'a Scope,
    used: RefCell<BTreeSet<String>>,
}

impl<'a> Watched<'a> {
    pub(super) fn new(scope: &'a Scope) -> Watched<'a> {
        Watched { scope, used: RefCell::default() }
    }

    /// The names that were asked for and are set.
    pub(super) fn used(self) -> BTreeSet<String> {
        self.used.into_inner()
    }
}

impl Environment for Watched<'_> {
    fn get(&self, name: &str) -> Option<String> {
        let value = self.scope.value(name)?;
        self.used.borrow_mut().insert(name.to_owned());
        Some(value.to_owned())
    }
}

/// Proxy variables among the build arguments, each in both cases, in the order in which commands get them.
pub(super) fn proxy_env(options: &Options) -> Vec<String> {
    let mut sorted: Vec<&(String, String)> = options.build_args.iter().collect();
    sorted.sort_by(|left, right| left.0.cmp(&right.0));
    let mut lines = Vec::new();
    for name in PROXIES {
        let given = sorted.iter().rev().find(|(given, _)| given.eq_ignore_ascii_case(name));
        if let Some((_, value)) = given
            && !value.is_empty()
        {
            lines.push(format!("{name}={value}"));
            lines.push(format!("{}={value}", name.to_lowercase()));
        }
    }
    lines
}

/// Whether a build argument needs no `ARG` to have an effect.
pub(super) fn is_predefined(name: &str) -> bool {
    PROXIES.iter().any(|proxy| proxy.eq_ignore_ascii_case(name))
        || name.starts_with("BUILDKIT_")
        || name == "SOURCE_DATE_EPOCH"
        || PLATFORM_ARGS.contains(&name)
}

/// By a stage that wants a scanner to see it, or the context.
pub(super) const SCAN_STAGE: &str = "BUILDKIT_SBOM_SCAN_STAGE";
pub(super) const SCAN_CONTEXT: &str = "BUILDKIT_SBOM_SCAN_CONTEXT";

/// Arguments that steer the builder and are never variables of a command.
pub(super) fn is_never_environment(name: &str) -> bool {
    matches!(name, SCAN_CONTEXT | SCAN_STAGE)
}

/// Whether the value of such an argument asks for the stage: a truth for all of them, or a list that names it.
pub(super) fn asks_for(value: &str, stage: &str) -> bool {
    check::parse_bool(value).unwrap_or_else(|| value.split(',').any(|name| name == stage))
}

const PROXIES: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

const PLATFORM_ARGS: [&str; 11] = [
    "BUILDPLATFORM",
    "BUILDOS",
    "BUILDOSVERSION",
    "BUILDARCH",
    "BUILDVARIANT",
    "TARGETPLATFORM",
    "TARGETOS",
    "TARGETOSVERSION",
    "TARGETARCH",
    "TARGETVARIANT",
    "TARGETSTAGE",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::Platform;

    #[test]
    fn the_last_set_variable_is_the_last() {
        let mut scope = Scope::default();
        scope.set("A", "1");
        scope.set("B", "2");
        scope.set("A", "3");
        assert_eq!(scope.lines(), ["B=2", "A=3"]);
    }

    #[test]
    fn predefined_arguments_yield_to_given_ones() {
        let mut options = Options::new("linux/arm/v7".parse::<Platform>().expect("valid"));
        options.build_args.push(("TARGETARCH".into(), "other".into()));
        let scope = Scope::predefined(&options, "default");
        assert_eq!(scope.value("TARGETARCH"), Some("other"));
        assert_eq!(scope.value("TARGETVARIANT"), Some("v7"));
        assert_eq!(scope.value("TARGETOSVERSION"), Some(""));
    }

    #[test]
    fn proxies_come_in_both_cases() {
        let mut options = Options::new(Platform::host());
        options.build_args = vec![("no_proxy".into(), "a".into()), ("HTTP_PROXY".into(), "b".into()), ("X".into(), "c".into())];
        assert_eq!(proxy_env(&options), ["HTTP_PROXY=b", "http_proxy=b", "NO_PROXY=a", "no_proxy=a"]);
    }
}
