//! What several benchmarks need: trees to build from, programs to time, figures.
#![allow(dead_code)] // every benchmark uses a part

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// So many files of 10.7 KB each, of words: as compressible as source code, equal for equal seeds.
pub fn write_tree(directory: &Path, files: u32, seed: u64) {
    const WORDS: [&str; 16] = [
        "barrel ",
        "let mut ",
        "stave",
        "return ",
        "hoop(",
        ") {\n    ",
        "croze",
        "bilge; ",
        "match ",
        "chime =",
        " head,\n",
        "0x",
        "1024 ",
        "cooper",
        "fn ",
        "}\n\n",
    ];
    let mut state = seed;
    for file in 0..files {
        let parent = directory.join(format!("d{:02}/d{}", file % 75, file % 7));
        fs::create_dir_all(&parent).expect("directories");
        let mut text = String::new();
        while text.len() < 10_700 {
            // Knuth's MMIX generator
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let bits = state >> 33;
            text.push_str(WORDS[(bits & 15) as usize]);
            if bits >> 4 & 3 == 0 {
                text.push_str(&format!("{:x}", bits >> 6));
            }
        }
        fs::write(parent.join(format!("f{file}.rs")), text).expect("writes");
    }
}

/// The middle one.
pub fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// In milliseconds.
pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Starts the program itself, so that no shell is in the times; only what needs two programs runs in one. Paths and names
/// here hold no blanks.
pub fn shell(line: &str) -> Command {
    let (program, arguments) = match line.split_once(' ') {
        Some((program, arguments)) if !line.contains("&&") => (program, arguments.split_whitespace().collect()),
        _ => ("sh", vec!["-e", "-c", line]),
    };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    command
}
