//! What outputs will read, proven before they read it: a damaged layer is dropped and made again, a damaged blob is made of its
//! layer or fetched again. So no output writes bytes that are not those of their name.

use std::sync::Arc;

use super::build::Build;
use super::deliver::{Delivered, bring_base};
use super::output::Wanted;
use crate::digest::{DiffId, Digest};
use crate::layer::{self, Form, LayerError};
use crate::store::Store;
use crate::task;
use crate::worker::{LocalWorker, Stack, StackLayer, WorkError};

impl Build {
    /// Sees to it that what the outputs read of `stacks`, which are here but for what is `delivered`, is what it should be.
    ///
    /// What else is wrong is met, and told, by the output itself.
    ///
    /// # Errors
    /// `LayerDamaged`: it has been dropped.
    pub(super) async fn prove_layers(
        &self,
        worker: &Arc<LocalWorker>,
        stacks: &[&Stack],
        delivered: &Delivered,
        (wanted, epoch): (&Wanted, Option<i64>),
    ) -> Result<(), WorkError> {
        if wanted.want_files() {
            for stack in stacks {
                worker.vouch(stack).await?;
            }
        }
        let forms = wanted.forms(epoch);
        let layers = stacks.iter().flat_map(|stack| stack.layers());
        let mut layers: Vec<&StackLayer> = layers.filter(|layer| !delivered.contains_key(&layer.diff_id)).collect();
        layers.sort_by_key(|layer| layer.diff_id);
        layers.dedup_by_key(|layer| layer.diff_id);
        if forms.is_empty() {
            return Ok(());
        }
        let reads = match wanted.write_blobs_here() {
            true => Reads::Here,
            false => Reads::Elsewhere,
        };
        let (mut own, mut bases) = (Vec::new(), Vec::new());
        for layer in layers {
            match &layer.base {
                None => own.push((layer.diff_id, forms.clone())),
                // one that is named after its layer is no blob: the layer was built or imported here, and is compressed for outputs
                Some((base, _)) if base.digest == base.diff_id.0 && self.store.blob_size(&base.digest)?.is_none() => {
                    own.push((layer.diff_id, forms.iter().map(|form| Form { epoch: None, ..*form }).collect()));
                }
                Some((base, image)) => bases.push((base, image)),
            }
        }
        let store = self.store.clone();
        task::blocking(move || layer::each(&own, |(diff_id, forms)| prove(&store, diff_id, forms, reads))).await?;
        if reads == Reads::Elsewhere {
            return Ok(());
        }
        let digests: Vec<Digest> = bases.iter().map(|(base, _)| base.digest).collect();
        let store = self.store.clone();
        let whole = task::blocking(move || {
            layer::each(&digests, |digest| store.is_whole_blob(digest).map(|is_whole| (*digest, is_whole)))
        });
        for (digest, is_whole) in whole.await? {
            let found = bases.iter().find(|(base, _)| base.digest == digest && !is_whole);
            if let Some((base, image)) = found
                && let Some(name) = worker.name_of(image)
            {
                // without it the output makes another of the layer, or says why it cannot
                let _made_up_for = bring_base(&self.store, &self.client, &name, base.digest, base.size_bytes).await;
            }
        }
        Ok(())
    }
}

/// Who reads the blobs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reads {
    /// An output that writes them as they are.
    Here,
    /// Registries, which hash what they are sent.
    Elsewhere,
}

/// Makes the blobs of a layer, so that its files are read and held against its name.
fn prove(store: &Store, diff_id: &DiffId, forms: &[Form], reads: Reads) -> Result<(), WorkError> {
    for form in forms {
        let make = || layer::compressed(store, diff_id, form.encoding, form.epoch);
        let mut made = make();
        if let (Ok(variant), Reads::Here) = (&made, reads)
            && !store.is_whole_blob(&variant.digest)?
        {
            made = make();
        }
        if let Err(LayerError::WrongContent { .. }) = made
            && store.layer(diff_id)?.is_none()
        {
            return Err(WorkError::LayerDamaged(*diff_id));
        }
    }
    Ok(())
}
