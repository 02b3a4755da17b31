//! Parsing and planning a Dockerfile of 2,000 lines, of which every stage is needed.
//!
//! `cargo bench --bench plan`

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::{Duration, Instant};

use croze::diagnostic::{Severity, Source};
use croze::dockerfile;
use croze::plan::{self, Bases, Options};
use croze::reference::Platform;

/// The program's own: much of planning is allocation.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const LINES: usize = 2_000;
const ROUNDS: usize = 200;

fn main() {
    let source = Source::new("Dockerfile", text());
    let mut parsed = Vec::new();
    let mut whole = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let (dockerfile, diagnostics) = dockerfile::parse(black_box(&source));
        parsed.push(start.elapsed());
        let options = Options::new(Platform::host());
        let wanted = plan::wanted_images(&dockerfile, &options, &Bases::new()).expect("the file has no errors");
        let (lowered, more) = plan::lower(&dockerfile, &options, &Bases::new());
        black_box((&lowered, &more));
        whole.push(start.elapsed());
        assert!(wanted.is_empty() && lowered.is_some());
        assert!(diagnostics.iter().chain(&more).all(|diagnostic| diagnostic.severity == Severity::Warning));
    }
    show("parse", parsed);
    show("parse and plan", whole);
}

/// Stages of twenty lines and more, each copying from the one before.
fn text() -> String {
    let mut text = String::from("# syntax=docker/dockerfile:1\nARG VERSION=1.2.3\n");
    let mut stage = 0_usize;
    while text.lines().count() < LINES {
        let copy = match stage.checked_sub(1) {
            None => "COPY src /src".to_owned(),
            Some(last) => format!("COPY --from=stage{last} --link /out /src"),
        };
        write!(
            text,
            r#"FROM scratch AS stage{stage}
ARG VERSION
ARG TARGETARCH
ENV HOME=/home/app PATH=/opt/tool-$VERSION/bin:$PATH \
    LANG=C.UTF-8
WORKDIR /src/stage{stage}
{copy}
# fetch, build, tidy up
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked --mount=type=bind,source=list,target=/list \
    set -eux; \
    apt-get update; \
    apt-get install -y --no-install-recommends build-essential=$VERSION ca-certificates; \
    make -j"$(nproc)" ARCH=${{TARGETARCH:-amd64}} PREFIX=/out
RUN <<END
set -e
echo "stage {stage}" > /out/name
END
COPY --chown=1000:1000 --chmod=0644 one two* three/ /etc/app/
LABEL org.example.stage="{stage}" org.example.version="$VERSION"
CMD ["/out/app", "--stage", "{stage}"]
"#
        )
        .expect("strings take all");
        stage += 1;
    }
    text
}

fn show(name: &str, mut times: Vec<Duration>) {
    times.sort();
    println!("{name}: min {:?}, median {:?}, max {:?}", times[0], times[times.len() / 2], times[times.len() - 1]);
}
