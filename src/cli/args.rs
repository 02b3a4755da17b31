//! The flags: names and meanings are those of `docker buildx build`; values stay text here ([`super::values`] reads them).

use std::path::PathBuf;

use clap::{ArgAction, Parser, Subcommand, ValueEnum};

use crate::cli::cache_mount::CacheMountArgs;
use crate::cli::context::{ContextArgs, ContextModes};
use crate::cli::resources::CommandArgs;
use crate::cli::values;

/// Builds OCI images from Dockerfiles.
#[derive(Debug, Parser)]
#[command(name = "croze", version, about, disable_help_subcommand = true, args_override_self = true)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Directory of the store [default: $CROZE_ROOT, /var/lib/croze for root, $XDG_DATA_HOME/croze for others]
    #[arg(long, value_name = "DIR", global = true)]
    pub root: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build an image from a Dockerfile
    Build(Box<BuildArgs>),
    /// Run the command of an image, and forget what it writes to the image's files
    Run(Box<RunArgs>),
    /// Make an image of one layer from a root file system
    Import(ImportArgs),
    /// List the images in the store
    Images(ImagesArgs),
    /// Print what an image is made of, as JSON or by a template
    Inspect(InspectArgs),
    /// List the instructions that an image was made by, latest first
    History(HistoryArgs),
    /// Tell in which settings and files two images differ
    Diff(DiffArgs),
    /// Write what the names in a Dockerfile stand for into Dockerfile.lock
    Lock(Box<LockArgs>),
    /// Put the images of an archive into the store
    Load(LoadArgs),
    /// Write images as an archive for Docker, Podman and containerd
    Save(SaveArgs),
    /// Give an image another name
    Tag(TagArgs),
    /// Take names of images away
    Rmi(RmiArgs),
    /// Fetch an image from its registry
    Pull(PullArgs),
    /// Send an image to its registry
    Push(PushArgs),
    /// Log in to a registry
    Login(LoginArgs),
    /// Forget the credentials for a registry
    Logout(LogoutArgs),
    /// Tell why the steps of the last build ran or did not
    Explain(ExplainArgs),
    /// List what is in the store, and how much of it could go
    Du,
    /// Drop build cache that no image needs
    Prune(PruneArgs),
    /// Check everything in the store, and drop what is damaged
    Fsck,
    /// Show what a context holds, what its ignore file drops, and what costs most
    Context(ContextArgs),
    /// List, show, copy and drop what `RUN --mount=type=cache` keeps
    CacheMount(CacheMountArgs),
    /// Print the script by which a shell completes croze's commands and flags
    Completion(CompletionArgs),
}

/// `croze completion`.
#[derive(Debug, clap::Args)]
pub struct CompletionArgs {
    /// The shell, such as in `source <(croze completion bash)`
    #[arg(value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

/// `croze pull`.
#[derive(Debug, clap::Args)]
pub struct PullArgs {
    /// Name of the image
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    pub name: String,
    /// Platform of the image [default: $DOCKER_DEFAULT_PLATFORM, else the host's]
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
    /// Print the image ID alone
    #[arg(short, long)]
    pub quiet: bool,
}

/// `croze push`.
#[derive(Debug, clap::Args)]
pub struct PushArgs {
    /// Names of images in the store
    #[arg(value_name = "NAME[:TAG]", required = true)]
    pub names: Vec<String>,
    /// Print the digests alone
    #[arg(short, long)]
    pub quiet: bool,
}

/// `croze login`.
#[derive(Debug, clap::Args)]
pub struct LoginArgs {
    /// Host of the registry, with its port [default: docker.io]
    #[arg(value_name = "REGISTRY")]
    pub registry: Option<String>,
    /// User
    #[arg(short, long, value_name = "USER")]
    pub username: Option<String>,
    /// Password or access token; others can see it in the list of processes
    #[arg(short, long, value_name = "PASSWORD", conflicts_with = "password_stdin")]
    pub password: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    pub password_stdin: bool,
}

/// `croze logout`.
#[derive(Debug, clap::Args)]
pub struct LogoutArgs {
    /// Host of the registry, with its port [default: docker.io]
    #[arg(value_name = "REGISTRY")]
    pub registry: Option<String>,
}

/// `croze run`: flags as those of `docker run`; `--rm` is what always happens.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Give the command standard input
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Variable; the name alone takes it from the environment
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// File or directory of this machine
    #[arg(short, long = "volume", value_name = "SOURCE:TARGET[:ro]")]
    pub volumes: Vec<String>,
    /// Directory that the command starts in
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// User and group that the command runs as
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Program in place of the image's entrypoint
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// Host name
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// `--network`, `--memory` and the like.
    #[command(flatten)]
    pub commands: CommandArgs,
    /// Platform of the image [default: the host's]
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
    /// Ask the registry even if the store has the image
    #[arg(long)]
    pub pull: bool,
    #[arg(long, hide = true)]
    rm: bool,
    /// Name of the image, and a command in place of the image's: all that follows the name is the command's
    #[arg(value_name = "IMAGE [COMMAND]", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub image_and_command: Vec<String>,
}

/// `croze import`.
#[derive(Debug, clap::Args)]
pub struct ImportArgs {
    /// Tar of a root file system, plain or compressed; `-` is standard input
    #[arg(value_name = "ROOTFS.tar")]
    pub rootfs: PathBuf,
    /// Name of the image, such as `busybox:latest`
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Platform of the image [default: the host's]
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
}

/// `croze images`.
#[derive(Debug, clap::Args)]
pub struct ImagesArgs {
    /// Print IDs alone
    #[arg(short, long)]
    pub quiet: bool,
    /// Print whole IDs
    #[arg(long)]
    pub no_trunc: bool,
    /// Images that fit all of these: reference=PATTERN, label=KEY[=VALUE]
    #[arg(short, long = "filter", value_name = "KEY=VALUE")]
    pub filters: Vec<String>,
    /// What to print of each: json, or a template such as '{{.Repository}}:{{.Tag}}', `table` before it for a header
    #[arg(long, value_name = "TEMPLATE")]
    pub format: Option<String>,
    /// Images whose repository (with tag, if it has one) fits this pattern
    #[arg(value_name = "PATTERN")]
    pub pattern: Option<String>,
}

/// `croze diff`.
#[derive(Debug, clap::Args)]
pub struct DiffArgs {
    /// Name of one image
    #[arg(value_name = "A")]
    pub left: String,
    /// Name of the other
    #[arg(value_name = "B")]
    pub right: String,
}

/// `croze lock`. What a build with the same flags would ask for is locked.
#[derive(Debug, clap::Args)]
pub struct LockArgs {
    /// Ask anew for this name of an image, URL or git remote, or for all; may be repeated
    #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub update: Vec<String>,
    /// As for `croze build`.
    #[command(flatten)]
    pub build: BuildArgs,
}

/// `croze history`.
#[derive(Debug, clap::Args)]
pub struct HistoryArgs {
    /// Name of the image
    #[arg(value_name = "NAME")]
    pub name: String,
}

/// `croze inspect`.
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// What to print: json, or a template such as '{{.Config.Env}}', with Docker's names
    #[arg(short, long, value_name = "TEMPLATE")]
    pub format: Option<String>,
    /// Names of the images
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
}

/// `croze load`.
#[derive(Debug, clap::Args)]
pub struct LoadArgs {
    /// The archive [default: standard input]
    #[arg(short, long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// Name for an image that the archive gives none
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
}

/// `croze save`.
#[derive(Debug, clap::Args)]
pub struct SaveArgs {
    /// The archive [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Names of the images
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
}

/// `croze tag`.
#[derive(Debug, clap::Args)]
pub struct TagArgs {
    /// Name that the image has
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Name that it gets
    #[arg(value_name = "NEW-NAME")]
    pub new_name: String,
}

/// `croze rmi`.
#[derive(Debug, clap::Args)]
pub struct RmiArgs {
    /// Names of the images
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
}

/// `croze explain`.
#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    /// A part of a step's name, or the beginning of a layer's digest [default: all steps]
    #[arg(value_name = "STEP|LAYER")]
    pub wanted: Option<String>,
}

/// `croze prune`: the flags of `docker buildx prune`.
#[derive(Debug, clap::Args)]
pub struct PruneArgs {
    /// What pulled images are made of, too
    #[arg(short, long)]
    pub all: bool,
    /// Only some of it: until=24h, type=regular, type=exec.cachemount, id=ID; may be repeated
    #[arg(long = "filter", value_name = "FILTER")]
    pub filters: Vec<String>,
    /// Ask nobody
    #[arg(short, long)]
    pub force: bool,
    /// Drop no more than what is necessary to use at most so much
    #[arg(long, value_name = "BYTES")]
    pub max_used_space: Option<String>,
    /// Drop no more than what is necessary to have so much of the disk free
    #[arg(long, value_name = "BYTES")]
    pub min_free_space: Option<String>,
    /// Leave so much in any case
    #[arg(long, value_name = "BYTES", alias = "keep-storage")]
    pub reserved_space: Option<String>,
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProgressMode {
    /// What suits standard error
    Auto,
    /// Lines of text
    Plain,
    /// A live display (lines of text for now)
    Tty,
    /// Nothing but errors
    Quiet,
    /// BuildKit's status as one JSON object per line
    Rawjson,
    /// Nothing but errors
    None,
}

/// What happens when a command fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnError {
    /// The build fails
    Fail,
    /// A shell in its sandbox, then the build fails
    Shell,
}

/// `croze build`. As with Go's flags, the last of several values wins, and a boolean flag may carry `=true` or `=false`.
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub struct BuildArgs {
    /// Directory, git reference, URL of a tarball, or `-` for a tar or a Dockerfile on standard input
    #[arg(value_name = "CONTEXT")]
    pub context: String,

    /// Dockerfile [default: CONTEXT/Dockerfile]; `-` is standard input
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Name for the image; may be repeated
    #[arg(short, long = "tag", value_name = "NAME[:TAG]")]
    pub tags: Vec<String>,
    /// Stage to build
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,
    /// Value of an ARG; the name alone takes it from the environment
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]")]
    pub build_args: Vec<String>,
    /// Another context: directory, URL, docker-image://NAME or oci-layout://DIR
    #[arg(long = "build-context", value_name = "NAME=VALUE")]
    pub build_contexts: Vec<String>,
    /// Modes of the files in contexts: as on disk, or 0755 for what can be executed and 0644 for the rest
    #[arg(long, value_name = "as-is|normalize", default_value = "as-is", hide_possible_values = true)]
    pub context_modes: ContextModes,
    /// Metadata for the image
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<String>,
    /// Annotation of the manifest
    #[arg(long = "annotation", value_name = "KEY=VALUE")]
    pub annotations: Vec<String>,
    /// Platform to build for [default: $DOCKER_DEFAULT_PLATFORM, else the host's]
    #[arg(long = "platform", value_name = "OS/ARCH", value_delimiter = ',')]
    pub platforms: Vec<String>,

    /// Run every step
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", value_parser = values::boolean, value_name = "BOOL", hide_default_value = true, action = ArgAction::Set)]
    pub no_cache: bool,
    /// Run every step of these stages
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    pub no_cache_filter: Vec<String>,
    /// Ask the registry for base images even if the store has them
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", value_parser = values::boolean, value_name = "BOOL", hide_default_value = true, action = ArgAction::Set)]
    pub pull: bool,

    /// Where the result goes, such as type=oci,dest=image.tar; may be repeated
    #[arg(short, long = "output", value_name = "TYPE=...")]
    pub outputs: Vec<String>,
    /// Push the image to its registry
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", value_parser = values::boolean, value_name = "BOOL", hide_default_value = true, action = ArgAction::Set)]
    pub push: bool,
    /// Load the image into Docker
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", value_parser = values::boolean, value_name = "BOOL", hide_default_value = true, action = ArgAction::Set)]
    pub load: bool,
    /// File for the image ID
    #[arg(long, value_name = "FILE")]
    pub iidfile: Option<PathBuf>,
    /// File for facts about the result, as JSON
    #[arg(long, value_name = "FILE")]
    pub metadata_file: Option<PathBuf>,
    /// How progress is shown [default: $BUILDKIT_PROGRESS, else auto]
    #[arg(long, value_name = "MODE")]
    pub progress: Option<ProgressMode>,
    /// No progress; print the image ID
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", value_parser = values::boolean, value_name = "BOOL", hide_default_value = true, action = ArgAction::Set)]
    pub quiet: bool,

    /// Write what names stood for into Dockerfile.lock; `update` asks for all of them anew
    #[arg(long, value_name = "MODE", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub lock: Option<String>,
    /// Fail if Dockerfile.lock lacks a name
    #[arg(long)]
    pub locked: bool,
    /// Secret for the build
    #[arg(long = "secret", value_name = "id=ID[,src=FILE|,env=NAME]")]
    pub secrets: Vec<String>,
    /// SSH agent, or files of keys, for the build
    #[arg(long, value_name = "default|ID[=SOCKET|KEY,...]")]
    pub ssh: Vec<String>,
    /// Extra privilege that steps may use: network.host, security.insecure
    #[arg(long, value_name = "ENTITLEMENT", value_delimiter = ',')]
    pub allow: Vec<String>,
    /// End a RUN step that takes longer, such as 30m
    #[arg(long, value_name = "TIME")]
    pub step_timeout: Option<String>,
    /// End a RUN step that prints nothing for so long, such as 5m
    #[arg(long, value_name = "TIME")]
    pub no_output_timeout: Option<String>,
    /// Run a RUN step again, up to N times, when the network failed it (with `:any`, after any failure)
    #[arg(long, value_name = "N[:any]")]
    pub retry_run: Option<String>,
    /// What to do when a RUN step fails: fail, or open a shell in its sandbox first
    #[arg(long, value_name = "WHAT")]
    pub on_error: Option<OnError>,
    /// The same as `--on-error=shell`
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", value_parser = values::boolean, value_name = "BOOL", hide_default_value = true, action = ArgAction::Set)]
    pub debug_on_failure: bool,
    /// RUN steps at the same time
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..))]
    pub max_parallelism: u16,

    /// Tell why each step ran or did not
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", value_parser = values::boolean, value_name = "BOOL", hide_default_value = true, action = ArgAction::Set)]
    pub explain: bool,
    /// Take every warning for an error
    #[arg(long)]
    pub strict: bool,
    /// Only check the Dockerfile
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", value_parser = values::boolean, value_name = "BOOL", hide_default_value = true, action = ArgAction::Set)]
    pub check: bool,
    /// What to do: build, check, outline, targets, subrequests.describe; `,format=json` asks for JSON
    #[arg(long, value_name = "METHOD", default_value = "build")]
    pub call: String,
    /// Say in the image how it was made: true, false, mode=min, mode=max
    #[arg(long, value_name = "MODE", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub provenance: Option<String>,
    /// Say in the image which packages it has
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub sbom: Option<String>,
    /// Statements about the image, such as type=provenance,mode=max or type=sbom
    #[arg(long, value_name = "TYPE=...")]
    pub attest: Vec<String>,
    /// Cache to use: type=registry,ref=NAME or NAME, type=local,src=DIR, type=s3,…, type=azblob,…, type=gha; may be repeated
    #[arg(long, value_name = "TYPE=...")]
    pub cache_from: Vec<String>,
    /// Cache to write: type=registry,ref=NAME, type=local,dest=DIR, s3, azblob, gha or inline, and mode=min|max; may be repeated
    #[arg(long, value_name = "TYPE=...")]
    pub cache_to: Vec<String>,
    /// Control group that holds the RUN steps; made where it is missing
    #[arg(long, value_name = "CGROUP")]
    pub cgroup_parent: Option<String>,
    /// Source policy (not available)
    #[arg(long, value_name = "FILE")]
    pub policy: Vec<String>,

    /// `--network`, `--memory` and the like.
    #[command(flatten)]
    pub commands: CommandArgs,

    /// Flags without an effect.
    #[command(flatten)]
    pub ignored: IgnoredArgs,
}

/// Flags that scripts pass and that change nothing here: those that choose a BuildKit instance, and those of the classic
/// builder that `docker buildx build` accepts, hides and ignores as well.
#[derive(Debug, clap::Args)]
pub struct IgnoredArgs {
    #[arg(long, hide = true)]
    builder: Option<String>,
    #[arg(short = 'D', long, hide = true, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", value_parser = values::boolean, value_name = "BOOL", hide_default_value = true, action = ArgAction::Set)]
    debug: bool,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", value_parser = values::boolean, value_name = "BOOL", hide_default_value = true, action = ArgAction::Set)]
    compress: bool,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", value_parser = values::boolean, value_name = "BOOL", hide_default_value = true, action = ArgAction::Set)]
    force_rm: bool,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    rm: Option<String>,
    /// Accepted as buildx accepts it; the layers stay as they are.
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", value_parser = values::boolean, value_name = "BOOL", hide_default_value = true, action = ArgAction::Set)]
    pub squash: bool,
    #[arg(long, hide = true)]
    isolation: Option<String>,
    #[arg(long, hide = true)]
    security_opt: Vec<String>,
    #[arg(long, hide = true)]
    print: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn build(line: &str) -> Result<BuildArgs, clap::Error> {
        match Args::try_parse_from(["croze", "build"].into_iter().chain(line.split_whitespace()))?.command {
            Command::Build(args) => Ok(*args),
            other => panic!("parsed as {other:?}"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn flags_mean_what_they_mean_to_buildx() {
        let args =
            build("-t a -t b:1 -f x/Dockerfile --build-arg=A=1=2 --platform linux/amd64,linux/arm64 -o out -q .").expect("valid");
        assert_eq!(args.tags, ["a", "b:1"]);
        assert_eq!(args.build_args, ["A=1=2"]);
        assert_eq!(args.platforms, ["linux/amd64", "linux/arm64"]);
        assert_eq!((args.outputs[0].as_str(), args.quiet, args.context.as_str()), ("out", true, "."));
        assert_eq!(args.max_parallelism, 32);
    }

    #[test]
    fn a_boolean_flag_does_not_swallow_the_context() {
        let args = build("--provenance --sbom=false ctx").expect("valid");
        assert_eq!(
            (args.provenance.as_deref(), args.sbom.as_deref(), args.context.as_str()),
            (Some("true"), Some("false"), "ctx")
        );
    }

    #[test]
    fn boolean_flags_may_carry_a_value() {
        let args = build("--pull=false --no-cache=1 -qt name --push=true --push=false .").expect("valid");
        assert_eq!((args.pull, args.no_cache, args.quiet, args.push), (false, true, true, false));
        assert_eq!(args.tags, ["name"]);
    }

    #[test]
    fn the_last_of_several_values_wins() {
        assert_eq!(build("--target a --target b .").expect("valid").target.as_deref(), Some("b"));
    }

    #[test]
    fn the_store_is_named_before_or_after_the_command() {
        let root = |line: &str| Args::try_parse_from(line.split_whitespace()).expect("valid").root;
        for line in ["croze --root /s images", "croze images --root /s", "croze build --root /x --root /s ."] {
            assert_eq!(root(line).as_deref(), Some(std::path::Path::new("/s")), "{line}");
        }
        assert_eq!(root("croze images"), None);
    }

    #[test]
    fn flags_of_the_classic_builder_are_accepted() {
        build("--rm --force-rm --compress --squash -m 1g --memory-swap -1 --cpu-quota=5 --security-opt x --builder b -D .")
            .expect("valid");
    }

    #[test]
    fn unknown_flags_fail_with_code_2() {
        assert_eq!(build("--no-such-flag .").expect_err("unknown").exit_code(), 2);
    }
}
