//! A Dockerfile and a context as data, and the ways in which one thing of them changes.

use std::collections::BTreeMap;
use std::fmt::Write;

/// A sequence that a seed decides (SplitMix64).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % limit as u64) as usize
    }

    pub fn pick<'a, T>(&mut self, among: &'a [T]) -> &'a T {
        &among[self.below(among.len())]
    }
}

/// A file of the context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub content: String,
    pub mode: u32,
    /// Seconds since 1970; `None` for the time of writing.
    pub mtime_secs: Option<u64>,
}

/// One stage; its first step copies `base` of the context to `/out/`.
#[derive(Clone, Debug)]
pub struct Stage {
    /// The number of an earlier stage; `None` for busybox.
    pub base: Option<usize>,
    pub steps: Vec<Step>,
}

/// One instruction.
#[derive(Clone, Debug)]
pub enum Step {
    /// `COPY from /cTO/`: a directory or a file of the context.
    Copy { from: String, to: usize, chmod: bool },
    /// `COPY --from=sSTAGE /out/ /fromSTAGE/`.
    CopyStage { stage: usize },
    /// `RUN`: see [`Command`]. `id` names its output and is never used again.
    Run { id: usize, word: usize, command: Command },
    /// `ARG NAME`.
    Arg { name: String },
    /// `ENV NAME=value`.
    Env { name: String, value: usize },
    /// `WORKDIR /wNUMBER/deep`.
    Workdir { number: usize },
    /// `LABEL l=value`.
    Label { value: usize },
}

/// What a command writes to `/out/oID`.
#[derive(Clone, Debug)]
pub enum Command {
    /// A word of its own.
    Word,
    /// The files in `/cNUMBER`.
    Cat(usize),
    /// How many bytes those files have.
    Count(usize),
    /// How many bytes the files of a mounted context directory have.
    Mounted(String),
    /// The value of a variable.
    Variable(String),
    /// A word, after deleting `/cNUMBER`.
    Remove(usize),
}

/// Everything that a build is made of.
#[derive(Clone, Debug)]
pub struct World {
    pub files: BTreeMap<String, File>,
    /// Whether `.dockerignore` hides `*.skip`.
    pub ignores: bool,
    pub build_args: BTreeMap<String, usize>,
    pub stages: Vec<Stage>,
    pub comment: usize,
    /// The name of the context's directory.
    pub place: String,
    /// How often the whole context was deleted and written anew.
    pub rewritten: usize,
    next_id: usize,
}

/// `unused` is copied by nobody.
const DIRECTORIES: [&str; 4] = ["base", "lib", "src", "unused"];
const NAMES: [&str; 6] = ["a", "b", "c.skip", "sub/d", "sub/e.skip", "z"];
const VARIABLES: [&str; 3] = ["ONE", "TWO", "THREE"];

impl World {
    pub fn new(random: &mut Random) -> World {
        let mut files = BTreeMap::new();
        for directory in DIRECTORIES {
            for name in ["keep", "a", "c.skip", "sub/d"] {
                files.insert(format!("{directory}/{name}"), file(random));
            }
        }
        let mut world = World {
            files,
            ignores: false,
            build_args: VARIABLES.iter().map(|name| ((*name).to_owned(), 1)).collect(),
            stages: Vec::new(),
            comment: 0,
            place: "ctx".to_owned(),
            rewritten: 0,
            next_id: 0,
        };
        for number in 0..3 {
            let base = (number > 0 && random.below(2) == 0).then(|| random.below(number));
            // the last stage needs the others, so that few changes go unseen
            let others = (0..number).filter(|_| number == 2).map(|stage| Step::CopyStage { stage });
            let steps: Vec<Step> = others.chain((0..3 + random.below(3)).map(|_| world.step(number, random))).collect();
            world.stages.push(Stage { base, steps });
        }
        world
    }

    pub fn dockerignore(&self) -> Option<String> {
        self.ignores.then(|| "**/*.skip\n".to_owned())
    }

    /// Whether the build sees a file.
    pub fn offers(&self, path: &str) -> bool {
        !(self.ignores && path.ends_with(".skip"))
    }

    pub fn dockerfile(&self) -> String {
        let mut text = format!("# comment {}\n", self.comment);
        for (number, stage) in self.stages.iter().enumerate() {
            let base = stage.base.map_or("busybox".to_owned(), |base| format!("s{base}"));
            writeln!(text, "FROM {base} AS s{number}\nCOPY base /out/").expect("writes");
            for step in &stage.steps {
                writeln!(text, "{}", step.text()).expect("writes");
            }
        }
        text
    }

    /// Changes one thing and says what.
    pub fn change(&mut self, random: &mut Random, former: &[World]) -> String {
        let said = match random.below(18) {
            0..=2 => {
                let path = self.any_file(random);
                let content = content(random);
                let said = format!("{path} holds {content:?}");
                let file = self.files.get_mut(&path).expect("there");
                (file.content, file.mtime_secs) = (content, None);
                said
            }
            3 => {
                let path = self.any_file(random);
                let time = 1_000_000_000 + random.below(700_000_000) as u64;
                self.files.get_mut(&path).expect("there").mtime_secs = Some(time);
                format!("{path} has the time {time}")
            }
            4 => {
                let path = self.any_file(random);
                let file = self.files.get_mut(&path).expect("there");
                file.mode ^= 0o111;
                format!("{path} has the mode {:o}", file.mode)
            }
            5 | 6 => {
                let path = format!("{}/{}", random.pick(&DIRECTORIES), random.pick(&NAMES));
                match self.files.remove(&path) {
                    Some(_) => format!("{path} is deleted"),
                    None => {
                        self.files.insert(path.clone(), file(random));
                        format!("{path} is new")
                    }
                }
            }
            7 => {
                self.ignores = !self.ignores;
                format!("skipped files are ignored: {}", self.ignores)
            }
            8 => {
                self.comment += 1;
                "the comment is edited".to_owned()
            }
            9 => {
                let name = random.pick(&VARIABLES).to_owned();
                let value = random.below(3);
                self.build_args.insert(name.to_owned(), value);
                format!("--build-arg {name}={value}")
            }
            10 => {
                self.place = format!("place{}", random.below(1000));
                format!("the context moves to {}", self.place)
            }
            11 => {
                self.rewritten += 1;
                "the context is written anew".to_owned()
            }
            12 => {
                *self = World { next_id: self.next_id, place: self.place.clone(), ..random.pick(former).clone() };
                "back to a former state".to_owned()
            }
            13 => {
                let number = random.below(self.stages.len());
                self.stages[number].base = (number > 0 && random.below(2) == 0).then(|| random.below(number));
                format!("stage {number} starts from {:?}", self.stages[number].base)
            }
            14 => {
                let number = random.below(self.stages.len());
                let step = self.step(number, random);
                let steps = &mut self.stages[number].steps;
                let at = random.below(steps.len() + 1);
                let said = format!("stage {number}, new at {at}: {}", step.text());
                steps.insert(at, step);
                said
            }
            15 => {
                let number = random.below(self.stages.len());
                let steps = &mut self.stages[number].steps;
                if steps.is_empty() {
                    return "nothing".to_owned();
                }
                let step = steps.remove(random.below(steps.len()));
                format!("stage {number} without {}", step.text())
            }
            16 => {
                let number = random.below(self.stages.len());
                let steps = &mut self.stages[number].steps;
                if steps.len() < 2 {
                    return "nothing".to_owned();
                }
                let at = random.below(steps.len() - 1);
                steps.swap(at, at + 1);
                format!("stage {number}: steps {at} and {} change places", at + 1)
            }
            _ => {
                let number = random.below(self.stages.len());
                let steps = &mut self.stages[number].steps;
                if steps.is_empty() {
                    return "nothing".to_owned();
                }
                let at = random.below(steps.len());
                steps[at].edit(random);
                format!("stage {number}, step {at} is now {}", steps[at].text())
            }
        };
        format!("{}: {said}", former.len())
    }

    /// A new step for stage `number`.
    fn step(&mut self, number: usize, random: &mut Random) -> Step {
        match random.below(12) {
            0..=2 => {
                let from = match random.below(4) {
                    0 => "lib/keep",
                    1 => "src/keep",
                    2 => "lib",
                    _ => "src",
                };
                Step::Copy { from: from.to_owned(), to: random.below(3), chmod: random.below(4) == 0 }
            }
            3 | 4 if number > 0 => Step::CopyStage { stage: random.below(number) },
            5 => Step::Arg { name: random.pick(&VARIABLES).to_string() },
            6 => Step::Env { name: random.pick(&VARIABLES).to_string(), value: random.below(3) },
            7 => Step::Workdir { number: random.below(2) },
            8 => Step::Label { value: random.below(3) },
            _ => {
                self.next_id += 1;
                let command = match random.below(7) {
                    0 => Command::Word,
                    1 => Command::Cat(random.below(3)),
                    2 | 3 => Command::Count(random.below(3)),
                    4 => Command::Mounted(random.pick(&["lib", "src"]).to_string()),
                    5 => Command::Variable(random.pick(&VARIABLES).to_string()),
                    _ => Command::Remove(random.below(3)),
                };
                Step::Run { id: self.next_id, word: random.below(3), command }
            }
        }
    }

    fn any_file(&self, random: &mut Random) -> String {
        let paths: Vec<&String> = self.files.keys().collect();
        (*random.pick(&paths)).clone()
    }
}

impl Step {
    /// Another word, value, place or mode in the same instruction.
    fn edit(&mut self, random: &mut Random) {
        match self {
            Step::Copy { to, chmod, .. } if random.below(2) == 0 => (*to, *chmod) = ((*to + 1) % 3, *chmod),
            Step::Copy { chmod, .. } => *chmod = !*chmod,
            Step::Run { word, .. } => *word += 1,
            Step::Env { value, .. } | Step::Label { value } => *value += 1,
            Step::Workdir { number } => *number = 1 - *number,
            Step::CopyStage { .. } | Step::Arg { .. } => {}
        }
    }

    pub fn text(&self) -> String {
        match self {
            Step::Copy { from, to, chmod } => {
                format!("COPY {}{from} /c{to}/", if *chmod { "--chmod=700 " } else { "" })
            }
            Step::CopyStage { stage } => format!("COPY --from=s{stage} /out/ /from{stage}/"),
            Step::Run { id, word, command } => {
                let (flags, shell) = match command {
                    Command::Word => (String::new(), format!("echo w{word} > /out/o{id}")),
                    Command::Cat(number) => (String::new(), format!("cat /c{number}/* > /out/o{id} 2>/dev/null; : {word}")),
                    Command::Count(number) => {
                        (String::new(), format!("cat /c{number}/* 2>/dev/null | wc -c > /out/o{id}; : {word}"))
                    }
                    Command::Mounted(directory) => (
                        format!("--mount=type=bind,source={directory},target=/mnt "),
                        format!("cat /mnt/* 2>/dev/null | wc -c > /out/o{id}; : {word}"),
                    ),
                    Command::Variable(name) => (String::new(), format!("echo ${name} > /out/o{id}; : {word}")),
                    Command::Remove(number) => (String::new(), format!("rm -rf /c{number} && echo w{word} > /out/o{id}")),
                };
                format!("RUN {flags}{shell}")
            }
            Step::Arg { name } => format!("ARG {name}"),
            Step::Env { name, value } => format!("ENV {name}={value}"),
            Step::Workdir { number } => format!("WORKDIR /w{number}/deep"),
            Step::Label { value } => format!("LABEL l={value}"),
        }
    }
}

fn file(random: &mut Random) -> File {
    File { content: content(random), mode: 0o644, mtime_secs: None }
}

/// One of few, so that files come to be equal and former states come back.
fn content(random: &mut Random) -> String {
    ["", "1\n", "2\n", "33\n", "a longer one\n"][random.below(5)].to_owned()
}
