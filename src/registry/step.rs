//! What happens to each variant of a model that is replaced.

use std::sync::Arc;

use super::LoadedModel;
use super::entry::{Entry, LoadState};
use super::find::Offer;

/// What an operator loads.
pub(super) struct Target {
    pub(super) variant: String,
    /// Whether the operator has named the model without a variant: then its other variants may be
    /// loaded on first use again.
    pub(super) whole: bool,
}

/// What happens to a variant when its model is replaced.
pub(super) enum Step {
    /// The entry stays as it is.
    Keep(Arc<Entry>),
    /// The network is loaded.
    Load,
    /// The network is loaded when it is first requested.
    Later,
    /// The network stays unloaded, as an operator decided.
    Unloaded,
}

impl Step {
    /// Returns what to do with the variant `offer` of a model that had the entries `before`. `same`
    /// states whether the model has not changed, `target` is what an operator loads.
    pub(super) fn of(
        offer: &Offer,
        before: &[Arc<Entry>],
        same: bool,
        target: Option<&Target>,
    ) -> Self {
        let variant = &offer.source.variant;
        if target.is_some_and(|target| target.variant == *variant) {
            return Self::Load;
        }
        let whole = target.is_some_and(|target| target.whole);
        let mut entries = before.iter();
        let old = entries.find(|entry| entry.source().variant == *variant);
        match old {
            Some(old) if whole && is_unloaded(old) => Self::Later,
            Some(old) if same => Self::Keep(Arc::clone(old)),
            Some(old) => match old.state() {
                LoadState::Loaded | LoadState::Loading => Self::Load,
                LoadState::Unloaded => Self::Unloaded,
                LoadState::Failed if offer.at_start => Self::Load,
                LoadState::NotLoaded | LoadState::Failed => Self::Later,
            },
            // A variant of a model that an operator has unloaded is not loaded either.
            None if !whole && !before.is_empty() && before.iter().all(is_unloaded) => {
                Self::Unloaded
            }
            None if offer.at_start => Self::Load,
            None => Self::Later,
        }
    }

    /// Returns the new entry of `offer`. Takes a network from `loaded` if it was to be loaded, and
    /// returns `None` if there is none left.
    pub(super) fn entry(
        &self,
        offer: &Offer,
        loaded: &mut impl Iterator<Item = LoadedModel>,
    ) -> Option<Arc<Entry>> {
        let (source, plan) = (offer.source.clone(), offer.plan);
        Some(match self {
            Self::Keep(entry) => Arc::clone(entry),
            Self::Load => Arc::new(Entry::loaded(source, loaded.next()?)),
            Self::Later => Arc::new(Entry::new(source, plan)),
            Self::Unloaded => Arc::new(Entry::unloaded(source, plan)),
        })
    }
}

fn is_unloaded(entry: &Arc<Entry>) -> bool {
    entry.state() == LoadState::Unloaded
}
