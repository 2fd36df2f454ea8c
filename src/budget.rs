//! Budgets: bounded resources that requests reserve before they use them.
//!
//! A [`Budget`] has a name, a unit, and a total amount, for example in bytes or in queue places. A
//! [`Permit`] holds a part of the total and releases this part when the permit is dropped. A permit
//! can grow while a request arrives, and can be split when a request becomes several queue entries.
//! Memory budgets have units of several KiB, because a budget has at most 2^32 - 1 units.
//!
//! What is *not* here: which budgets exist ([`crate::app`], [`crate::batch`]), and the error
//! message for a client if a budget is exhausted ([`crate::error`]).

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout_at;

/// The error of a reservation that exceeds the free amount of a budget. Amounts are in the unit of
/// the budget's total, such as bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("cannot reserve {requested} from the budget `{name}`: {used} of {total} are in use")]
pub struct Exhausted {
    /// Name of the exhausted budget.
    pub name: &'static str,
    /// Amount that the permit would have held, including the amount that the permit already held.
    pub requested: u64,
    /// Amount that all permits of the budget held when the reservation failed.
    pub used: u64,
    /// Total amount of the budget.
    pub total: u64,
}

/// A bounded amount of one resource, such as memory. Clones share the same amount.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    name: &'static str,
    /// Amount that one semaphore permit stands for.
    unit: u64,
    /// Number of semaphore permits of the whole budget.
    permits: AtomicU32,
    free: Arc<Semaphore>,
}

impl Shared {
    /// Returns the number of semaphore permits that cover `amount`, rounded up.
    fn permits_for(&self, amount: u64) -> u32 {
        u32::try_from(amount.div_ceil(self.unit)).unwrap_or(u32::MAX)
    }

    fn permits(&self) -> u32 {
        self.permits.load(Ordering::Acquire)
    }

    fn total(&self) -> u64 {
        u64::from(self.permits()) * self.unit
    }

    fn used(&self) -> u64 {
        let free = self.free.available_permits() as u64;
        u64::from(self.permits()).saturating_sub(free) * self.unit
    }
}

impl Budget {
    /// Creates a budget of the amount `total`, rounded up to a multiple of `unit` (> 0). Amounts
    /// that permits hold are rounded up to a multiple of `unit`, too.
    pub fn new(name: &'static str, unit: u64, total: u64) -> Self {
        let unit = unit.max(1);
        let permits = most_permits(unit, total);
        Self(Arc::new(Shared {
            name,
            unit,
            permits: AtomicU32::new(permits),
            free: Arc::new(Semaphore::new(permits as usize)),
        }))
    }

    /// Raises the budget's total to `total`, rounded up to a multiple of the budget's unit. Does
    /// nothing if the budget already has at least this total.
    pub fn raise_to(&self, total: u64) {
        let permits = most_permits(self.0.unit, total);
        let before = self.0.permits.fetch_max(permits, Ordering::AcqRel);
        self.0
            .free
            .add_permits(permits.saturating_sub(before) as usize);
    }

    /// Lowers the budget's total to `total`, rounded up to a multiple of the budget's unit. Waits for
    /// that until permits hold no more than `total`, but not longer than until `end`. Does nothing
    /// if the budget already has at most this total.
    ///
    /// # Errors
    /// [`Exhausted`] if permits still hold too much at `end`. The total is unchanged in this case.
    pub async fn lower_to(&self, total: u64, end: Instant) -> Result<(), Exhausted> {
        let permits = most_permits(self.0.unit, total);
        // The total is lowered first: a request that reserves the whole budget from now on must not
        // wait for more than will be left.
        let before = self.0.permits.fetch_min(permits, Ordering::AcqRel);
        let surplus = before.saturating_sub(permits);
        if surplus == 0 {
            return Ok(());
        }
        let taken = timeout_at(end.into(), self.0.free.acquire_many(surplus)).await;
        // A budget never closes its semaphore, so only the time can run out.
        if let Ok(Ok(taken)) = taken {
            taken.forget();
            return Ok(());
        }
        self.0.permits.fetch_add(surplus, Ordering::AcqRel);
        Err(self.exhausted(total))
    }

    /// Returns the name of the budget, which is the label `kind` in metrics.
    pub fn name(&self) -> &'static str {
        self.0.name
    }

    /// Returns the total amount of the budget.
    pub fn total(&self) -> u64 {
        self.0.total()
    }

    /// Returns the amount that permits hold now.
    pub fn used(&self) -> u64 {
        self.0.used()
    }

    /// Returns a permit that holds the amount 0; see [`Permit::grow_to`].
    pub fn empty(&self) -> Permit {
        Permit {
            budget: self.clone(),
            held: None,
        }
    }

    /// Reserves `amount` without waiting.
    ///
    /// # Errors
    /// [`Exhausted`] if less than `amount` is free.
    pub fn try_acquire(&self, amount: u64) -> Result<Permit, Exhausted> {
        let mut permit = self.empty();
        permit.grow_by(amount)?;
        Ok(permit)
    }

    /// Waits until `amount` is free, and reserves it. Waiting callers are served in the order of
    /// their calls. If `amount` exceeds the total, the whole budget is reserved, so that a request
    /// larger than the budget runs alone instead of never.
    pub async fn acquire(&self, amount: u64) -> Permit {
        let permits = self.0.permits_for(amount).min(self.0.permits());
        let held = Arc::clone(&self.0.free).acquire_many_owned(permits).await;
        Permit {
            budget: self.clone(),
            // A budget never closes its semaphore, so acquiring cannot fail.
            held: held.ok(),
        }
    }

    fn exhausted(&self, requested: u64) -> Exhausted {
        Exhausted {
            name: self.0.name,
            requested,
            used: self.used(),
            total: self.total(),
        }
    }
}

/// Returns the number of semaphore permits for a budget of the amount `total`, with one permit per
/// `unit` (> 0). A remainder gets one more permit; the number is limited to the semaphore's
/// maximum.
fn most_permits(unit: u64, total: u64) -> u32 {
    let most = Semaphore::MAX_PERMITS.min(u32::MAX as usize) as u64;
    total.div_ceil(unit).min(most) as u32
}

/// A reserved part of a [`Budget`]. Dropping the permit releases this part.
#[derive(Debug)]
pub struct Permit {
    budget: Budget,
    held: Option<OwnedSemaphorePermit>,
}

impl Permit {
    fn permits(&self) -> u32 {
        let held = self.held.as_ref();
        held.map_or(0, OwnedSemaphorePermit::num_permits) as u32
    }

    /// Returns the amount that the permit holds, a multiple of the budget's unit.
    pub fn amount(&self) -> u64 {
        u64::from(self.permits()) * self.budget.0.unit
    }

    /// Reserves `amount` in addition to the amount that the permit already holds.
    ///
    /// # Errors
    /// [`Exhausted`] if less than `amount` is free. The permit is unchanged in this case.
    pub fn grow_by(&mut self, amount: u64) -> Result<(), Exhausted> {
        self.grow_to(self.amount().saturating_add(amount))
    }

    /// Grows the permit to a total of `amount`. Does nothing if the permit already holds `amount`
    /// or more.
    ///
    /// # Errors
    /// [`Exhausted`] if less than the missing amount is free. The permit is unchanged in this case.
    pub fn grow_to(&mut self, amount: u64) -> Result<(), Exhausted> {
        let shared = &self.budget.0;
        let missing = shared.permits_for(amount).saturating_sub(self.permits());
        if missing == 0 {
            return Ok(());
        }
        let more = Arc::clone(&shared.free).try_acquire_many_owned(missing);
        let more = more.map_err(|_| self.budget.exhausted(amount))?;
        match &mut self.held {
            Some(held) => held.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }

    /// Moves `amount` from this permit into a new permit, and returns the new permit. Returns
    /// `None`, and changes nothing, if this permit holds less than `amount`.
    pub fn split(&mut self, amount: u64) -> Option<Self> {
        let permits = self.budget.0.permits_for(amount);
        let held = self.held.as_mut()?.split(permits as usize)?;
        Some(Self {
            budget: self.budget.clone(),
            held: Some(held),
        })
    }
}

/// Budgets whose use is exported as metrics, each with a label. Clones share the same list.
///
/// The list does not keep budgets alive: a budget that its owner dropped disappears from the list.
#[derive(Debug, Clone, Default)]
pub struct BudgetList<L>(Arc<Mutex<Vec<Listed<L>>>>);

#[derive(Debug)]
struct Listed<L> {
    label: L,
    budget: Weak<Shared>,
}

/// Sums of the used and total amounts of all budgets that have the same label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetUse<L> {
    /// Label that the budgets share.
    pub label: L,
    /// Amount that permits hold now, summed over the budgets.
    pub used: u64,
    /// Total amount, summed over the budgets.
    pub total: u64,
}

impl<L: Clone + PartialEq> BudgetList<L> {
    /// Adds `budget` to the list.
    pub fn add(&self, label: L, budget: &Budget) {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|listed| listed.budget.strong_count() > 0);
        let budget = Arc::downgrade(&budget.0);
        list.push(Listed { label, budget });
    }

    /// Returns the used and total amounts of the budgets, summed over budgets of the same label, in
    /// the order in which the labels were added.
    pub fn usage(&self) -> Vec<BudgetUse<L>> {
        let list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut usage: Vec<BudgetUse<L>> = Vec::new();
        for Listed { label, budget } in list.iter() {
            let Some(budget) = budget.upgrade() else {
                continue;
            };
            let (used, total) = (budget.used(), budget.total());
            match usage.iter_mut().find(|seen| seen.label == *label) {
                Some(seen) => {
                    seen.used += used;
                    seen.total += total;
                }
                None => usage.push(BudgetUse {
                    label: label.clone(),
                    used,
                    total,
                }),
            }
        }
        usage
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn amounts_round_up_to_units() {
        let budget = Budget::new("test", 10, 95);
        assert_eq!((budget.used(), budget.total()), (0, 100));
        let permit = budget.try_acquire(11).unwrap();
        assert_eq!((permit.amount(), budget.used()), (20, 20));
        drop(permit);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn an_exhausted_budget_says_how_much_is_used() {
        let budget = Budget::new("test", 10, 100);
        let mut held = budget.try_acquire(60).unwrap();
        let expected = Exhausted {
            name: "test",
            requested: 50,
            used: 60,
            total: 100,
        };
        assert_eq!(budget.try_acquire(50).unwrap_err(), expected);
        assert!(held.grow_to(110).is_err());
        assert_eq!(held.amount(), 60, "a failed growth keeps what was held");
        held.grow_by(40).unwrap();
        assert_eq!(budget.used(), 100);
        held.grow_to(10).unwrap();
        assert_eq!(held.amount(), 100, "growing never shrinks");
    }

    #[test]
    fn a_permit_splits_until_nothing_is_left() {
        let budget = Budget::new("test", 1, 3);
        let mut permit = budget.try_acquire(2).unwrap();
        let first = permit.split(1).unwrap();
        let second = permit.split(1).unwrap();
        assert!(permit.split(1).is_none());
        drop(permit);
        assert_eq!(budget.used(), 2);
        drop(first);
        assert_eq!(budget.used(), 1);
        drop(second);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn more_than_the_total_waits_for_the_whole_budget() {
        let budget = Budget::new("test", 10, 100);
        let held = budget.try_acquire(10).unwrap();
        assert!(budget.acquire(1000).now_or_never().is_none());
        drop(held);
        let all = budget.acquire(1000).now_or_never().unwrap();
        assert_eq!((all.amount(), budget.used()), (100, 100));
    }

    #[test]
    fn a_raised_total_lets_waiting_requests_continue() {
        let budget = Budget::new("test", 10, 100);
        let held = budget.try_acquire(100).unwrap();
        let mut waiting = Box::pin(budget.acquire(25));
        assert!(waiting.as_mut().now_or_never().is_none());
        budget.raise_to(125);
        let more = waiting.now_or_never().unwrap();
        assert_eq!(more.amount(), 30);
        budget.raise_to(20);
        assert_eq!((budget.used(), budget.total()), (130, 130));
        drop((held, more));
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn a_total_is_lowered_when_enough_is_free() {
        let budget = Budget::new("test", 10, 100);
        let held = budget.try_acquire(60).unwrap();
        let now = Instant::now();
        let error = budget.lower_to(50, now).await.unwrap_err();
        assert_eq!((error.requested, error.total), (50, 100));
        budget.lower_to(60, now).await.unwrap();
        assert_eq!((budget.used(), budget.total()), (60, 60));
        assert!(budget.try_acquire(1).is_err());
        let later = now + std::time::Duration::from_hours(1);
        let mut lowering = Box::pin(budget.lower_to(30, later));
        assert!(lowering.as_mut().now_or_never().is_none());
        drop(held);
        lowering.await.unwrap();
        // More than the new total still gets the whole budget.
        let all = budget.acquire(1000).now_or_never().unwrap();
        assert_eq!((all.amount(), budget.total()), (30, 30));
        budget.lower_to(1000, now).await.unwrap();
        assert_eq!(budget.total(), 30, "lowering never raises");
    }

    #[test]
    fn usage_is_summed_by_label_and_forgets_dropped_budgets() {
        let list = BudgetList::default();
        let bodies = Budget::new("bodies", 1, 5);
        let tensors = [Budget::new("tensors", 1, 7), Budget::new("tensors", 1, 9)];
        list.add("bodies", &bodies);
        for budget in &tensors {
            list.add("tensors", budget);
        }
        let _held = tensors.each_ref().map(|budget| budget.try_acquire(2));
        let figures = || {
            let usage = list.usage().into_iter();
            usage
                .map(|u| (u.label, u.used, u.total))
                .collect::<Vec<_>>()
        };
        assert_eq!(figures(), [("bodies", 0, 5), ("tensors", 4, 16)]);
        drop(bodies);
        assert_eq!(figures(), [("tensors", 4, 16)]);
    }
}
