//! The plans for several platforms as one: steps that do not depend on the platform are one step.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Draft, DraftHistory, Lowered};
use crate::graph::{Graph, Op, StepIndex};

/// What a Dockerfile comes to for all platforms asked for.
#[derive(Debug)]
pub struct Joined {
    /// All steps that the images need.
    pub graph: Graph,
    /// One per platform, in the order asked for.
    pub images: Vec<JoinedImage>,
    /// `SOURCE_DATE_EPOCH`, in seconds.
    pub epoch: Option<i64>,
    /// Which paths of each context are read.
    pub context_uses: BTreeMap<String, BTreeSet<String>>,
    /// The steps to show: those of the first platform in the order of the file, then what the next ones add.
    pub steps: Vec<StepIndex>,
}

/// The image for one platform.
#[derive(Debug)]
pub struct JoinedImage {
    /// The step that gives its tree.
    pub target: StepIndex,
    /// The image, without layers and times.
    pub draft: Draft,
    /// Trees that a scanner of the image is shown beside it, by name.
    pub extras: BTreeMap<String, StepIndex>,
    /// The step that scans it, if who reads the plan has added one.
    pub scan: Option<StepIndex>,
}

/// Joins plans, in order. Equal steps have equal names in all graphs ([`Graph::add`]), so joining is adding. `pin` may make an op
/// more exact on the way.
pub fn join(plans: Vec<Lowered>, pin: impl Fn(Op) -> Op) -> Joined {
    let mut joined = Joined {
        graph: Graph::new(),
        images: Vec::with_capacity(plans.len()),
        epoch: None,
        context_uses: BTreeMap::new(),
        steps: Vec::new(),
    };
    for plan in plans {
        joined.add(plan, &pin);
    }
    joined.steps.sort_unstable();
    joined.steps.dedup();
    joined
}

impl Joined {
    fn add(&mut self, plan: Lowered, pin: &impl Fn(Op) -> Op) {
        let mut places: HashMap<StepIndex, StepIndex> = HashMap::with_capacity(plan.graph.len());
        // a step is added after its inputs, so those have their places already
        for index in plan.graph.indices() {
            let step = plan.graph.step(index);
            let inputs: Vec<StepIndex> = plan.graph.inputs(index).iter().map(|input| places[input]).collect();
            places.insert(index, self.graph.add(pin(step.op.clone()), &inputs, step.origin.clone()));
        }
        let layer = |item: DraftHistory| DraftHistory { layer: item.layer.map(|layer| places[&layer]), ..item };
        let history = plan.draft.history.into_iter().map(layer).collect();
        let draft = Draft { history, ..plan.draft };
        let extras = plan.extras.into_iter().map(|(name, step)| (name, places[&step])).collect();
        self.images.push(JoinedImage { target: places[&plan.target], draft, extras, scan: None });
        self.epoch = self.epoch.or(plan.epoch);
        for (context, paths) in plan.context_uses {
            self.context_uses.entry(context).or_default().extend(paths);
        }
        self.steps.extend(plan.steps.iter().map(|index| places[index]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::Source;
    use crate::dockerfile;
    use crate::plan::{Bases, Options, lower};

    fn joined(text: &str, platforms: &[&str]) -> Joined {
        let (dockerfile, _) = dockerfile::parse(&Source::new("Dockerfile", text));
        let plan = |platform: &&str| {
            let build_platform = "linux/amd64".parse().expect("valid");
            let target_platform = platform.parse().expect("valid");
            let options =
                Options { target_platform, platform_requested: true, platform_in_names: true, ..Options::new(build_platform) };
            lower(&dockerfile, &options, &Bases::new()).0.expect("lowers")
        };
        join(platforms.iter().map(plan).collect(), |op| op)
    }

    fn names(joined: &Joined) -> Vec<&str> {
        joined.steps.iter().map(|index| joined.graph.step(*index).origin.name.as_str()).collect()
    }

    #[test]
    fn equal_steps_are_one_and_images_keep_their_order() {
        let text = "FROM scratch AS files\nCOPY a /\nFROM scratch\nCOPY --from=files / /x\nARG TARGETARCH\nLABEL a=$TARGETARCH\n";
        let joined = joined(text, &["linux/arm64", "linux/amd64"]);
        let same = "[linux/arm64 files 1/1] COPY a /";
        assert_eq!(names(&joined), ["[internal] load build context", same, "[linux/arm64 stage-1 1/1] COPY --from=files / /x"]);
        let architectures: Vec<&str> = joined.images.iter().map(|image| image.draft.config.architecture.as_str()).collect();
        assert_eq!(architectures, ["arm64", "amd64"]);
        assert_eq!(joined.images[0].target, joined.images[1].target);
    }

    #[test]
    fn steps_that_differ_stay_apart() {
        let joined = joined("FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /\n", &["linux/amd64", "linux/s390x"]);
        assert_ne!(joined.images[0].target, joined.images[1].target);
        let layers: Vec<Option<StepIndex>> =
            joined.images.iter().map(|image| image.draft.history.iter().find_map(|item| item.layer)).collect();
        assert_eq!(layers, joined.images.iter().map(|image| Some(image.target)).collect::<Vec<_>>());
        assert_eq!(names(&joined).len(), 3);
    }
}
