//! What a cache by content does, in its simplest form: each step has a key made of all that it can see, and runs if no step
//! with that key has run before.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::world::{Command, Step, World};

/// Names a layer: equal names, equal bytes.
type LayerName = String;

/// What was built so far in one store.
#[derive(Default)]
pub struct Model {
    /// The layer that each key gave.
    results: HashMap<String, LayerName>,
    /// The first layer with some changes on some layers: later equal ones are given up for it.
    adoptable: HashMap<String, LayerName>,
    runs: usize,
}

/// A path's content; directories have none. Modes as a context has them.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Entry {
    content: Option<String>,
    mode: u32,
}

/// A stage on its way.
#[derive(Clone, Default)]
struct Tree {
    layers: Vec<LayerName>,
    entries: BTreeMap<String, Entry>,
    /// Variables and arguments alike: the last one of a name counts and stands last, and a stage that starts from another one
    /// inherits them.
    env: Vec<(String, String)>,
    /// The image's variables alone, each where it was first set: a stage begins by setting them again.
    image_env: Vec<(String, String)>,
    cwd: String,
}

impl Tree {
    fn set(&mut self, name: &str, value: &str) {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.to_owned()));
    }

    fn value(&self, name: &str) -> &str {
        self.env.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

impl Model {
    /// How many steps a build of the last stage runs.
    pub fn build(&mut self, world: &World) -> usize {
        self.runs = 0;
        let mut built = BTreeMap::new();
        self.stage(world, world.stages.len() - 1, &mut built);
        self.runs
    }

    fn stage(&mut self, world: &World, number: usize, built: &mut BTreeMap<usize, Tree>) {
        if built.contains_key(&number) {
            return;
        }
        let stage = &world.stages[number];
        let mut tree = match stage.base {
            Some(base) => {
                self.stage(world, base, built);
                built[&base].clone()
            }
            None => {
                let path = vec![("PATH".to_owned(), "the image's".to_owned())];
                let layers = vec!["busybox".to_owned()];
                Tree { layers, env: path.clone(), image_env: path, cwd: "/".to_owned(), ..Tree::default() }
            }
        };
        for (name, value) in tree.image_env.clone() {
            tree.set(&name, &value);
        }
        self.copy(&mut tree, selected(world, "base"), "/out");
        for step in &stage.steps {
            match step {
                Step::Copy { from, to, chmod } => {
                    let mut files = selected(world, from);
                    if *chmod {
                        files.values_mut().for_each(|entry| entry.mode = 0o700);
                    }
                    self.copy_with(&mut tree, files, &format!("/c{to}"), if *chmod { 0o700 } else { 0o755 });
                }
                Step::CopyStage { stage } => {
                    self.stage(world, *stage, built);
                    let from = &built[stage].entries;
                    let files = from
                        .range("/out/".to_owned().."/out0".to_owned())
                        .map(|(path, entry)| (path["/out/".len()..].to_owned(), entry.clone()))
                        .collect();
                    self.copy(&mut tree, files, &format!("/from{stage}"));
                }
                Step::Run { id, command, .. } => self.command(world, &mut tree, step, *id, command),
                Step::Arg { name } => {
                    tree.set(name, &world.build_args[name].to_string());
                }
                Step::Env { name, value } => {
                    tree.set(name, &value.to_string());
                    match tree.image_env.iter_mut().find(|(known, _)| known == name) {
                        Some(known) => known.1 = value.to_string(),
                        None => tree.image_env.push((name.clone(), value.to_string())),
                    }
                }
                Step::Workdir { number } => {
                    tree.cwd = format!("/w{number}/deep");
                    let missing: Vec<String> = [format!("/w{number}"), tree.cwd.clone()]
                        .into_iter()
                        .filter(|path| !tree.entries.contains_key(path))
                        .collect();
                    let layer = self.make(format!("mkdir {missing:?}"));
                    tree.layers.push(layer);
                    tree.entries.extend(missing.into_iter().map(|path| (path, Entry { content: None, mode: 0o755 })));
                }
                Step::Label { .. } => {}
            }
        }
        built.insert(number, tree);
    }

    fn copy(&mut self, tree: &mut Tree, files: BTreeMap<String, Entry>, to: &str) {
        self.copy_with(tree, files, to, 0o755);
    }

    /// The layer of a copy is decided by what it holds: the files, and the directories above them as they are then.
    fn copy_with(&mut self, tree: &mut Tree, files: BTreeMap<String, Entry>, to: &str, new_mode: u32) {
        let mut holds = BTreeMap::new();
        let above = tree.entries.get(to).cloned().unwrap_or(Entry { content: None, mode: new_mode });
        holds.insert(to.to_owned(), above);
        holds.extend(files.into_iter().map(|(path, entry)| (format!("{to}/{path}"), entry)));
        // what is there just so is left out, and a directory with everything in it
        let mut new: BTreeMap<&String, &Entry> = BTreeMap::new();
        for (path, entry) in holds.iter().rev() {
            let is_needed = new.keys().any(|other| other.starts_with(&format!("{path}/")));
            if is_needed || tree.entries.get(path) != Some(entry) {
                new.insert(path, entry);
            }
        }
        let layer = self.make(format!("copy {new:?}"));
        tree.layers.push(layer);
        tree.entries.extend(holds);
    }

    fn command(&mut self, world: &World, tree: &mut Tree, step: &Step, id: usize, command: &Command) {
        let mounted = match command {
            Command::Mounted(directory) => selected(world, directory),
            _ => BTreeMap::new(),
        };
        let key = format!("{} {:?} {} {:?} {mounted:?}", step.text(), tree.env, tree.cwd, tree.layers);
        let in_directory = |number: &usize| {
            let prefix = format!("/c{number}/");
            let files =
                tree.entries.iter().filter(|(path, _)| path.strip_prefix(&prefix).is_some_and(|rest| !rest.contains('/')));
            files.filter_map(|(_, entry)| entry.content.clone()).collect::<String>()
        };
        let word = match step {
            Step::Run { word, .. } => format!("w{word}\n"),
            _ => unreachable!("commands come with RUN"),
        };
        let mut gone: BTreeSet<String> = BTreeSet::new();
        let output = match command {
            Command::Word => word,
            Command::Cat(number) => in_directory(number),
            Command::Count(number) => format!("{}\n", in_directory(number).len()),
            Command::Mounted(_) => {
                let direct = mounted.iter().filter(|(path, _)| !path.contains('/'));
                format!("{}\n", direct.filter_map(|(_, entry)| entry.content.as_ref()).map(String::len).sum::<usize>())
            }
            Command::Variable(name) => format!("{}\n", tree.value(name)),
            Command::Remove(number) => {
                let root = format!("/c{number}");
                let below = format!("{root}/");
                gone.extend(tree.entries.keys().filter(|path| **path == root || path.starts_with(&below)).cloned());
                word
            }
        };
        let changes = format!("{:?} {id} {output:?} {:?}", tree.layers, gone.first());
        let adoptable = &mut self.adoptable;
        let layer = match self.results.get(&key) {
            Some(layer) => layer.clone(),
            None => {
                self.runs += 1;
                let layer = adoptable.entry(changes).or_insert_with(|| key.clone()).clone();
                self.results.insert(key, layer.clone());
                layer
            }
        };
        tree.layers.push(layer);
        tree.entries.retain(|path, _| !gone.contains(path));
        tree.entries.insert(format!("/out/o{id}"), Entry { content: Some(output), mode: 0o644 });
    }

    /// A step that makes files: its key names what its layer holds.
    fn make(&mut self, key: String) -> LayerName {
        if !self.results.contains_key(&key) {
            self.runs += 1;
            self.results.insert(key.clone(), key.clone());
        }
        key
    }
}

/// What `COPY from` takes: the files below a directory with their directories, or one file.
fn selected(world: &World, from: &str) -> BTreeMap<String, Entry> {
    let mut selected = BTreeMap::new();
    for (path, file) in world.files.iter().filter(|(path, _)| world.offers(path)) {
        let entry = Entry { content: Some(file.content.clone()), mode: file.mode };
        if path == from {
            let name = path.rsplit('/').next().expect("a name");
            selected.insert(name.to_owned(), entry);
        } else if let Some(rest) = path.strip_prefix(from).and_then(|rest| rest.strip_prefix('/')) {
            if let Some((directory, _)) = rest.split_once('/') {
                selected.insert(directory.to_owned(), Entry { content: None, mode: 0o755 });
            }
            selected.insert(rest.to_owned(), entry);
        }
    }
    // a directory whose files are all hidden is still there
    for path in world.files.keys() {
        if let Some((directory, _)) = path.strip_prefix(from).and_then(|rest| rest.strip_prefix('/')?.split_once('/')) {
            selected.entry(directory.to_owned()).or_insert(Entry { content: None, mode: 0o755 });
        }
    }
    selected
}
