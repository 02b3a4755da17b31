//! The build checks: names, descriptions and places in the documentation, as BuildKit has them.
//!
//! What a finding says stands where it is found, here and in `plan`.

use crate::diagnostic::{Pass, Rule};

macro_rules! rule {
    ($(#[$docs:meta])* $constant:ident, $pass:ident, $name:literal, $page:literal, $description:literal) => {
        $(#[$docs])*
        pub static $constant: Rule = Rule {
            name: $name,
            description: $description,
            url: Some(concat!("https://docs.docker.com/go/dockerfile/rule/", $page, "/")),
            pass: Pass::$pass,
            experimental: false,
        };
    };
}

rule!(
    /// A line of blanks inside a continued instruction.
    NO_EMPTY_CONTINUATION,
    Lines,
    "NoEmptyContinuation",
    "no-empty-continuation",
    "Empty continuation lines will become errors in a future release"
);
rule!(
    /// A stage's name with upper-case letters.
    STAGE_NAME_CASING,
    Instructions,
    "StageNameCasing",
    "stage-name-casing",
    "Stage names should be lowercase"
);
rule!(
    /// `FROM x as y`.
    FROM_AS_CASING,
    Instructions,
    "FromAsCasing",
    "from-as-casing",
    "The 'as' keyword should match the case of the 'from' keyword"
);
rule!(
    /// `MAINTAINER` at all.
    MAINTAINER_DEPRECATED,
    Instructions,
    "MaintainerDeprecated",
    "maintainer-deprecated",
    "The MAINTAINER instruction is deprecated, use a label instead to define an image author"
);
/// A comment above a stage or argument that does not begin with its name.
pub static INVALID_DEFINITION_DESCRIPTION: Rule = Rule {
    name: "InvalidDefinitionDescription",
    description: "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. \
                  If this is not intended to be a description comment, add an empty line or comment between the instruction \
                  and the comment.",
    url: Some("https://docs.docker.com/go/dockerfile/rule/invalid-definition-description/"),
    pass: Pass::Instructions,
    experimental: true,
};

rule!(
    /// A stage called `context` or `scratch`.
    RESERVED_STAGE_NAME,
    Names,
    "ReservedStageName",
    "reserved-stage-name",
    "Reserved words should not be used as stage names"
);
rule!(
    /// A stage's name that an earlier one has.
    DUPLICATE_STAGE_NAME,
    Names,
    "DuplicateStageName",
    "duplicate-stage-name",
    "Stage names should be unique"
);
rule!(
    /// A keyword that is not spelled like most of them.
    CONSISTENT_INSTRUCTION_CASING,
    Casing,
    "ConsistentInstructionCasing",
    "consistent-instruction-casing",
    "All commands within the Dockerfile should use the same casing (either upper or lower)"
);
rule!(
    /// A base name that is none when no argument is given.
    INVALID_DEFAULT_ARG_IN_FROM,
    Defaults,
    "InvalidDefaultArgInFrom",
    "invalid-default-arg-in-from",
    "Default value for global ARG results in an empty or invalid base image name"
);
rule!(
    /// A variable of a `FROM` that no `ARG` above it declares.
    UNDEFINED_ARG_IN_FROM,
    Froms,
    "UndefinedArgInFrom",
    "undefined-arg-in-from",
    "FROM command must use declared ARGs"
);
rule!(
    /// `--platform=$TARGETPLATFORM`.
    REDUNDANT_TARGET_PLATFORM,
    Froms,
    "RedundantTargetPlatform",
    "redundant-target-platform",
    "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior"
);
rule!(
    /// `--platform=linux/amd64`.
    FROM_PLATFORM_FLAG_CONST_DISALLOWED,
    Froms,
    "FromPlatformFlagConstDisallowed",
    "from-platform-flag-const-disallowed",
    "FROM --platform flag should not use a constant value"
);
/// A base image for another platform than asked for. It has no page.
pub static INVALID_BASE_IMAGE_PLATFORM: Rule = Rule {
    name: "InvalidBaseImagePlatform",
    description: "Base image platform does not match expected target platform",
    url: None,
    pass: Pass::Bases,
    experimental: false,
};

rule!(
    /// A variable that nothing sets.
    UNDEFINED_VAR,
    Steps,
    "UndefinedVar",
    "undefined-var",
    "Variables should be defined before their use"
);
rule!(
    /// `ENV key value`.
    LEGACY_KEY_VALUE_FORMAT,
    Steps,
    "LegacyKeyValueFormat",
    "legacy-key-value-format",
    "Legacy key/value format with whitespace separator should not be used"
);
rule!(
    /// A key that sounds like a secret's.
    SECRETS_USED_IN_ARG_OR_ENV,
    Steps,
    "SecretsUsedInArgOrEnv",
    "secrets-used-in-arg-or-env",
    "Sensitive data should not be used in the ARG or ENV commands"
);
rule!(
    /// A relative directory before any absolute one.
    WORKDIR_RELATIVE_PATH,
    Steps,
    "WorkdirRelativePath",
    "workdir-relative-path",
    "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes"
);
rule!(
    /// A source that the ignore file leaves out.
    COPY_IGNORED_FILE,
    Steps,
    "CopyIgnoredFile",
    "copy-ignored-file",
    "Attempting to Copy file that is excluded by .dockerignore"
);
rule!(
    /// A second `CMD`, `ENTRYPOINT` or `HEALTHCHECK` of a stage.
    MULTIPLE_INSTRUCTIONS_DISALLOWED,
    Steps,
    "MultipleInstructionsDisallowed",
    "multiple-instructions-disallowed",
    "Multiple instructions of the same type should not be used in the same stage"
);
rule!(
    /// A `CMD` or `ENTRYPOINT` for the default shell.
    JSON_ARGS_RECOMMENDED,
    Steps,
    "JSONArgsRecommended",
    "json-args-recommended",
    "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals"
);
rule!(
    /// `80/TCP`.
    EXPOSE_PROTO_CASING,
    Steps,
    "ExposeProtoCasing",
    "expose-proto-casing",
    "Protocol in EXPOSE instruction should be lowercase"
);
rule!(
    /// `127.0.0.1:80:80`.
    EXPOSE_INVALID_FORMAT,
    Steps,
    "ExposeInvalidFormat",
    "expose-invalid-format",
    "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release"
);

/// All of them: by pass, and within a pass in the order in which BuildKit looks for them at one place.
pub static RULES: [&Rule; 22] = [
    &NO_EMPTY_CONTINUATION,
    &STAGE_NAME_CASING,
    &FROM_AS_CASING,
    &MAINTAINER_DEPRECATED,
    &INVALID_DEFINITION_DESCRIPTION,
    &RESERVED_STAGE_NAME,
    &DUPLICATE_STAGE_NAME,
    &CONSISTENT_INSTRUCTION_CASING,
    &INVALID_DEFAULT_ARG_IN_FROM,
    &UNDEFINED_ARG_IN_FROM,
    &REDUNDANT_TARGET_PLATFORM,
    &FROM_PLATFORM_FLAG_CONST_DISALLOWED,
    &INVALID_BASE_IMAGE_PLATFORM,
    &UNDEFINED_VAR,
    &LEGACY_KEY_VALUE_FORMAT,
    &SECRETS_USED_IN_ARG_OR_ENV,
    &WORKDIR_RELATIVE_PATH,
    &COPY_IGNORED_FILE,
    &MULTIPLE_INSTRUCTIONS_DISALLOWED,
    &JSON_ARGS_RECOMMENDED,
    &EXPOSE_PROTO_CASING,
    &EXPOSE_INVALID_FORMAT,
];

/// Whether a comment above the instruction that a finding points at has a say in it. For a repeated instruction, the comment
/// above the repetition has.
pub fn heeds_comments(rule: &Rule) -> bool {
    rule.pass.heeds_comments() && rule.name != MULTIPLE_INSTRUCTIONS_DISALLOWED.name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_stand_in_the_order_of_their_passes() {
        assert!(RULES.is_sorted_by_key(|rule| rule.pass));
    }

    #[test]
    fn pages_are_called_like_their_rules() {
        for rule in RULES {
            let page = rule.url.map(|url| url.trim_end_matches('/').rsplit('/').next().unwrap_or_default().replace('-', ""));
            assert!(page.is_none_or(|page| page == rule.name.to_lowercase()), "{}", rule.name);
        }
    }
}
