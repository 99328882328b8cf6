//! What is told again and again from one place in the code: a bound for each place, whoever makes it happen.
//!
//! What becomes of datagrams has budgets of its own ([`super::budget`]), and isn't bounded here.

use std::{
    collections::HashMap,
    fmt,
    num::NonZeroU32,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use tracing::{
    Event, Level, Subscriber,
    callsite::Identifier,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Layer};

/// Events of one place in the code: so many at once, and so many a minute.
const AT_ONCE: NonZeroU32 = NonZeroU32::new(100).unwrap();
const PER_MINUTE: NonZeroU32 = NonZeroU32::new(10).unwrap();
/// Where events have budgets of their own.
const BUDGETED: [&str; 2] = ["knockd::telemetry::line", "knockd::control::audit"];

static RATES: LazyLock<DefaultKeyedRateLimiter<Identifier>> =
    LazyLock::new(|| RateLimiter::hashmap(Quota::per_minute(PER_MINUTE).allow_burst(AT_ONCE)));
/// What was held back, by place: its name, and how often.
static HELD: Mutex<Option<HashMap<Identifier, (String, u64)>>> = Mutex::new(None);

/// Whether anything is held back.
pub(super) fn hold_back() -> bool {
    held().is_some()
}

/// What was held back since the last time: names of events, and how often.
pub(super) fn take() -> Vec<(String, u64)> {
    held().take().unwrap_or_default().into_values().collect()
}

fn held() -> MutexGuard<'static, Option<HashMap<Identifier, (String, u64)>>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has a layer told what is within the bound of its place. There are no spans that it would have to hear of.
///
/// No filter of `tracing_subscriber`'s: one that refuses a single event there spoils the next one.
#[derive(Debug)]
pub(super) struct Bounded<L> {
    layer: L,
    /// At debug everything is told.
    level: Level,
}

impl<L> Bounded<L> {
    /// Bounds what this layer is told at this level.
    pub(super) const fn new(layer: L, level: Level) -> Self {
        Self { layer, level }
    }

    fn may_pass(&self, event: &Event<'_>) -> bool {
        let metadata = event.metadata();
        if self.level >= Level::DEBUG
            || metadata.module_path().is_some_and(|module| BUDGETED.contains(&module))
            || RATES.check_key(&metadata.callsite()).is_ok()
        {
            return true;
        }
        let mut held = held();
        let places = held.get_or_insert_default();
        let (_, times) = places.entry(metadata.callsite()).or_insert_with(|| (name(event), 0));
        *times += 1;
        false
    }
}

impl<S: Subscriber, L: Layer<S>> Layer<S> for Bounded<L> {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if self.may_pass(event) {
            self.layer.on_event(event, context);
        }
    }
}

/// The value of the field `event`.
fn name(event: &Event<'_>) -> String {
    struct Name(String);
    impl Visit for Name {
        fn record_str(&mut self, field: &Field, value: &str) {
            if field.name() == "event" {
                value.clone_into(&mut self.0);
            }
        }

        fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
    }
    let mut name = Name(String::new());
    event.record(&mut name);
    name.0
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::{
        super::{
            journal::Journal,
            queue::{Next, Queue},
        },
        *,
    };

    #[test]
    fn what_is_told_again_and_again_from_one_place_is_bounded_and_another_place_tells() {
        let queue = Arc::new(Queue::default());
        let journal = Bounded::new(Journal(Arc::clone(&queue)), Level::INFO);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(journal), || {
            for _ in 0..1_000 {
                tracing::error!(event = "again-and-again", "x");
            }
            tracing::info!(event = "another-one", "x");
        });
        let mut told = Vec::new();
        loop {
            let Next::Tell(message) = queue.next() else { panic!("all fits") };
            let text = String::from_utf8_lossy(&message.bytes).into_owned();
            if text.contains("another-one") {
                break;
            }
            told.push(text);
        }
        assert!((100..110).contains(&told.len()), "{}", told.len());
        assert!(hold_back());
        let held = take().into_iter().find(|(name, _)| name == "again-and-again").unwrap();
        assert_eq!(held.1, 1_000 - told.len() as u64);
    }
}
